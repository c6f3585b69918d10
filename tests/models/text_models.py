"""Small models whose images depend on every token of T5 and CLIP, for tests of what the encoders get and give.

The weights are random, from a seed: tests/oracle/text_conditions.py computes the same images with diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import families
import numpy as np
import sd1_model
import text_shapes
import transformer_shapes
import wan_model
from sparse import Shapes, write_random
from transformer_shapes import TEXT

PREFIX = "model.diffusion_model."
LAYERS, HEADS, FEED = 2, 2, 128
WORDS = 4096  # of T5's vocabulary: "a cat" and what is special are among the first


def t5(width: int, *, vocabulary: int = WORDS, relative: bool = True) -> Shapes:
    """T5 with two heads and two layers; with `relative` only the first has a table of distances, as T5 but not UMT5."""
    shapes, inner = Shapes({"shared.weight": (vocabulary, width)}), 64 * HEADS
    for i in range(LAYERS):
        attention, feed = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
        for name, out, inp in (("q", inner, width), ("k", inner, width), ("v", inner, width), ("o", width, inner)):
            shapes.linear(f"{attention}SelfAttention.{name}", out, inp, bias=False)
        if i == 0 or not relative:
            shapes[f"{attention}SelfAttention.relative_attention_bias.weight"] = (32, HEADS)
        for name, out, inp in (("wi_0", FEED, width), ("wi_1", FEED, width), ("wo", width, FEED)):
            shapes.linear(f"{feed}DenseReluDense.{name}", out, inp, bias=False)
        shapes.norms(width, f"{attention}layer_norm.weight", f"{feed}layer_norm.weight")
    shapes.norms(width, "encoder.final_layer_norm.weight")
    return shapes


def flux(directory: Path, *, guidance: bool) -> dict[str, Any]:
    """FLUX.1 dev or schnell with T5: keywords of `Engine`."""
    return _flux_like(directory, {**transformer_shapes.flux()}, guidance=guidance, clip=True)


def chroma(directory: Path) -> dict[str, Any]:
    return _flux_like(directory, transformer_shapes.chroma(), guidance=True, clip=False)


def _flux_like(directory: Path, shapes: Mapping[str, tuple[int, ...]], *, guidance: bool, clip: bool) -> dict[str, Any]:
    width = TEXT
    kept = {name: shape for name, shape in shapes.items() if guidance or not name.startswith("guidance_in.")}
    kept["txt_in.weight"] = (kept["txt_in.weight"][0], width)
    return {
        "diffusion_model": write_random(kept, directory / "model.safetensors"),
        **({"clip_l": write_random(text_shapes.clip_l(), directory / "clip_l.safetensors")} if clip else {}),
        "t5xxl": write_random(t5(width), directory / "t5.safetensors"),
        "taesd": sd1_model.write_taesd(directory / "taesd.safetensors", 16, gain=0.5),
    }


def sd3(directory: Path) -> dict[str, Any]:
    """Stable Diffusion 3.5 medium with all of its encoders; the blocks between the first and the last are zeros."""
    files = {
        **families.sd3(directory).engine,
        "t5xxl": write_random(t5(transformer_shapes.T5), directory / "t5.safetensors"),
    }
    return files


def wan(directory: Path) -> dict[str, Any]:
    """Wan 2.1 with UMT5, which knows only the first tokens of its vocabulary."""
    umt5 = t5(transformer_shapes.T5, vocabulary=8 * WORDS, relative=False)
    return {**families.wan_t2v(directory).engine, "t5xxl": write_random(umt5, directory / "umt5.safetensors")}


def zeros(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Path:
    """Write a text encoder of zeros."""
    weights = wan_model.Weights(0, wan_model.Q2_K)
    for name, shape in shapes.items():
        fits = len(shape) == 2 and shape[1] % 256 == 0
        weights.tensors[name] = shape if fits else np.zeros(shape, np.float32)
    return weights.write(path)
