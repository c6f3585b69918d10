"""The cores and the memory that this process may use, by affinity, control groups and limits.

The engine's own count of cores, on Linux, is half of the machine's logical processors if there are more than four:
`sd_get_num_physical_cores` of util.cpp reads ``/sys/devices/system/cpu0`` although there is only
``/sys/devices/system/cpu/cpu0``. It knows neither affinity nor quota.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["MOST_THREADS", "free_memory", "free_swap", "usable_cores", "usable_processors"]

MOST_THREADS = 512  # the limit of ggml


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, 1 to `MOST_THREADS`.

    On Linux: those of its affinity, and at most the quotas of its control groups, rounded up. On macOS: the performance
    cores. On Windows and elsewhere: half of the logical processors.
    """
    if sys.platform == "linux":
        return _linux_cores(Path("/"), os.sched_getaffinity(0))
    if sys.platform == "darwin":
        return _macos_cores()
    return _limited((os.cpu_count() or 1) // 2)


def usable_processors() -> int:
    """Return the number of logical processors that this process may use; a core may have two."""
    if sys.platform == "linux":
        return _linux_processors(Path("/"), os.sched_getaffinity(0))
    return _limited(os.cpu_count() or 1)


def _linux_cores(root: Path, allowed: Collection[int]) -> int:
    """Count the cores; `root` is that of the file system. Processors with the same siblings are threads of one core."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {_file_text(root / topology.format(number)).strip() or str(number) for number in allowed}
    return _limited(len(cores), *_quotas(root))


def _linux_processors(root: Path, allowed: Collection[int]) -> int:
    return _limited(len(allowed), *_quotas(root))


def _quotas(root: Path) -> Iterator[int]:
    """Yield the number of processors that each control group may use, rounded up."""
    for version, directory in _control_groups(root, "cpu"):
        if version == 2:
            words = _file_text(directory / "cpu.max").split()
        else:
            words = [_file_text(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdigit() and int(word) for word in words):  # else "max", or -1: no limit
            yield math.ceil(int(words[0]) / int(words[1]))


def _macos_cores() -> int:
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        try:
            return _limited(_sysctl(name))
        except OSError:  # Intel's have one level
            continue
    return _limited(os.cpu_count() or 1)


def _limited(*counts: int) -> int:
    return max(1, min(*counts, MOST_THREADS))


# For each version of control groups, the files with limit, use, and droppable caches.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory() -> int | None:
    """Return the free memory in bytes; None if the system does not report it.

    On Linux: the least of MemAvailable, of what the control groups leave (version 1 or 2, droppable caches count as
    free), and of what RLIMIT_AS leaves. On macOS: the kernel's own percentage (``kern.memorystatus_level``, which
    ``memory_pressure`` shows) of ``hw.memsize``. On Windows: `GlobalMemoryStatusEx`.
    """
    try:
        if sys.platform == "linux":
            return min(_linux(Path("/")), default=None)
        if sys.platform == "darwin":
            return _sysctl("kern.memorystatus_level") * _sysctl("hw.memsize") // 100
        if sys.platform == "win32":
            return _windows()
    except (OSError, ValueError):
        pass
    return None


def free_swap() -> int | None:
    """Return the free swap space in bytes; None on systems that make it as they need it, or do not report it."""
    lines = _file_text(Path("/proc/meminfo")).splitlines() if sys.platform == "linux" else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("SwapFree:")), None)


def _linux(root: Path) -> Iterator[int]:
    """Yield the free bytes within each limit; `root` is that of the file system."""
    for line in _file_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    for version, directory in _control_groups(root, "memory"):
        limit, used, cache = _FILES[version]
        most, now = _file_text(directory / limit).strip(), _file_text(directory / used).strip()
        if most.isdigit() and now.isdigit() and int(most) < 1 << 60:
            stat = dict(line.split() for line in _file_text(directory / "memory.stat").splitlines())
            yield max(0, int(most) - int(now) + int(stat.get(cache, 0)))
    yield from _address_space(root)


def _address_space(root: Path) -> Iterator[int]:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _file_text(root / "proc/self/statm").split()
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


def _control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the control groups whose limits hold for this process: its own and those above it.

    Parameters
    ----------
    root : Path
        Root of the file system.
    controller : str
        ``"cpu"``, ``"memory"``, ...

    Yields
    ------
    int, Path
        The version, 1 or 2, and the group's directory. In a container, the group's path may not exist; those above do.
    """
    for line in _file_text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        here = mount / group.lstrip("/")
        for directory in [here, *here.parents]:
            yield version, directory
            if directory == mount:
                break


def _file_text(path: Path) -> str:
    """Return the text of a file of the kernel; empty if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> int:
    """Return a number of the macOS kernel.

    Raises
    ------
    OSError
        If there is no number of that name.
    """
    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    if ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0):
        raise OSError(f"sysctl {name} cannot be read")
    return value.value
