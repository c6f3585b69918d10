"""Connections to clients: those on which nothing happens are closed, so that they do not use up what the system has."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Connection", "allow_many"]

_LOOK_SECONDS = 30.0  # between two looks; nothing may be the same at both
_MOST_FILES = 1 << 16


class Connection(H11Protocol):
    """HTTP as uvicorn speaks it with h11, which bounds the head of a request.

    uvicorn waits for ever for the rest of a head, and for a client to read its answer. Here a client that neither sends
    a request nor reads what it has been sent loses its connection after one or two looks.
    """

    _looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to look."""
        super().connection_made(transport)
        self._look_later(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def _look_later(self, seen: object) -> None:
        self._looking = self.loop.call_later(_LOOK_SECONDS, self._look, seen)

    def _look(self, seen: object) -> None:
        unread = self.transport.get_write_buffer_size()
        answers = self.cycle is not None and not self.cycle.response_complete
        now = None if answers and not unread else (self.cycle, unread)  # None: it is the server's turn
        if now is not None and now == seen:
            self.transport.abort()
        else:
            self._look_later(now)


def allow_many() -> None:
    """Let this process have as many connections as the system allows, in place of the usual 1,024 files."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
