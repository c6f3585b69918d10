"""One operation of a native session under way, as the session sees it: where events go, and whether it is to stop."""

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

_LOCK_SECONDS = 0.05  # between two looks at whether a call that waits for the library is cancelled


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
