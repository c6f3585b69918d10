"""One running operation of a native session: where its events go, and whether it must stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import CancelledError
from ..events import Event

if TYPE_CHECKING:
    from .library import Library

__all__ = ["Job"]

_LOCK_SECONDS = 0.05  # a call that waits for the library checks this often whether it is cancelled


class Job:
    """A running operation.

    Parameters
    ----------
    emit : callable
        Called with each event.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self._lock = threading.RLock()  # a signal handler may cancel during a cancel
        self._cancelled = False
        self._stop: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Stop the operation, now or as soon as it begins. May be called from any thread."""
        with self._lock:
            self._cancelled = True
            if self._stop:
                self._stop()

    def check(self) -> None:
        """Raise `CancelledError` if the operation was cancelled."""
        if self._cancelled:
            raise CancelledError("the call was cancelled")

    @contextmanager
    def using(self, library: Library) -> Iterator[None]:
        """Hold the library's lock during the block, and let `cancel` stop a native call in it."""
        while not library.lock.acquire(timeout=_LOCK_SECONDS):
            self.check()
        try:
            with self._lock:  # a cancel before this is seen by check, one after it sets the native flag
                self.check()
                library.lib.sdg_reset_cancel()
                self._stop = library.lib.sdg_cancel
            yield
        finally:
            with self._lock:
                self._stop = None
            library.lock.release()
