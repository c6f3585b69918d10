"""What goes between the side that calls and the side that works, and what a side that works can do.

The side that works (a thread or a child process) sees a `Job`; the side that waits receives its messages: events in
order, then one of `Done`, `Failed` and `Crashed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..events import Event

__all__ = ["Crashed", "Done", "Failed", "Message", "Runner"]


@dataclass(frozen=True)
class Done:
    """The operation's result."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """What the operation raised."""

    error: BaseException


@dataclass(frozen=True)
class Crashed:
    """The process that worked has ended.

    Attributes
    ----------
    exit_code : int
        As `subprocess` has it: a negative one is a signal's number.
    output : str
        What it wrote to its standard output and error during the call.
    """

    exit_code: int
    output: str


Message: TypeAlias = Event | Done | Failed | Crashed


class Runner(Protocol):
    """Runs a session's operations one after another, elsewhere than on the caller's thread."""

    @property
    def alive(self) -> bool:
        """Whether there is a session, as opened before."""

    @property
    def busy(self) -> bool:
        """Whether an operation was begun whose outcome has not been received."""

    @property
    def pid(self) -> int | None:
        """The number of the process that works, if it is another one."""

    def open(self) -> None:
        """Make a new session, with nothing loaded."""

    def start(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Begin an operation."""

    def receive(self, seconds: float) -> Message | None:
        """Give its next message, None if there is none for so long."""

    def cancel(self) -> None:
        """Ask the operation to stop; it then ends with a `CancelledError`. Any thread."""

    def kill(self) -> bool:
        """End the session at once; False where only a process could be ended."""

    def close(self) -> None:
        """End the session and give everything back. Any thread; a second call does nothing."""
