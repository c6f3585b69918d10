"""Run commands: all output goes to a log file, progress to the terminal, and useful lines into the error."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import BuildError

NO_SPACE = "No space left on device"
_PROGRESS = re.compile(r"^\[(\d+)/(\d+)\]")
_USEFUL = re.compile(r"\berror\b|^FAILED:|undefined reference|CMake Error|ninja: |" + NO_SPACE, re.IGNORECASE)


def say(text: str) -> None:
    """Print what happens now."""
    print(f"sdcffi: {text}", file=sys.stderr, flush=True)


class DiskFullError(BuildError):
    """A command failed because the disk is full."""


def run_captured(
    command: Sequence[str], failure: str, *, stdin: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """Run a short command and return its standard output.

    Raises
    ------
    BuildError
        If it failed or could not start; the message has `failure`, the command and its last lines.
    """
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment
        )
    except OSError as error:
        raise BuildError(f"{failure}: `{shlex.join(command)}`: {error}") from error
    if done.returncode:
        raise _failure(f"{failure}: `{shlex.join(command)}` failed", (done.stdout + done.stderr).splitlines()[-10:])
    return done.stdout


_PIP = ("USER", "TARGET", "PREFIX", "ROOT", "DRY_RUN", "NO_DEPS", "REQUIREMENT", "PYTHON", "BUILD_TRACKER")


def pip_environment() -> dict[str, str]:
    """Return the environment without the variables that send what pip installs elsewhere, or nowhere.

    The tracker belongs to the pip that may be running us; a nested pip must not share it.
    """
    dropped = {f"PIP_{name}" for name in _PIP}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def run_logged(command: Sequence[str], log: Path, environment: Mapping[str, str], *, verbose: bool = False) -> None:
    """Run `command`, append its output to `log`, and report the progress of ninja at every tenth.

    Raises
    ------
    BuildError
        If it failed; the message has the useful lines and the path of the log.
    """
    lines: list[str] = []
    with log.open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"$ {shlex.join(command)}\n")
        pipe, out, nothing = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
        with subprocess.Popen(
            command, stdin=nothing, stdout=pipe, stderr=out, env=environment, encoding="utf-8", errors="replace"
        ) as process:
            try:
                _follow(process, file.write, lines, verbose)
            except BaseException:  # above all Ctrl-C: nothing may continue in the build directory
                process.terminate()
                raise
    if process.returncode:
        useful = [line for line in lines if _USEFUL.search(line)] or lines
        raise _failure(f"`{shlex.join(command)}` failed; the full log is {log}", useful[-20:])


def _follow(process: subprocess.Popen[str], write: Callable[[str], object], lines: list[str], verbose: bool) -> None:
    assert process.stdout is not None
    tenth = 0
    for line in process.stdout:
        write(line)
        lines.append(line.rstrip())
        if verbose:
            print(line, end="", file=sys.stderr, flush=True)
        elif (match := _PROGRESS.match(line)) and int(match[1]) * 10 // int(match[2]) > tenth:
            tenth = int(match[1]) * 10 // int(match[2])
            say(f"  {match[1]} of {match[2]} steps")


def _failure(message: str, lines: Sequence[str]) -> BuildError:
    kind = DiskFullError if any(NO_SPACE in line for line in lines) else BuildError
    return kind("\n".join([message, *(f"  {line}" for line in lines)]))
