"""Memory that two processes share and that has no name: nothing can be left behind, whoever dies when.

On Linux a memfd, elsewhere an unlinked temporary file, whose descriptor travels through a socket. On Windows a mapping
under a random name, which the system drops with its last handle.
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

__all__ = ["anonymous_file", "fill", "view"]


def anonymous_file() -> int:
    """Give the descriptor of a new file without a name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sdcffi")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


if sys.platform == "win32":

    class Mapping(mmap.mmap):
        """Shared memory that knows its name."""

        tagname = ""

    def fill(buffers: Sequence[memoryview]) -> Mapping:
        """Copy buffers one behind the other into new shared memory; give the mapping, which keeps it there."""
        tagname = f"sdcffi-{secrets.token_hex(16)}"
        mapping = Mapping(-1, sum(buffer.nbytes for buffer in buffers), tagname=tagname)
        mapping.tagname = tagname
        for buffer in buffers:
            mapping.write(buffer)
        return mapping

else:
    _MAP_FIXED = 0x10  # on Linux, macOS and the BSDs alike; Python has no name for it

    def fill(buffers: Sequence[memoryview]) -> int:
        """Copy buffers one behind the other into new shared memory; give its descriptor, which the caller closes.

        It is written, not mapped: a full disk or memory is then an OSError and not a SIGBUS.
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
        """Map shared memory; the mapping goes away with the last view on it.

        Python's own mmap would keep a descriptor open for each, of which a process has only some hundreds. So its
        object owns memory without a file, over which the shared memory is laid: were the address first in our hands, a
        Ctrl-C between two instructions could lose it.
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
