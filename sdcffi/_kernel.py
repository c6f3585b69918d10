"""What the kernel tells of this process and its limits, in files on Linux and by name on macOS."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

__all__ = ["control_groups", "file_text", "sysctl"]


def control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Give the control groups whose limits hold for this process: its own and those above it.

    Parameters
    ----------
    root : Path
        The file system's.
    controller : str
        ``"cpu"``, ``"memory"``, ...

    Yields
    ------
    int, Path
        1 or 2, the version, and the group's directory. In a container the group's path may not exist; those above do.
    """
    for line in file_text(root / "proc/self/cgroup").splitlines():
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


def file_text(path: Path) -> str:
    """Give what a file of the kernel says; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def sysctl(name: str) -> int:
    """Give a number of the macOS kernel.

    Raises
    ------
    OSError
        If there is none of that name.
    """
    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    if ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0):
        raise OSError(f"sysctl {name} cannot be read")
    return value.value
