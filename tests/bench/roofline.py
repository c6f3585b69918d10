"""What this machine can do at most: its rates of arithmetic, for each type, and of memory.

Arithmetic is measured by `roof.cpp`: multiply-adds in registers on all cores, by each instruction that this processor
has. A library's matrix product is no roof, since it may be held to an older instruction set. Memory is measured by
copying with numpy, reads and writes both counted.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .compiling import compiled

Roofline = dict[str, Any]
"""``arithmetic``: of each type the best ``instructions`` and their ``rate``, in operations per second; ``memory``, in
bytes per second."""


def measure_roofline(repeats: int = 5) -> Roofline:
    """Measure both; the best of several runs, since anything else that runs only slows it down."""
    program = subprocess.run([compiled("roof.cpp")], check=True, stdout=subprocess.PIPE, text=True)
    source = np.ones(1 << 26, np.float32)  # larger than any cache
    target = np.empty_like(source)
    return {
        "arithmetic": best_rates(program.stdout),
        "memory": 2 * source.nbytes / _least(lambda: np.copyto(target, source), repeats),
    }


def best_rates(lines: str) -> dict[str, dict[str, Any]]:
    """Of each type the fastest instructions among what `roof.cpp` prints."""
    rates: dict[str, dict[str, Any]] = {}
    for line in lines.splitlines():
        type, instructions, rate = line.split("\t")
        if type not in rates or float(rate) > rates[type]["rate"]:
            rates[type] = {"instructions": instructions, "rate": float(rate)}
    return rates


def has_rates(roofline: Roofline) -> bool:
    """Whether this is as it is measured now; older results have one rate, that of numpy's matrix products."""
    return isinstance(roofline.get("arithmetic"), dict)


def rate(roofline: Roofline, type: str) -> float:
    """The rate of a type, or of float32 where the processor has no instructions for it."""
    arithmetic = roofline["arithmetic"]
    return float(arithmetic.get(type, arithmetic["float32"])["rate"])


def _least(act: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return min(times[1:])
