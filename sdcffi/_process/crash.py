"""Explain why an engine's process has ended, by its exit status and by what the guard wrote before.

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
_SHOWN_OUTPUT = 1000  # characters of the output before the process ended


def crash_error(crash: Crashed, log: tuple[str, ...], parameters: object) -> NativeCrashError:
    """Return the exception for a crash.

    Parameters
    ----------
    crash : Crashed
        Exit status and output.
    log : tuple of str
        The last lines of the native log that came through the pipe.
    parameters : object
        Parameters of the call.

    Returns
    -------
    NativeCrashError
    """
    sections = dict(_sections(crash.output))
    reported = " ".join(sections.get("sdcffi-signal:", ())).strip()  # on Windows the only source
    name = _signal_name(crash.exit_code) or reported or None
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
        return f"; its last output was: {rest[-_SHOWN_OUTPUT:]}"
    if name == "SIGKILL":
        return ": killed by a user or by the out-of-memory killer"
    return ""
