"""How many bytes of memory this process can still get, as far as the system tells."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

from ._kernel import control_groups, file_text, sysctl

__all__ = ["free_memory"]

# Where each version of control groups tells limit, use, and caches that can be dropped.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory() -> int | None:
    """Give the bytes that can still be had; None where the system does not tell.

    On Linux the least of MemAvailable, of what control groups leave (version 1 or 2, caches that can be dropped not
    counted as used), and of what RLIMIT_AS leaves. On macOS the kernel's own percentage (``kern.memorystatus_level``,
    what ``memory_pressure`` shows) of ``hw.memsize``. On Windows `GlobalMemoryStatusEx`.
    """
    try:
        if sys.platform == "linux":
            return min(_linux(Path("/")), default=None)
        if sys.platform == "darwin":
            return sysctl("kern.memorystatus_level") * sysctl("hw.memsize") // 100
        if sys.platform == "win32":
            return _windows()
    except (OSError, ValueError):
        pass
    return None


def _linux(root: Path) -> Iterator[int]:
    """What each limit leaves; `root` is the file system's."""
    for line in file_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    for version, directory in control_groups(root, "memory"):
        limit, used, cache = _FILES[version]
        most, now = file_text(directory / limit).strip(), file_text(directory / used).strip()
        if most.isdigit() and now.isdigit() and int(most) < 1 << 60:
            stat = dict(line.split() for line in file_text(directory / "memory.stat").splitlines())
            yield max(0, int(most) - int(now) + int(stat.get(cache, 0)))
    yield from _address_space(root)


def _address_space(root: Path) -> Iterator[int]:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = file_text(root / "proc/self/statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        yield max(0, limit - int(pages[0]) * resource.getpagesize())


def _windows() -> int:
    names = ["total", "available", "total_page", "available_page", "total_virtual", "available_virtual", "extended"]

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in names),
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        raise OSError("GlobalMemoryStatusEx failed")
    return int(status.available)
