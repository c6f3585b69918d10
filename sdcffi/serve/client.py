"""A client of the server's own API."""

from __future__ import annotations

__all__ = ["Client"]


class Client:
    """A client of the server's own API."""
