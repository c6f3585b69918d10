"""A battery of faults: killed, starved of memory and disk, interrupted. After each the next call draws as before, and
nothing is left. The quick run has one sample of each kind, the slow one all of them, counted.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leftovers import is_running, nothing_left, wait_until
from places import HELPERS
from programs import Program, running
from tiny_model import TinyModel

from sdcffi import Engine, Log, NativeCrashError, Progress, SDError
from sdcffi.events import Event

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
LONG = {"width": 384, "height": 384}  # a decode that lasts until what is heard before it has acted
Pixels = np.ndarray[Any, Any]

if sys.platform != "linux":
    pytest.skip("limits are set and leftovers counted as only Linux can", allow_module_level=True)
else:
    import resource

slow = pytest.mark.slow


# Killed


def is_gone(pid: int) -> bool:
    return not is_running(pid)


MOMENTS: dict[str, Callable[[Event], bool]] = {
    "load": lambda event: isinstance(event, Progress) and event.phase == "load" and event.step > 10,
    "encode": lambda event: isinstance(event, Log) and "split prompt" in event.text,
    "step 0": lambda event: isinstance(event, Progress) and (event.phase, event.step) == ("sample", 0),
    "step 1": lambda event: isinstance(event, Progress) and (event.phase, event.step) == ("sample", 1),
    "step 2": lambda event: isinstance(event, Progress) and (event.phase, event.step) == ("sample", 2),
    "decode": lambda event: isinstance(event, Log) and "decoding 1 latents" in event.text,
}


@pytest.mark.parametrize("moment", [pytest.param(name, marks=[] if name == "decode" else slow) for name in MOMENTS])
def test_a_child_killed_at_any_moment_costs_one_call(moment: str, engine: Engine, expected: Pixels) -> None:
    rounds = 1 if moment == "decode" else 5

    def hear(event: Event) -> None:
        if MOMENTS[moment](event) and engine.pid:
            os.kill(engine.pid, signal.SIGKILL)

    for number in range(rounds):
        if moment == "load":  # which is part of the call after the child has died
            pid = engine.pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            assert wait_until(functools.partial(is_gone, pid))
        with pytest.raises(NativeCrashError, match="SIGKILL"):
            engine.generate(**{**DRAW, "seed": number, **LONG}, on_log=hear, on_progress=hear)
        assert np.array_equal(engine.generate(**DRAW).arrays[0], expected)


def without_workers(program: Program) -> bool:
    return not program.workers()


_PARENT = """
tell("begins")
with Engine(**MODEL) as engine:
    while True:
        engine.generate(**DRAW)
"""


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=slow)])
def test_a_parent_killed_at_any_time_leaves_nothing(rounds: int, tiny_model: TinyModel, tmp_path: Path) -> None:
    times = random.Random(20)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with nothing_left(temporary):
        for _ in range(rounds):
            with running(_PARENT, tiny_model, tmp_path) as program:
                program.wait_for("begins")
                time.sleep(times.uniform(0, 2))
                orphans = len(program.workers())
                program.kill()
                assert wait_until(functools.partial(without_workers, program), 5), f"{orphans} outlive their parent"


# Starved

MIB = 1 << 20


@pytest.mark.parametrize("spare", [8, *(pytest.param(size, marks=slow) for size in (0, 2, 32, 64, 128, 512))])
def test_a_child_without_memory_costs_one_call(spare: int, engine: Engine) -> None:
    assert engine.pid
    pid = engine.pid
    _soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (used + spare * MIB, hard))
    failed = False
    try:
        engine.generate(**{**DRAW, "width": 256, "height": 256, "prompt": f"a cat with {spare} MiB"})
    except SDError:
        failed = True
    assert failed or spare >= 64, "the limit did nothing"  # text encoder and decoder take 56 MiB each
    if engine.pid == pid and is_running(pid):
        resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))


_LOADS = """
import resource
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
for spare in SPARES:
    resource.setrlimit(resource.RLIMIT_AS, (used + spare * (1 << 20), hard))
    try:
        Engine(**MODEL).close()
        outcome = "loaded"
    except SDError as error:
        outcome = type(error).__name__
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    tell("with", spare, outcome)
with Engine(**MODEL) as engine:
    tell("well", len(engine.generate(**DRAW).arrays))
"""


@pytest.mark.parametrize("spares", [[0], pytest.param([2, 8, 32, 64, 96, 128, 192, 256, 384, 512, 1024], marks=slow)])
def test_loading_without_memory_is_an_error(spares: list[int], tiny_model: TinyModel, tmp_path: Path) -> None:
    with running(f"SPARES = {spares}\n{_LOADS}", tiny_model, tmp_path) as program:
        *outcomes, last = [line.split() for line in program.end().splitlines()]
    print(outcomes)
    assert [int(words[1]) for words in outcomes] == spares
    assert outcomes[0][2] != "loaded", "the limit did nothing"
    assert last == ["well", "1"]


_FULL = """
import errno
def full(path):
    try:
        with open(path, "wb") as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        return error.errno == errno.ENOSPC
assert full("/dev/shm/more"), "/dev/shm is not full"
os.unlink("/dev/shm/more")
start = np.zeros((128, 128, 3), np.uint8)
with Engine(**MODEL) as engine:
    previews = []
    result = engine.generate(**{**DRAW, "width": 128, "height": 128}, init_image=start, on_preview=previews.append)
    tell("drawn", result.arrays[0].shape[0])
open("full/cat.png", "w").write("old")
try:
    result.save("full/cat.png")
except OSError as error:
    tell("save", errno.errorcode[error.errno])
tell("directory", *os.listdir("full"), open("full/cat.png").read())
"""
_MOUNT = """\
mount -t tmpfs -o size=16k none full && mount -t tmpfs -o size=4k none /dev/shm &&
head -c 4096 /dev/zero > /dev/shm/full && exec "$@"
"""


def test_a_full_dev_shm_does_not_matter_and_a_full_disk_leaves_the_old_picture(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("a full disk is made in a mount namespace, which is not allowed here")
    (tmp_path / "full").mkdir()
    with running(_FULL, tiny_model, tmp_path, before=[*unshare, "sh", "-c", _MOUNT, "sh"]) as program:
        output = program.end().splitlines()
    assert output == ["drawn 128", "save ENOSPC", "directory cat.png old"]


def test_a_save_that_cannot_write_leaves_the_old_picture(engine: Engine, tmp_path: Path) -> None:
    result = engine.generate(**DRAW)
    path = tmp_path / "cat.png"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            result.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cat.png", "temporary"]
    result.save(path)
    assert path.stat().st_size > 1024


# Interrupted

_INTERRUPTED = """
import gc, random
from collections import Counter
sys.path += TESTS
from leftovers import holdings, wait_until
times = random.Random(100)
engine = Engine(**MODEL)
before = digest(engine.generate(**DRAW))
started = time.monotonic()
assert digest(engine.generate(**DRAW)) == before
seconds = time.monotonic() - started
held = holdings()
counts, slowest = Counter(), 0.0

def interrupt(delay):
    global sent
    time.sleep(delay)
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

def load():
    with Engine(**MODEL) as other:
        assert digest(other.generate(**DRAW)) == before

def draw():
    assert digest(engine.generate(**DRAW)) == before

for number in range(ROUNDS):
    act, longest = (load, seconds + 1.5) if number % 10 == 9 else (draw, 1.1 * seconds)
    outcome = "interrupted"
    thread = threading.Thread(target=interrupt, args=[times.uniform(0, longest)])
    try:
        thread.start()
        act()
        outcome = "finished"
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        slowest = max(slowest, time.monotonic() - sent)
    thread.join()
    counts[outcome] += 1
    pid = engine.pid
    draw()
    counts["restarts"] += engine.pid != pid
    gc.collect()
    assert wait_until(lambda: not holdings() - held), (number, holdings() - held)
tell("counts", counts["interrupted"], counts["finished"], counts["restarts"], slowest)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=slow)])
def test_ctrl_c_at_any_time_is_an_interrupt_or_a_finished_picture(
    rounds: int, tiny_model: TinyModel, tmp_path: Path
) -> None:
    code = f"ROUNDS, TESTS = {rounds}, {HELPERS!r}\n{_INTERRUPTED}"
    with running(code, tiny_model, tmp_path) as program:
        interrupted, finished, restarts, slowest = map(float, program.wait_for("counts"))
        assert program.end() == ""
    counts = Counter(interrupted=int(interrupted), finished=int(finished), restarts=int(restarts))
    print(dict(counts), f"control back within {slowest:.2f} s")
    assert interrupted + finished == rounds
    assert interrupted > 0
    assert slowest < 3, "control did not come back"
