"""Shared memory without a name, so that nothing is left behind when a process dies, however it dies.

On Linux it is a memfd, on other systems an unlinked temporary file; the descriptor is sent through a socket. On Windows
it is a mapping with a random name, which the system frees with its last handle.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from typing import Any

from .descriptors import lifted

__all__ = ["anonymous_file", "fill", "view"]


def anonymous_file() -> int:
    """Return the descriptor of a new file without a name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        return lifted(os.memfd_create("sdcffi"))
    with tempfile.TemporaryFile() as file:
        return lifted(os.dup(file.fileno()))


if sys.platform == "win32":

    class Mapping(mmap.mmap):
        """Shared memory that knows its name."""

        tagname = ""

    def fill(buffers: Sequence[memoryview]) -> Mapping:
        """Copy buffers one after the other into new shared memory; return the mapping, which owns it."""
        tagname = f"sdcffi-{secrets.token_hex(16)}"
        mapping = Mapping(-1, sum(buffer.nbytes for buffer in buffers), tagname=tagname)
        mapping.tagname = tagname
        for buffer in buffers:
            mapping.write(buffer)
        return mapping

else:
    _MAP_FIXED = 0x10  # on Linux, macOS and the BSDs alike; Python has no name for it

    def fill(buffers: Sequence[memoryview]) -> int:
        """Copy buffers one after the other into new shared memory; return its descriptor, which the caller closes.

        The buffers are written, not mapped, so that a full disk or memory is an OSError and not a SIGBUS.
        """
        descriptor = anonymous_file()
        try:
            for buffer in buffers:
                left = buffer
                while left.nbytes:
                    left = left[os.write(descriptor, left) :]
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def view(descriptor: int, size: int) -> memoryview:
        """Return a view on shared memory; the mapping ends with the last view on it.

        Python's own mmap would keep a descriptor open for each mapping, and a process has only some hundreds. So the
        mmap object owns memory without a file, and the shared memory is mapped over it.
        """
        ffi, libc = _libc()
        owner = mmap.mmap(-1, size)
        flags = mmap.MAP_SHARED | _MAP_FIXED
        pointer = libc.mmap(ffi.from_buffer(owner), size, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
        if int(ffi.cast("intptr_t", pointer)) == -1:
            raise OSError(ffi.errno, f"cannot map {size} bytes of shared memory: {os.strerror(ffi.errno)}")
        return memoryview(owner)

    @cache
    def _libc() -> tuple[Any, Any]:
        import cffi

        ffi = cffi.FFI()
        ffi.cdef("void *mmap(void *, size_t, int, int, int, intptr_t);")
        return ffi, ffi.dlopen(None)
