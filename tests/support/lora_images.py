"""Images of the tiny model with LoRAs, for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from sdcli import THREADS, Pixels
from tiny_model import TinyModel

from sdcffi import Engine, ImageParams, Result, SampleParams
from sdcffi.images.compare import compare
from sdcffi.params.lora import LoraLike

# Noise levels that 2026-05 takes by itself. Newer engines take others, and would not be held to the same numbers.
NOISE_LEVELS = ImageParams(sample_params=SampleParams(custom_sigmas=[1, 0.0070589385, 0]))
DRAW: dict[str, Any] = {
    "prompt": "a cat", "width": 64, "height": 64, "steps": 2, "seed": 42, "cfg_scale": 1.0, "params": NOISE_LEVELS,
}  # fmt: skip
MODES = ["at_runtime", "immediately"]


def of_type(model: TinyModel, type: str) -> TinyModel:
    return model if type == "f16" else model.quantised(type)


def generate(engine: Engine, *loras: LoraLike) -> Result:
    return engine.generate(**DRAW, loras=loras)


def image(engine: Engine, *loras: LoraLike) -> Pixels:
    return generate(engine, *loras).arrays[0]


def draw(model: TinyModel, *loras: LoraLike, **keywords: Any) -> Pixels:
    with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", **keywords) as engine:
        return image(engine, *loras)


def psnr(one: Pixels, other: Pixels) -> float:
    return compare(one, other).psnr


def cosine(one: tuple[Pixels, Pixels], other: tuple[Pixels, Pixels]) -> float:
    """How far two changes, each from one image to another, point the same way."""
    a, b = ((new.astype(np.float64) - old).ravel() for old, new in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
