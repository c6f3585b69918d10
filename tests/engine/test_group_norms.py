"""The epsilon of the U-Net's group norms: 1e-5 in its blocks and before its output, as LDM and diffusers have it.

A norm of values with variance v divides by sqrt(v + epsilon). With tiny v that is as if the norm's weight were smaller
by sqrt(v / (v + epsilon)), so two models make the same image: one with tiny values before a norm, one with large values
and that weight.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sd1_model
from sd1_model import UNET

from sdcffi import Engine

EPSILON = 1e-5
LAST = f"{UNET}output_blocks.7."
TINY, LARGE = 2.0**-8, 4.0
WIDTH = 320
# Variance of the first channel of torch.manual_seed(1); torch.randn(1, 4, 8, 8), and what the U-Net gets of it at the
# first step: divided by sqrt(1 + 1 / sigma^2), sigma = 14.6146.
NOISE = 1.0140781167936603 / (1 + 1 / 14.6146**2)


def same_channels(gain: float, first: int = 0, inputs: int = WIDTH) -> npt.NDArray[Any]:
    """A convolution that multiplies each of the channels from `first` on."""
    weight = np.zeros((WIDTH, inputs, 3, 3), np.float32)
    weight[np.arange(WIDTH), first + np.arange(WIDTH), 1, 1] = gain
    return weight


def changes(norm: str, size: float, weight: float) -> dict[str, npt.NDArray[Any]]:
    """Weights with values as large as `size` before one of the norms, and that norm's weight.

    Before the second and the third of them, silu(30 + 2 x) is nearly 30 + 2 x, so the variance is 4 times size^2.
    """
    ones, first = np.ones(WIDTH, np.float32), np.zeros((WIDTH, 4, 3, 3), np.float32)
    first[:, 0, 1, 1] = size if norm == "in_layers" else LARGE
    block = f"{LAST}0."
    found = {
        f"{UNET}input_blocks.0.0.weight": first,
        f"{block}in_layers.0.weight": np.ones(2 * WIDTH, np.float32),
        f"{block}in_layers.2.weight": same_channels(size if norm == "out_layers" else 1, WIDTH, 2 * WIDTH),
        f"{block}out_layers.0.weight": ones,
        f"{block}out_layers.3.weight": same_channels(size if norm == "out" else 1),
        f"{block}emb_layers.1.weight": np.zeros((WIDTH, 1280), np.float32),
        f"{block}skip_connection.weight": np.zeros((WIDTH, 2 * WIDTH, 1, 1), np.float32),
        f"{LAST}1.proj_out.weight": np.zeros((WIDTH, WIDTH, 1, 1), np.float32),
        f"{UNET}out.0.weight": ones,
    }
    before = {"out_layers": f"{block}in_layers.0", "out": f"{block}out_layers.0"}.get(norm)
    if before:
        found[f"{before}.weight"] = 2 * found[f"{before}.weight"]
        found[f"{before}.bias"] = np.full_like(found[f"{before}.weight"], 30)
    name = f"{UNET}out.0.weight" if norm == "out" else f"{block}{norm}.0.weight"
    found[name] = found[name] * np.float32(weight)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["out", "in_layers", "out_layers"])
def test_epsilon_is_that_of_the_authors(norm: str, tmp_path: Path) -> None:
    variance = TINY**2 * (NOISE if norm == "in_layers" else 4)
    weight = math.sqrt(variance / (variance + EPSILON))
    taesd = sd1_model.write_taesd(tmp_path / "taesd.safetensors", gain=0.3)
    images = []
    for size, factor in ((TINY, 1.0), (LARGE, weight), (LARGE, 1.0)):
        path = sd1_model.write(
            sd1_model.small().tensors, tmp_path / "model.safetensors", changes=changes(norm, size, factor)
        )
        call: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 1}
        with Engine(model=path, taesd=taesd, rng="cpu", threads=2, backend="cpu") as engine:
            images.append(np.asarray(engine.generate("", **call).images[0]).astype(int))
        path.unlink()
    assert np.abs(images[2] - images[1]).max() >= 3  # so the weight shows, through the norms behind it
    assert np.abs(images[0] - images[1]).mean() < np.abs(images[2] - images[1]).mean() / 4
