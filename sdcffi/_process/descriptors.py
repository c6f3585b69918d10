"""File descriptors of this process: never one of the three standard ones, and what to do if there are no more."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["explained", "lifted"]

_LEAST = 3


def lifted(descriptor: int) -> int:
    """Return a descriptor above the standard ones, in place of one that may be among them.

    A program that was started with standard output closed gets its number for the next file, and a child process then
    has its own output in the place of that file.
    """
    if descriptor >= _LEAST or sys.platform == "win32":
        return descriptor
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LEAST)
    finally:
        os.close(descriptor)


def explained(error: OSError) -> str:
    """Return what went wrong; for a process or a system without free descriptors also what to do."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files; close some, or raise the limit (ulimit -n)"
    return str(error)
