"""Base class of `Engine` and `Upscaler`: opens a session when it is created, and closes it once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from .._numbers import check_flags, check_number
from .._quoting import shown
from .._warnings import warn
from ..events import Listeners
from .calls import Calls

if TYPE_CHECKING:
    from .._bindings.requests import Opened, Opening
    from .._machine.devices import Device

__all__ = ["Handle"]

_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """The owner of a session."""

    def _open(
        self,
        opening: Opening,
        isolated: bool,
        restart: str,
        grace: float,
        timeout: float | None,
        listeners: Listeners,
        prepare: Callable[[Opened], object] | None = None,
    ) -> None:
        check_flags(isolated=isolated)
        if restart not in ("auto", "never"):
            raise ValueError(f"restart must be 'auto' or 'never', not {shown(restart)}")
        check_number("grace", grace, 0)
        self._listeners = listeners
        self._calls = calls = Calls(opening, isolated, restart == "auto", grace, prepare)
        # Runs before the interpreter exits; later the engine's callbacks and GPU drivers may be gone.
        self._finalizer = weakref.finalize(self, calls.close)
        with calls.call(listeners, timeout) as call:
            calls.open(call)
        if self._opened.left_out:
            faults = "; ".join(f"{name}: {subject}" for name, subject in self._opened.left_out.items())
            warn(
                "the native library was built without patches that its engine seems to need, so it has the faults that"
                f" they mend ({faults}). Build a verified revision: python -m sdcffi build"
            )

    @property
    def device(self) -> Device:
        """The device that computes; its `reason` says why it was chosen."""
        return self._opened.device

    @property
    def commit(self) -> str:
        """The commit of stable-diffusion.cpp that the native library was built from."""
        return self._opened.commit

    @property
    def _opened(self) -> Opened:
        assert self._calls.opened is not None  # it was opened
        return self._calls.opened

    @property
    def pid(self) -> int | None:
        """Process id of the child process that runs the native code. None if there is none."""
        return self._calls.runner.pid

    def cancel(self) -> None:
        """Stop all calls that have begun, on any thread; each raises `CancelledError`.

        May be called at any time, from any thread and from a signal handler. Later calls are not stopped.
        """
        self._calls.cancel()

    def close(self) -> None:
        """Stop all calls and free the model's memory. A second call does nothing.

        May be called at any time, from any thread and from a signal handler. From a callback, or from a signal handler
        that interrupts a call on the same thread, the memory is freed when that call has ended.
        """
        self._calls.close()
        if not self._calls.runner.alive:
            self._finalizer.detach()  # only then: Ctrl-C may come before

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
