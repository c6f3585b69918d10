"""Run a session's operations on a thread of this process: ``Engine(..., isolated=False)``.

It is a thread of its own for two reasons. The caller's thread must stay free to handle Ctrl-C and the time limit. And
the engine splits prompts with a recursive std::regex, which overflows a stack of 8 MB at 30,000 characters, and a macOS
thread's stack of 512 KB at a sixteenth of that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from .._bindings.job import Job
from .._bindings.session import Session
from ..errors import OutOfMemoryError, SDError
from .messages import Crashed, Done, Failed, Flag, Operation

__all__ = ["InProcess", "begin", "new_thread", "perform", "start_thread", "works_here"]

_STACK_BYTES = 64 << 20
_SLICE = 0.1  # seconds between two looks at whether a thread has ended

_starting = threading.RLock()  # a signal handler may open an engine
_working: set[int] = set()


def start_thread(target: Any, *arguments: Any) -> None:
    """Start a daemon thread whose stack is large enough for native code."""
    start_large(new_thread(target, *arguments))


class RunnerThread(threading.Thread):
    """A daemon thread of a runner."""

    def __init__(self, target: Callable[..., object], *arguments: Any) -> None:
        super().__init__(name="sdcffi", daemon=True)
        self._work = target, arguments
        self._begun_in: int | None = None
        self._has_ended = False

    def start(self) -> None:
        """Start it."""
        self._begun_in = os.getpid()
        super().start()

    def run(self) -> None:
        """Do its work."""
        _working.add(threading.get_ident())
        try:
            target, arguments = self._work
            target(*arguments)
        finally:
            _working.discard(threading.get_ident())
            self._has_ended = True

    @property
    def lives(self) -> bool:
        """Whether it works; not in a fork of its process.

        Python's `is_alive` takes a living thread for an ended one from then on, if an interrupt comes within it: the
        mend of bpo-45274 releases a lock that it need not have taken.
        """
        return self.ident is not None and not self._has_ended and self._begun_in == os.getpid()


def new_thread(target: Callable[..., object], *arguments: Any) -> RunnerThread:
    """Return a daemon thread of a runner, not started."""
    return RunnerThread(target, *arguments)


def begin(thread: RunnerThread) -> None:
    """Start a thread.

    Raises
    ------
    SDError
        If the system has no more threads.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise SDError(f"a thread for the engine cannot be started: {error}; end some, or raise the limit") from error


def start_large(thread: RunnerThread) -> None:
    """Start a thread whose stack is large enough for native code."""
    with _starting:  # the stack size is a setting of the whole process
        before = threading.stack_size()
        try:
            threading.stack_size(_STACK_BYTES)
            begin(thread)
        finally:
            threading.stack_size(before)


def works_here() -> bool:
    """Return whether this is a runner's thread: the garbage collector may close any engine on it.

    Nothing may wait for a runner's thread then, which could be this one or wait for it.
    """
    return threading.get_ident() in _working


def perform(session: Session, job: Job, name: str, arguments: tuple[Any, ...]) -> Done | Failed:
    """Run one operation and return its outcome. Raises nothing."""
    try:
        job.check()
        return Done(getattr(session, name)(job, *arguments))
    except SDError as error:  # OutOfMemoryError is a MemoryError too, with the native log
        return Failed(error)
    except MemoryError as error:
        return Failed(OutOfMemoryError(f"Python ran out of memory during '{name}' {error}".rstrip()))
    except BaseException as error:
        return Failed(error)


class _Served:
    """A session with its thread, which ends when it takes None from `requests`."""

    def __init__(self) -> None:
        self.requests: SimpleQueue[_Operation | None] = SimpleQueue()
        self.ended = Flag()
        self.thread = new_thread(self._serve)

    def _serve(self) -> None:
        session = Session()
        try:
            while operation := self.requests.get():
                if operation.request is not None:
                    name, arguments = operation.request
                    operation.request = None
                    operation.put(perform(session, operation.job, name, arguments))
                    del name, arguments
                del operation  # otherwise the images of this call are kept until the next one
            perform(session, Job(_ignore), "close", ())
        finally:
            self.ended.set()


class _Operation(Operation):
    def __init__(self, served: _Served, name: str, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.request: tuple[str, tuple[Any, ...]] | None = (name, arguments)
        self.job = Job(self._messages.put)
        self._served = served

    def start(self) -> None:
        self._served.requests.put(self)

    def cancel(self) -> None:
        self.cancelled = True
        self.job.cancel()

    def _look(self) -> None:
        if self._served.ended.is_set:
            self.put(Failed(SDError("the engine is closed; open a new one")))


class InProcess:
    """A session in this process, see `_process.messages.Runner`."""

    def __init__(self) -> None:
        self._served: _Served | None = None

    @property
    def alive(self) -> bool:
        """Whether there is a session."""
        served = self._served
        return served is not None and served.thread.lives

    @property
    def pid(self) -> int | None:
        """None: there is no other process."""
        return None

    def open(self) -> None:
        """Open a new session."""
        self.close()
        self._served = served = _Served()  # before its thread starts: `close` ends it whatever happens between
        start_large(served.thread)

    def prepare(self, name: str, arguments: tuple[Any, ...]) -> Operation:
        """Return an operation that has not begun."""
        if self._served is None:
            raise SDError("the engine is closed; open a new one")
        return _Operation(self._served, name, arguments)

    def crash(self) -> Crashed | None:
        """Return None: a crash would have ended this process."""
        return None

    def kill(self) -> bool:
        """Return False: native code in this process cannot be killed."""
        return False

    def close(self) -> None:
        """Free the model and end the thread."""
        served = self._served
        if served is None:
            return
        served.requests.put(None)
        while not works_here() and served.thread.lives and not served.ended.wait(_SLICE):
            continue
        if self._served is served:
            self._served = None


def _ignore(_event: object) -> None:
    pass
