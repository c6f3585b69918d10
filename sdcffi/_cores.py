"""How many processor cores this process may use: the threads that are computed with where nobody says a number.

The engine's own count, on Linux, is half of the machine's logical processors where there are more than four:
`sd_get_num_physical_cores` of util.cpp reads ``/sys/devices/system/cpu0`` where there is only
``/sys/devices/system/cpu/cpu0``. It knows neither affinity nor quota.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from ._kernel import control_groups, file_text, sysctl

__all__ = ["MOST_THREADS", "usable_cores", "usable_processors"]

MOST_THREADS = 512  # what ggml has room for


def usable_cores() -> int:
    """Give the physical cores that this process may use, 1 to `MOST_THREADS`.

    On Linux those of its affinity, and no more than its control groups' quotas, rounded up. On macOS the performance
    cores. On Windows, and elsewhere, half of the logical processors.
    """
    if sys.platform == "linux":
        return _linux_cores(Path("/"), os.sched_getaffinity(0))
    if sys.platform == "darwin":
        return _macos_cores()
    return _limited((os.cpu_count() or 1) // 2)


def usable_processors() -> int:
    """Give the logical processors that this process may use: more than `usable_cores` where cores have two threads."""
    if sys.platform == "linux":
        return _linux_processors(Path("/"), os.sched_getaffinity(0))
    return _limited(os.cpu_count() or 1)


def _linux_cores(root: Path, allowed: Collection[int]) -> int:
    """Count cores, `root` being the file system's: processors that name the same siblings are threads of one."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {file_text(root / topology.format(number)).strip() or str(number) for number in allowed}
    return _limited(len(cores), *_quotas(root))


def _linux_processors(root: Path, allowed: Collection[int]) -> int:
    return _limited(len(allowed), *_quotas(root))


def _quotas(root: Path) -> Iterator[int]:
    """Processors' worth of time that each control group may take, rounded up."""
    for version, directory in control_groups(root, "cpu"):
        if version == 2:
            words = file_text(directory / "cpu.max").split()
        else:
            words = [file_text(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdigit() and int(word) for word in words):  # else "max", or -1: no limit
            yield math.ceil(int(words[0]) / int(words[1]))


def _macos_cores() -> int:
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        try:
            return _limited(sysctl(name))
        except OSError:  # Intel's have one level
            continue
    return _limited(os.cpu_count() or 1)


def _limited(*counts: int) -> int:
    return max(1, min(*counts, MOST_THREADS))
