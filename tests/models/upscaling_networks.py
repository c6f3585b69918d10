"""Upscaling networks of random weights, and their forward pass in numpy, written from the network's own description.

The network is RRDBNet (Wang et al., ESRGAN, arXiv:1809.00219; basicsr/archs/rrdbnet_arch.py of BasicSR): 64 features,
32 growth channels, residuals scaled by 0.2, leaky ReLU of slope 0.2, enlarging by repeating pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
Weights = dict[str, Array]


def random_weights(factor: int, blocks: int = 1, seed: int = 0) -> Weights:
    """A network that makes images `factor` times as wide and high, under Real-ESRGAN's names."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def conv(name: str, out: int, inp: int, bias: float = 0.0) -> None:
        kernel = rng.standard_normal((out, inp, 3, 3)) * (2 / (inp * 9)) ** 0.5
        weights[f"{name}.weight"] = kernel.astype(np.float16)
        weights[f"{name}.bias"] = (rng.standard_normal(out) * 0.05 + bias).astype(np.float32)

    conv("conv_first", 64, 3)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                conv(f"body.{block}.rdb{dense}.conv{layer}", 64 if layer == 5 else 32, 64 + 32 * (layer - 1))
    names = ["conv_body", *[f"conv_up{i}" for i in range(1, {1: 0, 2: 1, 4: 2}[factor] + 1)], "conv_hr"]
    for name in names:
        conv(name, 64, 64)
    conv("conv_last", 3, 64, bias=0.5)
    weights["conv_last.weight"] = (weights["conv_last.weight"] * np.float16(0.3)).astype(np.float16)
    return weights


def in_old_names(weights: Weights) -> Weights:
    """The same under the names of the original ESRGAN files."""
    factor = 4 if "conv_up2.weight" in weights else 2 if "conv_up1.weight" in weights else 1
    last = {1: [2, 4], 2: [3, 5, 7], 4: [3, 6, 8, 10]}[factor]
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("body."))
    heads = [*("conv_up1", "conv_up2")[: len(last) - 2], "conv_hr", "conv_last"]
    names = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    names |= {head: f"model.{number}" for head, number in zip(heads, last, strict=True)}

    def renamed(name: str) -> str:
        stem, _, kind = name.rpartition(".")
        if stem.startswith("body."):
            _, block, dense, conv = stem.split(".")
            return f"model.1.sub.{block}.RDB{dense[3:]}.{conv}.0.{kind}"
        return f"{names[stem]}.{kind}"

    return {renamed(name): value for name, value in weights.items()}


def write_network(path: Path, weights: Weights) -> Path:
    save_file(weights, str(path))
    return path


def forward(weights: Weights, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What the network makes of an image (H, W, 3): values before they are rounded, 0 to 255."""

    def conv(name: str, x: Array) -> Array:
        kernel, bias = (weights[f"{name}.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
        result: Array = np.tensordot(kernel, windows, ([1, 2, 3], [0, 3, 4])) + bias[:, None, None]
        return result

    def leaky(x: Array) -> Array:
        return np.where(x > 0, x, 0.2 * x)

    def dense(name: str, x: Array) -> Array:
        seen = x
        for layer in range(1, 5):
            seen = np.concatenate([seen, leaky(conv(f"{name}.conv{layer}", seen))])
        return conv(f"{name}.conv5", seen) * 0.2 + x

    x = conv("conv_first", pixels.transpose(2, 0, 1) / 255.0)
    body, block = x, 0
    while f"body.{block}.rdb1.conv1.weight" in weights:
        inner = body
        for part in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{part}", inner)
        body, block = inner * 0.2 + body, block + 1
    x = x + conv("conv_body", body)
    for name in ("conv_up1", "conv_up2"):
        if f"{name}.weight" in weights:
            x = leaky(conv(name, x.repeat(2, 1).repeat(2, 2)))
    last = conv("conv_last", leaky(conv("conv_hr", x)))
    return np.asarray(np.clip(last, 0, 1).transpose(1, 2, 0) * 255.0)
