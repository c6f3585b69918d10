"""What it costs that a build runs everywhere: the portable build's chosen variant against a build for this machine.

    python -m tests.bench.portable [--rounds N] [--size PIXELS] [--threads N]

Both draw with the trained model, turn about, in one run; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import engines

from sdcffi import Engine
from sdcffi._build.pipeline import compile_native
from sdcffi._build.plan import make_plan
from sdcffi.demo import SETTINGS, demo_model

WEIGHTS = ("f16", "q8_0")


def build(cpu: str) -> Path:
    """A build for the CPU alone, from the build cache."""
    cli = {"with-cli": "on"} if cpu == "native" else {}
    return compile_native(make_plan(engines.request(backend="cpu", cpu=cpu, **cli)))


def measure(weights: str, builds: dict[str, Path], options: argparse.Namespace) -> None:
    """Draw turn about and print the ratio."""
    size = {"width": options.size, "height": options.size}
    arguments = {**demo_model(), "type": weights, "threads": options.threads, "backend": "cpu"}
    with (
        Engine(**arguments, library=builds["portable"]) as portable,
        Engine(**arguments, library=builds["native"]) as native,
    ):
        engines = {"portable": portable, "native": native}

        def seconds(name: str) -> float:
            started = time.perf_counter()
            engines[name].generate("a red heart on a blue background", **{**SETTINGS, **size}, seed=1)
            return time.perf_counter() - started

        for name in engines:
            seconds(name)  # to warm up
        rounds = []
        for number in range(options.rounds):
            order = list(engines) if number % 2 else list(reversed(engines))
            taken = {name: seconds(name) for name in order}
            rounds.append(taken["portable"] / taken["native"])
        low, middle, high = statistics.quantiles(rounds, n=4)
        print(
            f"{weights}, {options.size}x{options.size}: portable ({portable.device.variant}) {middle:.3f} of native,"
            f" quartiles {low:.3f} to {high:.3f}, {len(rounds)} rounds"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.portable", description="Portable against native.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    builds = {cpu: build(cpu) for cpu in ("portable", "native")}
    for weights in WEIGHTS:
        measure(weights, builds, options)


if __name__ == "__main__":
    main()
