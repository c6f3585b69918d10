"""Where the child process starts: with what interpreter, descriptors and variables, or why it does not."""

from __future__ import annotations

import multiprocessing.spawn
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leftovers import PATIENCE, nothing_left
from PIL import Image
from programs import PRELUDE, environment, running
from tiny_model import TinyModel

from sdcffi import Engine, SDError, canny
from sdcffi._process import attended, launch

OpenEngine = Callable[..., Engine]
SMALL = np.zeros((64, 64, 3), np.uint8)
ADVICE = r"multiprocessing\.set_executable\(path\), or use isolated=False"

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs scripts and descriptors of POSIX")


@pytest.fixture(autouse=True)
def executable() -> Iterator[None]:
    """Whatever a test sets, the next one has this interpreter."""
    before = multiprocessing.spawn.get_executable()
    yield
    multiprocessing.set_executable(os.fsdecode(before))


def program(directory: Path, text: str) -> str:
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# The interpreter


@posix
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 0", "exited with status 0"),
        ("echo what is this; exit 3", "exited with status 3, and its last output was: what is this"),
        ("sleep 300", "did not begin as the engine's process within 0.5 seconds"),
        (
            "head -c 2000000 /dev/zero; sleep 300",
            "wrote 1 MiB and did not begin as the engine's process; it is perhaps no",
        ),
    ],
    ids=["ends", "complains", "hangs", "floods"],
)
@pytest.mark.parametrize("how", ["sys", "multiprocessing"])
def test_a_program_that_is_no_python_is_an_error_that_says_what_to_do(
    how: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attended, "_HELLO_SECONDS", 0.5)
    path = program(tmp_path, text)
    if how == "sys":
        monkeypatch.setattr(sys, "executable", path)
    multiprocessing.set_executable(path)
    started = time.monotonic()
    with nothing_left(tmp_path), pytest.raises(SDError, match=f"{message}.*{ADVICE}"):
        canny(SMALL)
    assert time.monotonic() - started < PATIENCE


@posix
def test_another_python_is_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attended, "HELLO", b"sdcffi on Python 2.7")
    with pytest.raises(SDError, match=r"is another Python than this one.*Python 2\.7"):
        canny(SMALL)


@pytest.mark.parametrize("own", ["", None])
def test_without_an_executable_the_base_interpreter_is_taken_or_it_is_an_error(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiprocessing.set_executable(sys.executable)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", own)
    monkeypatch.setattr(sys, "executable", own)
    assert canny(SMALL).shape == SMALL.shape
    monkeypatch.setattr(sys, "_base_executable", own)
    with pytest.raises(SDError, match=f"there is no Python interpreter.*{ADVICE}"):
        canny(SMALL)


def test_what_an_embedding_program_has_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    multiprocessing.set_executable(python := sys.executable)
    monkeypatch.setattr(sys, "executable", "/no/interpreter")
    assert canny(SMALL).shape == SMALL.shape
    assert launch._executable() == python


@posix
@pytest.mark.parametrize(
    "variables", [{"PYTHONEXECUTABLE": "/no/interpreter"}, {"PYTHONEXECUTABLE": "/bin/true"}], ids=["missing", "other"]
)
def test_variables_of_python_do_not_mislead_the_child(
    variables: dict[str, str], tiny_model: TinyModel, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + "from sdcffi import canny\ncanny(np.zeros((64, 64, 3), np.uint8))\ntell('well')")
    found = environment(tiny_model)
    found["PYTHONPATH"] = os.pathsep.join([found["PYTHONPATH"], *sys.path])  # a venv does not find its packages then
    done = subprocess.run([sys.executable, str(script)], env={**found, **variables}, capture_output=True, text=True)
    assert done.stdout.split() == ["well"], done.stderr


@posix
def test_an_interpreter_that_ignores_its_variables_has_a_child_that_does(tiny_model: TinyModel, tmp_path: Path) -> None:
    paths = f"sys.path[:0] = {environment(tiny_model)['PYTHONPATH'].split(os.pathsep)!r}\n"
    script = tmp_path / "script.py"
    script.write_text(f"import sys\n{paths}{PRELUDE}from sdcffi import canny\ncanny(np.zeros((64, 64, 3), np.uint8))\n")
    variables = {**environment(tiny_model), "PYTHONHOME": "/no/library"}
    done = subprocess.run([sys.executable, "-E", str(script)], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Descriptors

_CLOSED = """
with Engine(**MODEL, isolated=ISOLATED) as engine:
    result = engine.generate(**DRAW)
    result = engine.generate(**{**DRAW, "width": 128, "height": 128}, init_image=np.zeros((128, 128, 3), np.uint8))
    result.save("cat.png")
open("said", "w").write(str(len(result.arrays)))
"""


CLOSED = ["<&- >&- 2>&-", *(pytest.param(closed, marks=pytest.mark.slow) for closed in ("<&-", ">&-", "2>&-"))]


@posix
@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("closed", CLOSED)
def test_standard_descriptors_may_be_closed(closed: str, isolated: bool, tiny_model: TinyModel, tmp_path: Path) -> None:
    code = f"ISOLATED = {isolated}\n{_CLOSED}"
    with running(code, tiny_model, tmp_path, before=["sh", "-c", f'"$@" {closed}', "sh"]) as running_program:
        running_program.end()
    assert (tmp_path / "said").read_text() == "1"
    with Image.open(tmp_path / "cat.png") as image:
        assert image.size == (128, 128)


@posix
@pytest.mark.parametrize("closed", CLOSED)
def test_the_command_line_runs_with_closed_descriptors(closed: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    files = tiny_model.engine_arguments()
    words = [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    command = [
        sys.executable,
        "-m",
        "sdcffi",
        "generate",
        *words,
        "-p",
        "a cat",
        "-W",
        "64",
        "-H",
        "64",
        "--steps",
        "1",
    ]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command, "--backend", "cpu", "-o", "cat.png"],
        env=environment(tiny_model),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("isolated", [True, False])
def test_without_threads_it_is_an_error_that_says_so(isolated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(SDError, match="a thread for the engine cannot be started"):
            canny(SMALL, isolated=isolated)
    assert canny(SMALL, isolated=isolated).shape == SMALL.shape


# Ctrl-C before there is anything to stop

_SLOW_IMPORT = """\
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == NAME:
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Finder())
sys.argv = ["sdcffi", "--version"]
from sdcffi.__main__ import main
sys.exit(main())
"""


@posix
@pytest.mark.parametrize("name", ["sdcffi.cli", "sdcffi.cli._flags"])
def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback(name: str, tiny_model: TinyModel) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"NAME = {name!r}\n{_SLOW_IMPORT}"],
        env=environment(tiny_model),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(2)
    _output, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, "sdcffi: error: interrupted\n")
