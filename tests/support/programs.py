"""Run small programs that use the package as a user's would: a script without a main guard, ``-c``, standard input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leftovers import processes_with, wait_until
from tiny_model import TinyModel

import sdcffi

_LIMIT = 240.0  # seconds after which a program that hangs is ended

# SIGINT: a shell starts its background jobs with it ignored.
PRELUDE = """\
import hashlib, json, os, signal, sys, threading, time
import numpy as np
from sdcffi import Engine, SDError
signal.signal(signal.SIGINT, signal.default_int_handler)
MODEL = {**json.loads(os.environ["SDCFFI_TEST_MODEL"]), "threads": 1, "backend": "cpu"}
DRAW = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
def tell(*words):
    print(*words, flush=True)
def digest(result):
    return hashlib.sha256(np.stack(result.arrays).tobytes()).hexdigest()
"""


def environment(model: TinyModel) -> dict[str, str]:
    """What a program finds the package and the model with."""
    root = str(Path(sdcffi.__file__).resolve().parents[1])
    arguments = {name: str(path) for name, path in model.engine_arguments().items()}
    return {**os.environ, "PYTHONPATH": root, "SDCFFI_TEST_MODEL": json.dumps(arguments)}


class Program:
    """A running program, in a process group of its own as a terminal's foreground job is."""

    def __init__(self, command: list[str], variables: dict[str, str], directory: Path, text: str | None) -> None:
        self.mark = f"SDCFFI_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        self._process = subprocess.Popen(
            command,
            env={**variables, name: value, "TMPDIR": str(directory)},
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        if text is not None:
            self._process.stdin.write(text)
            self._process.stdin.close()
        self._output = self._process.stdout
        self._watchdog = threading.Timer(_LIMIT, self._process.kill)
        self._watchdog.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, word: str) -> list[str]:
        """Read until a line that begins with `word`; give the line's other words."""
        seen = []
        for line in self._output:
            seen.append(line)
            if line.split()[:1] == [word]:
                return line.split()[1:]
        raise AssertionError(f"the program ended without {word!r}:\n{''.join(seen)}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def interrupt_group(self) -> None:
        """What a terminal does at Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def workers(self) -> list[int]:
        """Its running child processes, also when it is gone itself."""
        return [pid for pid in processes_with(self.mark) if pid != self.pid]

    def end(self) -> str:
        """Wait until it has ended well, with nothing left; give what it wrote since."""
        output = self._output.read()
        assert self._process.wait() == 0, f"exit status {self._process.returncode}:\n{output}"
        assert wait_until(lambda: not self.workers()), f"still there: {self.workers()}"
        return output

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def dispose(self) -> None:
        self._watchdog.cancel()
        self.kill()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        assert self._process.stdin
        self._process.stdin.close()
        self._output.close()


@contextmanager
def running(
    code: str, model: TinyModel, directory: Path, how: str = "script", before: list[str] | None = None
) -> Iterator[Program]:
    """Run `code` after the prelude in `directory`.

    Parameters
    ----------
    how : str
        ``"script"``, ``"-c"`` or ``"-"`` (from standard input).
    before : list of str, optional
        Words of a command that runs the interpreter, such as ``["unshare", "--mount"]``.
    """
    whole = PRELUDE + code
    script = directory / "program.py"
    script.write_text(whole)
    arguments = {"script": [str(script)], "-c": ["-c", whole], "-": ["-"]}[how]
    command = [*(before or []), sys.executable, *arguments]
    program = Program(command, environment(model), directory, whole if how == "-" else None)
    try:
        yield program
    finally:
        program.dispose()
