"""Messages between the calling side and the working side, and the interface of the working side.

The working side (a thread or a child process) gets a `Job`. The calling side receives its messages: events in order,
then one of `Done`, `Failed` and `Crashed`.

A signal handler may stop a call or close an engine between any two instructions of the calling side, and Ctrl-C may end
a call there. So the calling side holds no lock and owns nothing that must be given back: it puts something into a
`SimpleQueue`, which is written in C and may be entered again, or sets one attribute. What must not be interrupted
(descriptors, processes, parts of messages) belongs to threads of the runner, since Python's signal handlers run on the
main thread only.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeAlias

from ..events import Event

__all__ = ["OUTCOMES", "Crashed", "Done", "Failed", "Flag", "Message", "Operation", "Outcome", "Runner"]


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


OUTCOMES = (Done, Failed, Crashed)
Outcome: TypeAlias = Done | Failed | Crashed
Message: TypeAlias = Event | Outcome


class Flag:
    """An event that is set once, by any thread or signal handler: unlike `threading.Event`, no lock can stay locked."""

    def __init__(self) -> None:
        self.is_set = False
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Let all that wait go on."""
        self.is_set = True
        self._queue.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; return whether it is set."""
        if not self.is_set:
            try:
                self._queue.get(timeout=seconds)
            except Empty:
                return self.is_set
            self._queue.put(None)  # for the others that wait
        return self.is_set


class Operation(ABC):
    """An operation that a runner does: its messages, and its outcome.

    Attributes
    ----------
    cancelled : bool
        Whether it must stop.
    outcome : Done, Failed, Crashed or None
        None: it has not ended.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self.outcome: Outcome | None = None
        self._messages: SimpleQueue[Message] = SimpleQueue()

    def put(self, message: Message) -> None:
        """Add a message, on the runner's thread. What comes after the outcome is dropped."""
        if self.outcome is None:
            if isinstance(message, OUTCOMES):
                self.outcome = message
            self._messages.put(message)

    def receive(self, seconds: float) -> Message | None:
        """Return the next message. None if there is none for `seconds`."""
        try:
            return self._messages.get(timeout=seconds)
        except Empty:
            pass
        self._look()
        if self.outcome is None:
            return None
        try:
            return self._messages.get_nowait()
        except Empty:  # a Ctrl-C lost it, or it is just being put
            return self.outcome

    def wait(self, seconds: float) -> bool:
        """Drop messages for at most `seconds`, until the operation has ended; return whether it has."""
        end = time.monotonic() + seconds
        while self.outcome is None and (left := end - time.monotonic()) > 0:
            self.receive(min(left, 0.1))
        return self.outcome is not None

    @abstractmethod
    def start(self) -> None:
        """Begin it. A second time does nothing; one that was cancelled before ends at once."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask it to stop with a `CancelledError`. May be called from any thread and at any time."""

    @abstractmethod
    def _look(self) -> None:
        """Put an outcome if the runner has ended and nobody else will."""


class Runner(Protocol):
    """Runs a session's operations one after another, on another thread or in another process."""

    @property
    def alive(self) -> bool:
        """Whether the session is open."""

    @property
    def pid(self) -> int | None:
        """Process id of the working process. None if it is this process."""

    def open(self) -> None:
        """Open a new session, in which nothing is loaded. An error in it is that of its first operation."""

    def prepare(self, name: str, arguments: tuple[Any, ...]) -> Operation:
        """Return an operation of the open session, which has not begun."""

    def crash(self) -> Crashed | None:
        """Return how the working process has ended; None if it has not ended, or was ended by `kill` or `close`."""

    def kill(self) -> bool:
        """End the session at once. Return False if that is not possible."""

    def close(self) -> None:
        """End the session and free its memory. May be called from any thread; a second call does nothing."""
