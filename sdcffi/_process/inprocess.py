"""Run a session's operations on a thread of this process: ``Engine(..., isolated=False)``.

It is a thread of its own for two reasons. The caller's thread must stay free to handle Ctrl-C and the time limit. And
the engine splits prompts with a recursive std::regex, which overflows a stack of 8 MB at 30,000 characters, and a macOS
thread's stack of 512 KB at a sixteenth of that.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import Any

from .._bindings.job import Job
from .._bindings.session import Session
from ..errors import OutOfMemoryError, SDError
from .messages import Done, Failed, Message

__all__ = ["InProcess", "perform", "start_thread"]

_STACK_BYTES = 64 << 20
_Request = tuple[Job, "SimpleQueue[Message]", str, tuple[Any, ...]]

_starting = threading.Lock()
_threads: set[threading.Thread] = set()


def start_thread(target: Any, *arguments: Any) -> threading.Thread:
    """Start a daemon thread whose stack is large enough for native code."""
    with _starting:  # the stack size is a setting of the whole process
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=target, args=arguments, name="sdcffi", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    return thread


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


class InProcess:
    """A session in this process, see `_process.messages.Runner`."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._job: Job | None = None
        self._thread: threading.Thread | None = None
        self.busy = False

    @property
    def alive(self) -> bool:
        """Whether there is a session."""
        return self._thread is not None

    @property
    def pid(self) -> int | None:
        """None: there is no other process."""
        return None

    def open(self) -> None:
        """Open a new session."""
        self._thread = start_thread(_serve, Session(), self._requests)
        _threads.add(self._thread)

    def start(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Begin an operation."""
        self._messages = SimpleQueue()  # an abandoned operation may still write into the old queue
        self._job = Job(self._messages.put)
        self.busy = True
        self._requests.put((self._job, self._messages, name, arguments))

    def receive(self, seconds: float) -> Message | None:
        """Return the operation's next message. None if there is none for `seconds`."""
        try:
            message = self._messages.get(timeout=seconds)
        except Empty:
            return None
        self.busy = not isinstance(message, (Done, Failed))
        return message

    def cancel(self) -> None:
        """Ask the operation to stop."""
        if self._job:
            self._job.cancel()

    def kill(self) -> bool:
        """Return False: native code in this process cannot be killed."""
        return False

    def close(self) -> None:
        """Free the model and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self.cancel()
        self._requests.put(None)
        # The garbage collector may close an engine on another engine's thread; joining there could deadlock.
        if threading.current_thread() not in _threads:
            thread.join()
        _threads.discard(thread)


def _serve(session: Session, requests: SimpleQueue[_Request | None]) -> None:
    while request := requests.get():
        job, messages, name, arguments = request
        messages.put(perform(session, job, name, arguments))
        del request, job, messages, name, arguments  # otherwise the images of this call are kept until the next one
    perform(session, Job(_ignore), "close", ())


def _ignore(_event: object) -> None:
    pass
