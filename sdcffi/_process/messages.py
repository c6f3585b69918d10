"""Messages between the calling side and the working side, and the interface of the working side.

The working side (a thread or a child process) gets a `Job`. The calling side receives its messages: events in order,
then one of `Done`, `Failed` and `Crashed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..events import Event

__all__ = ["Crashed", "Done", "Failed", "Message", "Runner"]


@dataclass(frozen=True)
class Done:
    """The operation has ended with a result."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """The operation has raised an exception."""

    error: BaseException


@dataclass(frozen=True)
class Crashed:
    """The working process has ended.

    Attributes
    ----------
    exit_code : int
        As in `subprocess`: negative for a signal.
    output : str
        Its standard output and error during the call.
    """

    exit_code: int
    output: str


Message: TypeAlias = Event | Done | Failed | Crashed


class Runner(Protocol):
    """Runs a session's operations one after another, on another thread or in another process."""

    @property
    def alive(self) -> bool:
        """Whether the session is open."""

    @property
    def busy(self) -> bool:
        """Whether an operation has begun and its outcome has not been received."""

    @property
    def pid(self) -> int | None:
        """Process id of the working process. None if it is this process."""

    def open(self) -> None:
        """Open a new session, in which nothing is loaded."""

    def start(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Begin an operation."""

    def receive(self, seconds: float) -> Message | None:
        """Return the operation's next message. None if there is none for `seconds`."""

    def cancel(self) -> None:
        """Ask the operation to stop with a `CancelledError`. May be called from any thread."""

    def kill(self) -> bool:
        """End the session at once. Return False if that is not possible."""

    def close(self) -> None:
        """End the session and free its memory. May be called from any thread; a second call does nothing."""
