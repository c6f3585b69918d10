"""One operation of a native session under way: what it is told, and what it tells.

The side that works (a thread or a child process) sees a `Job`; the side that waits receives its messages: events in
order, then one of `Done`, `Failed` and `Crashed`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .errors import CancelledError
from .events import Event

if TYPE_CHECKING:
    from ._library import Library

__all__ = ["Crashed", "Done", "Failed", "Job", "Message", "Runner"]

_LOCK_SECONDS = 0.05  # between two looks at whether a call that waits for the library is cancelled


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


class Job:
    """What an operation sees of its call."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self._lock = threading.Lock()
        self._cancelled = False
        self._stop: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Stop it, now or as soon as it begins; any thread."""
        with self._lock:
            self._cancelled = True
            if self._stop:
                self._stop()

    def check(self) -> None:
        """Raise `CancelledError` if it is to stop."""
        if self._cancelled:
            raise CancelledError("the call was cancelled")

    @contextmanager
    def using(self, library: Library) -> Iterator[None]:
        """Hold the library's lock, and let `cancel` reach the native call that is made in the block."""
        while not library.lock.acquire(timeout=_LOCK_SECONDS):
            self.check()
        try:
            with self._lock:  # a cancel comes either before, and is seen, or after, and reaches the native flag
                self.check()
                library.lib.sdg_reset_cancel()
                self._stop = library.lib.sdg_cancel
            yield
        finally:
            with self._lock:
                self._stop = None
            library.lock.release()
