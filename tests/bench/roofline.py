"""What this machine can do at most: its rates of arithmetic and of memory, as numpy reaches them.

The rate of arithmetic is that of single-precision matrix products on all cores, which is what convolutions and linear
layers are at best; narrower types may beat it. That of memory is of copying, reads and writes both counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Roofline:
    """Operations and bytes per second."""

    arithmetic: float
    memory: float


def measure_roofline(repeats: int = 5) -> Roofline:
    """Measure both; the best of `repeats` runs, since anything else that runs only slows it down."""
    n = 2048
    left, right = (np.random.default_rng(seed).standard_normal((n, n), np.float32) for seed in (0, 1))
    product = np.empty_like(left)
    source = np.ones(1 << 26, np.float32)  # larger than any cache
    target = np.empty_like(source)
    return Roofline(
        2 * n**3 / _best(lambda: np.matmul(left, right, out=product), repeats),
        2 * source.nbytes / _best(lambda: np.copyto(target, source), repeats),
    )


def _best(act: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return min(times[1:])
