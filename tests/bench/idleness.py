"""Whether anything else runs on this machine, which makes every number wrong: ggml's threads wait for the slowest."""

from __future__ import annotations

import time
from pathlib import Path

TOLERABLE = 0.1  # share of the cores' time
_STAT = Path("/proc/stat")


def busy_share(seconds: float = 1.0) -> float:
    """Share of all cores' time that is taken while this process sleeps, also by other virtual machines (Linux)."""
    if not _STAT.exists():
        return 0.0
    idle, total = _times()
    time.sleep(seconds)
    later_idle, later_total = _times()
    return 1 - (later_idle - idle) / max(1, later_total - total)


def wait_until_idle(patience: float) -> float:
    """Wait for an idle machine, `patience` seconds at most, and give the share that is taken then."""
    ends = time.monotonic() + patience
    while (share := busy_share()) > TOLERABLE and time.monotonic() < ends:
        time.sleep(2)
    return share


def _times() -> tuple[int, int]:
    """Ticks that the cores idled or waited for disks, and all ticks, since the system started."""
    ticks = [int(number) for number in _STAT.read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
