"""What each kind of LoRA costs on Stable Diffusion 1.5 at full size (zeros), at run time and merged.

    python -m tests.bench.lora_kinds [--rounds N] [--size PIXELS] [--steps N] [--threads N]

step      median time of a denoising step with the LoRA at run time, and its ratio to a step without
merge     reading and merging a LoRA of all linear layers of SDXL, against loading SDXL
All sides of a round take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import full_size
import numpy as np
from full_size import Layout, Module
from safetensors.numpy import save_file

from sdcffi import Engine, Progress

LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
CALL = {"cfg_scale": 1.0, "seed": 1}


def draw(shapes: Iterable[tuple[str, tuple[int, ...]]], path: Path) -> Path:
    """Write a file of small random numbers."""
    rng = np.random.default_rng(0)
    save_file({name: np.asarray(rng.standard_normal(shape) * 0.01, np.float16) for name, shape in shapes}, path)
    return path


def lora(module: Module, rank: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    out, inputs, *kernel = module.shape
    yield "lora_down.weight", (rank, inputs, *kernel)
    yield "lora_up.weight", (out, rank, *(1 for _ in kernel))


def dora(module: Module, rank: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from lora(module, rank)
    yield "dora_scale", (module.shape[0], *(1 for _ in module.shape[1:]))


def loha(module: Module, rank: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    columns = int(np.prod(module.shape[1:]))
    for index in "12":
        yield f"hada_w{index}_a", (module.shape[0], rank)
        yield f"hada_w{index}_b", (rank, columns)


def lokr(module: Module, factor: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    out, inputs, *kernel = module.shape
    yield "lokr_w1", (factor, factor)
    yield "lokr_w2", (out // factor, inputs // factor, *kernel)


KINDS = {
    "lora rank 16": (lora, 16), "lora rank 64": (lora, 64), "dora rank 16": (dora, 16), "loha rank 4": (loha, 4),
    "loha rank 16": (loha, 16), "lokr factor 8": (lokr, 8),
}  # fmt: skip


def step_times(options: argparse.Namespace, directory: Path) -> None:
    """Print what a step costs with each kind."""
    layout: Layout = full_size.sd1()
    modules = layout.select("unet", *LINEAR)
    files: dict[str, list[Path]] = {"none": []}
    for kind, (shapes, rank) in KINDS.items():
        named = ((f"{name_of(module)}.{end}", shape) for module in modules for end, shape in shapes(module, rank))
        files[kind] = [draw(named, directory / f"{kind}.safetensors")]
    seconds: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.phase == "sample" and progress.step > 1:
            seconds.append(progress.seconds)

    times: dict[str, list[float]] = {kind: [] for kind in files}
    model = layout.write(directory / "sd1.safetensors")
    with Engine(model, lora_apply_mode="at_runtime", threads=options.threads, on_progress=watch) as engine:
        for _ in range(options.rounds):
            for kind, loras in files.items():
                engine.generate("", loras=loras, width=options.size, height=options.size, steps=1, **CALL)  # attach
                seconds.clear()
                start = time.perf_counter()
                engine.generate("", loras=loras, width=options.size, height=options.size, steps=options.steps, **CALL)
                times[kind].append(statistics.median(seconds) if seconds else time.perf_counter() - start)
    for kind, values in times.items():
        ratios = [value / without for value, without in zip(values, times["none"], strict=True)]
        print(f"{kind:<20}{statistics.median(values):>8.3f} s{statistics.median(ratios):>8.3f}", flush=True)


def name_of(module: Module) -> str:
    return f"{PREFIXES[module.part]}_{module.name.replace('.', '_')}"


def merge_times(options: argparse.Namespace, directory: Path) -> None:
    """Print what reading and merging a LoRA of SDXL costs against loading the model."""
    layout = full_size.sdxl()
    parts = {"unet": LINEAR, "text_encoder": TEXT, "text_encoder_2": TEXT}
    modules = [module for part, endings in parts.items() for module in layout.select(part, *endings)]
    named = [(f"{name_of(module)}.{end}", shape) for module in modules for end, shape in lora(module, 16)]
    named += [(f"{name_of(module)}.alpha", ()) for module in modules]
    path = draw(named, directory / "sdxl-lora.safetensors")
    model = layout.write(directory / "sdxl.safetensors")
    loads, merges = [], []
    for _ in range(options.rounds):
        start = time.perf_counter()
        with Engine(model, lora_apply_mode="immediately", threads=options.threads) as engine:
            loads.append(time.perf_counter() - start)
            result = engine.generate("", loras=[path], width=64, height=64, steps=1, **CALL)
            merges.append(result.loras[0].seconds)
    ratios = [merge / load for merge, load in zip(merges, loads, strict=True)]
    print(
        f"merge {len(named)} tensors: {statistics.median(merges):.2f} s, load {statistics.median(loads):.2f} s,"
        f" ratio {statistics.median(ratios):.2f}"
    )


def main() -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lora_kinds", description="what kinds of LoRA cost")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        step_times(options, Path(name))
        merge_times(options, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
