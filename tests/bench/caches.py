"""What step caches save and cost with their defaults, on the demonstration model: the table of docs/speed.md.

    python -m tests.bench.caches [--steps N,...] [--prompts N] [--sampler NAME] [--scheduler NAME] [--threads N]

reused    steps that were not computed, of all
distance  PSNR of the image against the one without a cache; the smallest of the prompts
time      of the denoising steps, against those without a cache; the median of the prompts
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sdcffi import Cache, Engine, Progress, Result, demo_model
from sdcffi.demo import PROMPTS
from sdcffi.images.compare import compare

MODES = ("easycache", "dbcache", "taylorseer", "cache_dit", "spectrum")  # ucache is for U-Nets
LEAST = 35.0  # dB


@dataclass
class Row:
    """What one mode did at one number of steps, with each prompt."""

    mode: str
    reused: list[int] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def line(self, steps: int) -> str:
        """Return it as a line of the table."""
        low, high = min(self.reused), max(self.reused)
        reused = str(low) if low == high else f"{low} to {high}"
        marked = "" if min(self.distances) >= LEAST else ", below the aim"
        distance = f"{min(self.distances):.0f} dB{marked}"
        return f"| {steps} | {self.mode} | {reused} | {distance} | {statistics.median(self.times):.2f} |"


def generate(engine: Engine, prompt: str, **call: Any) -> tuple[Result, float]:
    """Return the result, and the time of its denoising steps in seconds."""
    seen: list[Progress] = []
    result = engine.generate(prompt, width=128, height=128, cfg_scale=2, seed=42, on_progress=seen.append, **call)
    last = [progress for progress in seen if progress.phase == "sample"][-1]
    return result, last.seconds * last.steps


def measure(engine: Engine, prompts: Sequence[str], **call: Any) -> list[Row]:
    """Generate with each prompt, without a cache and with each mode in turn."""
    rows = [Row(mode) for mode in MODES]
    for prompt in prompts:
        whole, before = generate(engine, prompt, **call)
        for row in rows:
            cached, after = generate(engine, prompt, cache=Cache(mode=row.mode), **call)
            row.reused.append(len(cached.cached_steps[0]))
            row.distances.append(compare(whole.arrays[0], cached.arrays[0]).psnr)
            row.times.append(after / before)
    return rows


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.caches", description="what step caches save and cost")
    parser.add_argument("--steps", default="8,12,20,50")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--sampler")
    parser.add_argument("--scheduler")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    call = {"sampler": options.sampler, "scheduler": options.scheduler}
    print("| steps | mode | reused | distance | time |\n| --- | --- | --- | --- | --- |")
    with Engine(**demo_model(), backend="cpu", threads=options.threads) as engine:
        generate(engine, PROMPTS[0], steps=1)
        for steps in map(int, options.steps.split(",")):
            for row in measure(engine, PROMPTS[: options.prompts], steps=steps, **call):
                print(row.line(steps), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
