"""Count what a process holds and what it has left on the machine, so that a test can show that nothing was added."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 30.0  # seconds for what other processes do; a bound on a busy machine, never waited for in full


def wait_until(reached: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Look again and again; report whether it came about in time."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _stat(pid: int | str) -> list[str]:
    """State, parent, ... of a process, as in /proc/PID/stat after the name; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie; one whose other threads are still ending cannot be waited for yet."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    stat = _stat(pid)
    return bool(stat) and not (stat[0] in "ZX" and int(stat[17]) <= 1)


def children(parent: int | None = None) -> list[int]:
    """Child processes, dead ones that were not waited for too."""
    wanted = str(parent or os.getpid())
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _stat(name)[1:2] == [wanted]]


def processes_with(mark: str) -> list[int]:
    """Running processes in whose environment `mark` stands (the test puts it there), whoever their parent is."""
    found = []
    for name in os.listdir("/proc"):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes() if name.isdecimal() else b""
        except OSError:
            continue
        if mark.encode() in environment and is_running(int(name)) and int(name) != os.getpid():
            found.append(int(name))
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process has for itself, shared files left out."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
        except OSError:  # the one that lists the directory
            continue


def holdings() -> Counter[str]:
    """Count children, threads, descriptors and shared mappings of this process, shared-memory and temporary files."""
    held = Counter({"child": len(children())})
    held.update("thread" for thread in threading.enumerate() if thread.name.startswith("sdcffi"))
    held.update("descriptor " + kind for kind in _descriptors())
    with open("/proc/self/maps") as maps:
        held.update("mapping" for line in maps if "memfd:" in line or "/dev/shm" in line)
    ours = ("psm_", "sem.", "sdcffi")  # what Python's multiprocessing makes there; other programs use it, too
    held.update("/dev/shm/" + name for name in os.listdir("/dev/shm") if name.startswith(ours))
    held.update("temporary " + name for name in os.listdir(tempfile.gettempdir()))
    return held


@contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    """Check that the block adds nothing to the holdings; temporary files go to `directory` meanwhile."""
    if sys.platform != "linux":
        yield
        return
    before_directory, tempfile.tempdir = tempfile.tempdir, str(directory)
    before_variable, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), str(directory)
    try:
        gc.collect()
        before = holdings()
        yield
        gc.collect()
        assert wait_until(lambda: not holdings() - before), f"left behind: {dict(holdings() - before)}"
    finally:
        tempfile.tempdir = before_directory
        if before_variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before_variable
