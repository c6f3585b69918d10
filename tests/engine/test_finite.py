"""What is not finite is an error that says so, and no image that looks like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sdcli import THREADS
from tiny_model import TinyModel

from sdcffi import Engine, GenerationError

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 3}
PICTURE = np.full((64, 64, 3), 99, np.uint8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("tensor", "images", "said"),
    [
        ("decoder.layers.18.bias", {}, "values of the image are not finite numbers"),
        ("encoder.layers.14.bias", {"init_image": PICTURE}, "values of the encoded image are not finite numbers"),
        ("encoder.layers.14.bias", {"ref_images": [PICTURE]}, "values of the encoded image are not finite numbers"),
    ],
)
def test_a_broken_autoencoder_is_an_error_and_no_white_image(
    tensor: str, images: dict[str, Any], said: str, value: float, tiny_model: TinyModel, tmp_path: Path
) -> None:
    weights = load_file(tiny_model.taesd)
    weights[tensor] = np.full_like(weights[tensor], value)
    save_file(weights, tmp_path / "broken.safetensors")
    files = {**tiny_model.engine_arguments(), "taesd": tmp_path / "broken.safetensors"}
    with Engine(**files, threads=THREADS, backend="cpu") as engine:
        for _ in range(2):
            with pytest.raises(GenerationError, match=said):
                engine.generate("a cat", **DRAW, **images)
        if images:
            assert engine.generate("a cat", **DRAW).arrays[0].std() > 0
