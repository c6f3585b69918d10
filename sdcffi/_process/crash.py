"""Tell why an engine's process has ended, from its exit status and from what the guard wrote before it.

The guard writes, each on a line of its own: ``sdcffi-assert: MESSAGE``, ``sdcffi-signal: NAME``, then
``sdcffi-backtrace:`` with a line for each frame, ``sdcffi-log:`` with log lines, and ``sdcffi-end``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

from ..errors import NativeCrashError
from .messages import Crashed

__all__ = ["crash_error"]

_MARKS = ("sdcffi-assert:", "sdcffi-signal:", "sdcffi-backtrace:", "sdcffi-log:", "sdcffi-end")
_SHOWN_OUTPUT = 1000  # characters of what a library wrote before it ended the process


def crash_error(crash: Crashed, log: tuple[str, ...], parameters: object) -> NativeCrashError:
    """Make the exception of a crash.

    Parameters
    ----------
    crash : Crashed
        Exit status and output.
    log : tuple of str
        The last lines of the native log that came through the pipe.
    parameters : object
        Of the call.

    Returns
    -------
    NativeCrashError
    """
    sections = dict(_sections(crash.output))
    told = " ".join(sections.get("sdcffi-signal:", ())).strip()  # Windows has it only here
    name = _signal_name(crash.exit_code) or told or None
    assertion = " ".join(sections.get("sdcffi-assert:", ())).strip()
    rest = "\n".join(sections.get("", ())).strip()
    return NativeCrashError(
        f"the engine's process {_how(crash.exit_code, name)}{_why(name, assertion, rest)}",
        log or tuple(sections.get("sdcffi-log:", ())[1:]),
        signal=name,
        exit_code=crash.exit_code,
        assertion=assertion,
        backtrace=tuple(line.strip() for line in sections.get("sdcffi-backtrace:", ()) if line.strip()),
        output=crash.output,
        parameters=parameters,
    )


def _sections(output: str) -> Iterator[tuple[str, list[str]]]:
    mark, lines = "", list[str]()
    before: list[str] = lines
    for line in output.splitlines():
        begun = next((item for item in _MARKS if line.startswith(item)), None)
        if begun is None:
            lines.append(line)
            continue
        if mark:
            yield mark, lines
        mark = "" if begun == "sdcffi-end" else begun
        lines = [line.removeprefix(begun)] if mark else before
    if mark:
        yield mark, lines
    yield "", before


def _signal_name(exit_code: int) -> str | None:
    if exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _how(exit_code: int, name: str | None) -> str:
    return f"was ended by {name}" if name else f"exited with status {exit_code}"


def _why(name: str | None, assertion: str, rest: str) -> str:
    if assertion:
        return f": {assertion}"
    if rest:
        return f", after it wrote: {rest[-_SHOWN_OUTPUT:]}"
    if name == "SIGKILL":
        return ": somebody killed it, or the system for want of memory"
    return ""
