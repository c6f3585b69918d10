"""What LoRA costs on the tiny model: switching adapters, and each denoising step.

    python -m tests.bench.lora [--rounds N] [--size PIXELS] [--threads N]

switch    a call with another adapter than the call before, against a call with the same one; both files were read
step      time of a call with N adapters against one without, 8 steps, by weight type and mode
All ratios are medians over rounds in which both sides take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel, write_model

from sdcffi import Engine, LoraQualityWarning

MODES = ("at_runtime", "immediately")


def adapters(model: TinyModel, directory: Path, count: int) -> list[Path]:
    """Write adapters like the model's own with other numbers."""
    paths = []
    for index in range(count):
        rng = np.random.default_rng(index)
        tensors = {
            name: (rng.standard_normal(tensor.shape) / 16).astype(tensor.dtype) if tensor.ndim == 2 else tensor
            for name, tensor in load_file(model.lora).items()
        }
        paths.append(directory / f"{index}.safetensors")
        save_file(tensors, str(paths[-1]))
    return paths


def ratio(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Medians of both, and of their quotient; each was called once before."""
    one(), other()
    pairs = [(one(), other()) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def main() -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lora", description="what LoRA costs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore", LoraQualityWarning)
    size = {"width": options.size, "height": options.size, "cfg_scale": 1.0, "seed": 1}
    with tempfile.TemporaryDirectory() as name:
        model = write_model(Path(name))
        files = adapters(model, Path(name), 4)
        print(f"{'':<28}{'with':>10}{'without':>10}{'ratio':>8}")
        for kind in ("f16", "q8_0"):
            chosen = model if kind == "f16" else model.quantised(kind)
            for mode in MODES:
                arguments = {**chosen.engine_arguments(), "threads": options.threads, "backend": "cpu"}
                with Engine(**arguments, lora_apply_mode=mode) as engine:
                    turn = [0]

                    def switched(engine: Engine = engine, turn: list[int] = turn) -> float:
                        turn[0] += 1
                        return engine.generate("a cat", **size, steps=4, loras=[files[turn[0] % 2]]).seconds

                    def same(engine: Engine = engine, turn: list[int] = turn) -> float:
                        return engine.generate("a cat", **size, steps=4, loras=[files[turn[0] % 2]]).seconds

                    show(f"switch {kind} {mode}", ratio(switched, same, options.rounds))
                for count in (1, 2, 4):
                    with Engine(**arguments, lora_apply_mode=mode) as engine, Engine(**arguments) as plain:
                        show(
                            f"step {kind} {mode} x{count}",
                            ratio(
                                lambda e=engine, n=count: e.generate("a cat", **size, steps=8, loras=files[:n]).seconds,
                                lambda p=plain: p.generate("a cat", **size, steps=8).seconds,
                                options.rounds,
                            ),
                        )
    return 0


def show(name: str, values: tuple[float, float, float]) -> None:
    """Print one row."""
    print(f"{name:<28}{values[0]:>8.3f} s{values[1]:>8.3f} s{values[2]:>8.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
