"""Make calls on an engine: one at a time, with a time limit, cancellation, and a restart after a crash.

A call waits for its turn, runs one operation or several, and meanwhile passes events to the caller's functions, all on
the caller's thread. Whatever stops it (Ctrl-C, the time limit, `Calls.cancel`, an exception in one of the caller's
functions), the runner is asked to cancel first. If the operation does not end within the grace period, the runner is
killed, if that is possible. The next call opens a runner that was lost again.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

from .._bindings.causes import KEPT_LINES
from .._bindings.requests import Opening
from .._numbers import check_number
from .._warnings import warn_of_unused
from ..errors import CancelledError, GenerationTimeoutError, NativeCrashError, NativeError, SDError
from ..events import Listeners, Log
from .crash import crash_error
from .inprocess import InProcess
from .messages import OUTCOMES, Crashed, Failed, Operation, Outcome, Runner
from .worker import Worker

if TYPE_CHECKING:
    from .._bindings.requests import Opened

__all__ = ["GRACE", "Call", "Calls", "adopted", "run_alone"]

_SLICE = 0.1  # seconds between two checks of clock and cancellation; Windows handles Ctrl-C only between two waits
_CLOSING_SLICE = 0.01
_MOST_CRASHES = 3
_QUERIES = frozenset({"offer", "tokens", "upscale_factor", "weights"})  # they compute nothing
_ANSWER_SECONDS = 30.0  # for a query to a child process, which has nothing else to do then
GRACE = 5.0  # seconds in which an operation must stop by itself

adopted: ContextVar[Call | None] = ContextVar("adopted", default=None)


class Call:
    """One call: its deadline, its listeners, and whether it must stop. `adopted` holds one that was made in advance.

    A signal handler may look at it between any two instructions, so it has no lock: each change is one assignment.

    Attributes
    ----------
    thread : int
        The thread that makes it.
    frame : frame or None
        The function that makes it. None: it has not begun, or has ended.
    cancelled : bool
        Whether it must stop.
    operation : Operation or None
        What the runner does for it.
    """

    def __init__(self, within: Call | None = None) -> None:
        self.thread = 0
        self.frame: FrameType | None = None
        self.deadline: float | None = None
        self.timeout: float | None = None
        self.listeners = Listeners()
        self.operation: Operation | None = None
        self._within = within
        self._cancelled = False
        self._turn: SimpleQueue[None] = SimpleQueue()

    @property
    def cancelled(self) -> bool:
        """Whether it, or the call in whose callback it is made, must stop."""
        return self._cancelled or (self._within is not None and self._within.cancelled)

    def cancel(self) -> None:
        """Stop the call, even if it has not begun. May be called from any thread and from a signal handler."""
        self._cancelled = True
        self.wake()
        if operation := self.operation:
            operation.cancel()

    def wake(self) -> None:
        """Let a call that waits for its turn look again."""
        self._turn.put(None)

    def wait(self) -> None:
        """Wait for `wake`, or a moment."""
        try:
            self._turn.get(timeout=_SLICE)
        except Empty:
            return

    @property
    def in_progress(self) -> bool:
        """Whether the function that makes it has not returned. If it has, an interrupt kept the call from ending.

        Python clears the variables of a frame only once its function has returned: the one question about a frame of
        another thread that is answered in a single step. Walking up that thread's frames is not, since a generator
        among them (`Calls._turn`) loses its caller whenever it yields.
        """
        frame = self.frame
        if frame is None:
            return False
        try:
            frame.clear()
        except RuntimeError:  # it is executing
            return True
        return False

    def check(self) -> None:
        """Raise `CancelledError` or `GenerationTimeoutError` if the call must stop."""
        if self.cancelled:
            raise CancelledError("the call was cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise GenerationTimeoutError(
                f"the call took longer than its timeout of {self.timeout:g} seconds; pass a larger timeout="
            )


class Calls:
    """The calls on one runner.

    Parameters
    ----------
    opening : Opening
        How each new session is opened.
    isolated : bool
        Whether native code runs in a child process.
    restart : bool
        Whether to open a lost session again.
    grace : float
        Seconds in which an operation must stop by itself.
    prepare : callable, optional
        Called for each new session before it loads a model. Returns the parameters with which to load the model
        instead of those of `opening`. It may raise. None: those of `opening` are used.
    """

    def __init__(
        self,
        opening: Opening,
        isolated: bool,
        restart: bool = True,
        grace: float = GRACE,
        prepare: Callable[[Opened], object] | None = None,
    ) -> None:
        self.opening = opening
        self._prepare = prepare
        self.opened: Opened | None = None
        self.runner: Runner = Worker() if isolated else InProcess()
        self._isolated = isolated
        self._restart = restart and isolated
        self._grace = grace
        self._begun: deque[Call] = deque()  # the first one has the runner; its methods are single steps
        self._ready = False
        self._closed = False
        self._lost: SDError | None = None
        self._crashes: tuple[bytes, int] = (b"", 0)
        self._owner = os.getpid()

    def call(self, listeners: Listeners, timeout: float | None = None) -> AbstractContextManager[Call]:
        """Wait for a turn, in the order of the calls, and hold the runner during the block.

        The block must be in the function that calls this: an engine knows by it whether a call goes on.

        Parameters
        ----------
        listeners : Listeners
        timeout : float, optional
            Time limit for the call, in seconds. None: no limit.

        Raises
        ------
        CancelledError, GenerationTimeoutError
            If the call was stopped while it waited.
        SDError
            If the engine is closed, or if it is called from its own callback or from a signal handler during a call.
        """
        check_number("timeout", timeout, 0)
        given = adopted.get()
        call = given if given is not None and given.thread == 0 else Call(given)
        call.thread, call.listeners, call.timeout = threading.get_ident(), listeners, timeout
        call.deadline = None if timeout is None else time.monotonic() + timeout
        call.frame = sys._getframe(1)
        return self._turn(call)

    @contextmanager
    def _turn(self, call: Call) -> Iterator[Call]:
        try:
            try:
                self._wait_for_turn(call)
                yield call
            finally:
                self._leave(call)
        finally:  # an interrupt may have kept the first one from ending; twice does no harm
            self._leave(call)

    def _leave(self, call: Call) -> None:
        call.frame = None  # which has a reference to the call
        with suppress(ValueError):
            self._begun.remove(call)
        for other in self._waiting():
            other.wake()
        if self._closed and not self._begun:
            self.runner.close()

    def _wait_for_turn(self, call: Call) -> None:
        self._check_usable()
        self._drop_interrupted()
        if any(other.thread == call.thread for other in self._waiting()):
            raise SDError(
                "an engine cannot be called from its own callback, or from a signal handler during a call; call it"
                " after the current call has ended"
            )
        self._begun.append(call)
        while self._begun[0] is not call:
            call.check()
            call.wait()
            self._drop_interrupted()
        self._check_usable()

    def _waiting(self) -> tuple[Call, ...]:
        """Return the calls that have begun; others may begin and end meanwhile."""
        while True:
            try:
                return tuple(self._begun)
            except RuntimeError:  # it changed during the copy
                continue

    def _drop_interrupted(self) -> None:
        """Forget calls that have ended without leaving: interrupts came that thick."""
        for call in self._waiting():
            if not call.in_progress:
                self._leave(call)

    def _check_usable(self) -> None:
        if os.getpid() != self._owner:
            raise SDError(f"this engine belongs to process {self._owner}; open a new one after a fork")
        if self._closed:
            raise SDError("the engine is closed; open a new one")

    def run(self, call: Call, name: str, *arguments: Any, parameters: object = None) -> Any:
        """Run an operation of the session.

        Parameters
        ----------
        call : Call
            The current call.
        name, arguments
            A method of `Session`, and its arguments.
        parameters : object, optional
            Parameters to report with a crash. None: the arguments.

        Raises
        ------
        CancelledError, GenerationTimeoutError, KeyboardInterrupt
            If the call was stopped.
        NativeCrashError
            If the child process crashed, or if it did so three times in a row with the same parameters before.
        BaseException
            The exception of the operation, or of one of the caller's functions.
        """
        parameters = arguments if parameters is None else parameters
        self._refuse_what_crashes(parameters)  # before a process is started for nothing
        self.open(call)
        return self._perform(call, name, arguments, parameters)

    def open(self, call: Call) -> None:
        """Open a session unless there is one."""
        if self._ready and self.runner.alive:
            return
        if self.opened is not None and not self._restart:
            if self._lost is None and (crash := self.runner.crash()):
                self._lost = crash_error(crash, (), None)
            raise self._lost or SDError("the engine's process has ended; open a new engine, or use restart='auto'")
        self._refuse_what_crashes(self.opening.params)
        self._ready = False  # if Ctrl-C comes before it is, the next call opens another session
        try:
            self.runner.open()
            opened = self._perform(call, "open", (self.opening,), self.opening.params)
            if self.opening.params is not None:
                params = self._prepare(opened) if self._prepare else self.opening.params
                unused: list[str] = self._perform(call, "load", (params,), self.opening.params)
                warn_of_unused(unused if self.opened is None else [], "the model's files")
            self.opened = opened
            self._ready = True
        finally:
            if not self._ready:
                self.runner.close()

    def _perform(self, call: Call, name: str, arguments: tuple[Any, ...], parameters: object) -> Any:
        call.check()
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        operation = self.runner.prepare(name, arguments)
        try:
            try:
                call.operation = operation
                if call.cancelled:  # just before `cancel` could reach the operation
                    operation.cancel()
                operation.start()
                outcome = self._await_outcome(call, operation, lines, name in _QUERIES)
            finally:
                self._settle(operation, self._grace)
        finally:  # an interrupt may have come there: a second Ctrl-C does not wait
            self._settle(operation, 0.0)
            call.operation = None
        return self._result(call, outcome, tuple(lines), parameters)

    def _await_outcome(self, call: Call, operation: Operation, lines: deque[str], is_query: bool) -> Outcome:
        stop_by: float | None = None
        answer_by = time.monotonic() + (_ANSWER_SECONDS if is_query and self._isolated else math.inf)
        while True:
            message = operation.receive(_SLICE)
            if isinstance(message, OUTCOMES):
                return message
            if message is not None:
                if isinstance(message, Log) and message.level != "debug":
                    lines.append(f"{message.level}: {message.text}")
                call.listeners.notify(message)
            if not call.cancelled:
                call.check()
            elif stop_by is None:
                stop_by = time.monotonic() + self._grace
                operation.cancel()
            elif time.monotonic() > stop_by and self.runner.kill():
                return Failed(CancelledError("the call was cancelled"))
            if time.monotonic() > answer_by and operation.outcome is None:
                self.runner.kill()
                raise GenerationTimeoutError(
                    f"the engine's process did not answer for {_ANSWER_SECONDS:g} seconds, so it was ended: it was"
                    " stopped, or the machine is overloaded. The next call starts a new one, unless restart='never'"
                )

    def _settle(self, operation: Operation, seconds: float) -> None:
        """Wait until an operation has ended, which is asked to stop if it goes on; kill it after `seconds`."""
        if operation.outcome is None:
            operation.cancel()
            operation.start()  # if it was interrupted before: it then ends at once
            if not operation.wait(seconds):
                self.runner.kill()
        outcome = operation.outcome
        if isinstance(outcome, Failed) and isinstance(outcome.error, NativeError) and self._restart:
            self.runner.close()  # the context cannot be used any more; a new process can

    def _result(self, call: Call, outcome: Outcome, lines: tuple[str, ...], parameters: object) -> Any:
        if isinstance(outcome, Crashed):
            self._lost = crash_error(outcome, lines, parameters)
            self._count_crash(parameters)
            self.runner.close()
            raise self._lost
        if self._crashes[1] and self._crashes[0] == _digest(parameters):
            self._crashes = (b"", 0)
        if isinstance(outcome, Failed):
            try:
                raise outcome.error
            finally:
                del outcome  # otherwise error, traceback and this frame keep each other and images alive
        if call.cancelled:  # the operation ended before the cancel arrived
            raise CancelledError("the call was cancelled")
        return outcome.value

    def _refuse_what_crashes(self, parameters: object) -> None:
        digest, count = self._crashes
        if count >= _MOST_CRASHES and digest == _digest(parameters) and self._lost:
            raise NativeCrashError(
                f"these parameters crashed the engine's process {count} times in a row, so they are not tried again;"
                f" change them. The last crash: {self._lost}",
                self._lost.log,
                parameters=parameters,
            )

    def _count_crash(self, parameters: object) -> None:
        digest = _digest(parameters)
        before, count = self._crashes
        self._crashes = (digest, count + 1 if digest == before else 1)

    def cancel(self) -> None:
        """Stop all calls, also those that wait for their turn.

        May be called from any thread and from a signal handler.
        """
        for call in self._waiting():
            call.cancel()

    def close(self) -> None:
        """Stop all calls and end the session. A second call does nothing.

        May be called from any thread and from a signal handler. If it is called from a callback, or from a signal
        handler during a call on the same thread, the session ends when that call has ended.
        """
        if os.getpid() != self._owner:
            return
        try:
            self._close()
        finally:  # an interrupt must not keep a process that nobody knows of
            self._closed = True
            if not self._begun:
                self.runner.close()

    def _close(self) -> None:
        self._closed = True  # calls end the session from now on
        self._drop_interrupted()
        self.cancel()
        if any(call.thread == threading.get_ident() for call in self._waiting()):
            return
        end = time.monotonic() + self._grace + 1
        while self._begun and time.monotonic() < end:
            time.sleep(_CLOSING_SLICE)
            self._drop_interrupted()
        if self._begun:
            self.runner.kill()  # a callback does not return
        self.runner.close()


def _digest(parameters: object) -> bytes:
    """Return a digest of parameters without their seed, which may be random."""
    if is_dataclass(parameters) and not isinstance(parameters, type) and hasattr(parameters, "seed"):
        parameters = replace(parameters, seed=None)
    return hashlib.sha256(pickle.dumps(parameters)).digest()


def run_alone(
    opening: Opening,
    name: str,
    *arguments: Any,
    isolated: bool = True,
    listeners: Listeners | None = None,
    timeout: float | None = None,
) -> Any:
    """Open a session for a single operation and return its result.

    Parameters
    ----------
    opening : Opening
    name, *arguments
        A method of `Session`, and its arguments.
    isolated : bool, optional
        Whether native code runs in a child process.
    listeners : Listeners, optional
    timeout : float, optional
        Time limit for the call, in seconds. None: no limit.

    Raises
    ------
    BaseException
        See `Calls.run`.
    """
    calls = Calls(opening, isolated)
    try:
        with calls.call(listeners or Listeners(), timeout) as call:
            return calls.run(call, name, *arguments)
    finally:
        calls.close()
