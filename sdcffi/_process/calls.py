"""Make calls on an engine: one at a time, with a time limit, cancellation, and a restart after a crash.

A call waits for its turn, runs one operation or several, and meanwhile passes events to the caller's functions, all on
the caller's thread. Whatever stops it (Ctrl-C, the time limit, `Calls.cancel`, an exception in one of the caller's
functions), the runner is asked to cancel first. If the operation does not end within the grace period, the runner is
killed, if that is possible. The next call opens a runner that was lost again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

from .._bindings.causes import KEPT_LINES
from .._bindings.requests import Opening
from .._numbers import check_number
from .._quoting import shown
from .._warnings import warn
from ..errors import CancelledError, GenerationTimeoutError, NativeCrashError, NativeError, SDError
from ..events import Listeners, Log
from .crash import crash_error
from .inprocess import InProcess
from .messages import Crashed, Done, Failed, Runner
from .worker import Worker

if TYPE_CHECKING:
    from .._bindings.requests import Opened

__all__ = ["GRACE", "Call", "Calls", "adopted", "run_alone"]

_SLICE = 0.1  # seconds between two checks of clock and cancellation; Windows handles Ctrl-C only between two waits
_MOST_CRASHES = 3
GRACE = 5.0  # seconds in which an operation must stop by itself

adopted: ContextVar[Call | None] = ContextVar("adopted", default=None)


class Call:
    """One call: its deadline, its listeners, and whether it must stop. `adopted` holds one that was made in advance."""

    def __init__(self) -> None:
        self.thread = 0
        self.cancelled = False
        self.deadline: float | None = None
        self.timeout: float | None = None
        self.listeners = Listeners()
        self._runner: Runner | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Stop the call, even if it has not begun. May be called from any thread."""
        with self._lock:
            self.cancelled = True
            if self._runner:
                self._runner.cancel()

    @contextmanager
    def reaching(self, runner: Runner) -> Iterator[None]:
        """Let `cancel` stop the runner's operation during the block, but no later one."""
        with self._lock:
            self._runner = runner
        try:
            yield
        finally:
            with self._lock:
                self._runner = None

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
        self._restart = restart and isolated
        self._grace = grace
        self._begun: deque[Call] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._lost: SDError | None = None
        self._crashes: tuple[bytes, int] = (b"", 0)
        self._owner = os.getpid()

    @contextmanager
    def call(self, listeners: Listeners, timeout: float | None = None) -> Iterator[Call]:
        """Wait for a turn, in the order of the calls, and hold the runner during the block.

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
            If the engine is closed, or if it is called from its own callback.
        """
        check_number("timeout", timeout, 0)
        call = adopted.get() or Call()
        call.thread, call.listeners, call.timeout = threading.get_ident(), listeners, timeout
        call.deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._wait_for_turn(call)
            yield call
        finally:
            with self._changed:
                if call in self._begun:
                    self._begun.remove(call)
                self._changed.notify_all()
                over = self._closed and not self._begun
            if over:
                self.runner.close()

    def _wait_for_turn(self, call: Call) -> None:
        with self._changed:
            self._check_usable()
            if any(other.thread == call.thread for other in self._begun):
                raise SDError(
                    "an engine cannot be called from its own callback; call it after the current call has ended"
                )
            self._begun.append(call)
            while self._begun[0] is not call:
                call.check()
                self._changed.wait(_SLICE)
            self._check_usable()

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
        if self.runner.alive:
            return
        if self.opened is not None and not self._restart:
            message = self.runner.receive(0)
            if self._lost is None and isinstance(message, Crashed):
                self._lost = crash_error(message, (), None)
            raise self._lost or SDError("the engine's process has ended; open a new engine, or use restart='auto'")
        self._refuse_what_crashes(self.opening.params)
        self.runner.open()
        try:
            opened = self._perform(call, "open", (self.opening,), self.opening.params)
            if self.opening.params is not None:
                params = self._prepare(opened) if self._prepare else self.opening.params
                unused: list[str] = self._perform(call, "load", (params,), self.opening.params)
                _warn_of_unused(unused if self.opened is None else [])
            self.opened = opened
        except BaseException:
            self.runner.close()
            raise

    def _perform(self, call: Call, name: str, arguments: tuple[Any, ...], parameters: object) -> Any:
        call.check()
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        with call.reaching(self.runner):
            self._start(call, name, arguments)
            outcome = self._follow(call, lines)
        return self._result(call, outcome, tuple(lines), parameters)

    def _start(self, call: Call, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self.runner.start(name, arguments)
        except (SDError, TypeError):  # nothing has begun
            raise
        except BaseException:  # the request was sent in part
            self.runner.kill()
            raise
        if call.cancelled:  # the cancel came before the runner was set
            self.runner.cancel()

    def _follow(self, call: Call, lines: deque[str]) -> Done | Failed | Crashed:
        try:
            return self._await_outcome(call, lines)
        except BaseException:
            self._stop()
            raise

    def _await_outcome(self, call: Call, lines: deque[str]) -> Done | Failed | Crashed:
        stop_by: float | None = None
        while True:
            message = self.runner.receive(_SLICE)
            if isinstance(message, (Done, Failed, Crashed)):
                return message
            if message is not None:
                if isinstance(message, Log) and message.level != "debug":
                    lines.append(f"{message.level}: {message.text}")
                call.listeners.notify(message)
            if not call.cancelled:
                call.check()
            elif stop_by is None:
                stop_by = time.monotonic() + self._grace
            elif time.monotonic() > stop_by and self.runner.kill():
                return Failed(CancelledError("the call was cancelled"))

    def _stop(self) -> None:
        """Cancel the running operation and wait until it has ended; kill it after the grace period."""
        stop_by = time.monotonic() + self._grace
        try:
            self.runner.cancel()
            while self.runner.busy and time.monotonic() < stop_by:
                self.runner.receive(_SLICE)
        finally:  # a second Ctrl-C does not wait
            if self.runner.busy:
                self.runner.kill()

    def _result(self, call: Call, outcome: Done | Failed | Crashed, lines: tuple[str, ...], parameters: object) -> Any:
        if isinstance(outcome, Crashed):
            self._lost = crash_error(outcome, lines, parameters)
            self._count_crash(parameters)
            self.runner.close()
            raise self._lost
        if self._crashes[1] and self._crashes[0] == _digest(parameters):
            self._crashes = (b"", 0)
        if isinstance(outcome, Failed):
            if isinstance(outcome.error, NativeError) and self._restart:
                self.runner.close()  # the context cannot be used any more; a new process can
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
        """Stop all calls, those that wait for their turn too. May be called from any thread."""
        with self._changed:
            for call in self._begun:
                call.cancel()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop all calls and end the session. May be called from any thread; a second call does nothing.

        If it is called from a callback, the session ends when that call has ended.
        """
        if os.getpid() != self._owner:
            return
        self._closed = True
        self.cancel()
        with self._changed:
            if any(call.thread == threading.get_ident() for call in self._begun):
                return
            if not self._changed.wait_for(lambda: not self._begun, self._grace + 1):
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


def _warn_of_unused(names: list[str]) -> None:
    if names:
        listed = ", ".join(map(shown, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        warn(
            f"nothing uses {len(names)} of the tensors in the model's files: {listed}; if"
            " images are not as expected, the files are of another model, or of a kind that the engine reads in part"
        )
