"""Run a program and see how long it took and how much memory it had at most."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Without it the engine forks a debugger onto a process that ends badly.
ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}


class ContenderError(Exception):
    """A program that is measured failed; the message ends with what it said last."""


@dataclass(frozen=True)
class Finished:
    """What a process said, its seconds from start to end, and its peak of resident memory in bytes."""

    said: str
    seconds: float
    memory: float


def run_measured(command: list[str]) -> Finished:
    """Run a command to its end."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **ENVIRONMENT})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode != 0:
        raise ContenderError(f"{' '.join(command)} exited with {process.returncode}:\n{said[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(said, seconds, usage.ru_maxrss * unit)


def peak_memory(pid: int | str = "self") -> float:
    """Peak of resident memory of a process so far, in bytes (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Another process that keeps one core busy, the first of those that this one may use."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()
