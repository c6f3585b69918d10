"""Models that other noise levels than their family's first are the default of, where no weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import text_models
import text_shapes
import transformer_shapes
import wan_model
from families import FAMILIES
from sparse import write_random

_WIDTH = 5120
_SIZES = (_WIDTH, 13824)


def schnell(directory: Path) -> Mapping[str, Any]:
    return text_models.flux(directory, guidance=False)


def wan_vace(directory: Path) -> Mapping[str, Any]:
    return _wan(directory, wan_model.write_wan(directory / "vace.gguf", vace=True))


def wan_flf2v(directory: Path) -> Mapping[str, Any]:
    """From the first and the last frame: positions of two images."""
    shapes = transformer_shapes.wan(_SIZES, i2v=True) | {"img_emb.emb_pos": (1, 514, 1280)}
    return _wan(directory, _of_40_blocks(shapes, directory / "flf2v.gguf"), _vision(directory))


def wan_i2v_14b(directory: Path) -> Mapping[str, Any]:
    shapes = transformer_shapes.wan(_SIZES, i2v=True)
    return _wan(directory, _of_40_blocks(shapes, directory / "i2v.gguf"), _vision(directory))


def wan22_t2v(directory: Path) -> Mapping[str, Any]:
    """Two models, here one file: the second is for high noise."""
    model = _of_40_blocks(transformer_shapes.wan(_SIZES), directory / "t2v.gguf")
    return {**_wan(directory, model), "high_noise_diffusion_model": model}


def wan22_i2v(directory: Path) -> Mapping[str, Any]:
    """Two models too, which look at their image by its latent alone."""
    model = _of_40_blocks(transformer_shapes.wan(_SIZES) | _SEES, directory / "i2v.gguf")
    return {**_wan(directory, model), "high_noise_diffusion_model": model}


_SEES = {"patch_embedding.weight": (_WIDTH, 36, 1, 2, 2)}


def _of_40_blocks(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Path:
    """Wan with 14 billion weights, all zeros."""
    weights = wan_model.Weights(0, wan_model.Q2_K)
    for name, shape in shapes.items():
        copies = range(30, 40) if name.startswith("blocks.0.") else ()
        for each in (name, *(name.replace(".0.", f".{i}.", 1) for i in copies)):
            weights.tensors[each] = shape if len(shape) == 2 and shape[0] > 1 else np.zeros(shape, np.float32)
    return weights.write(path)


def _vision(directory: Path) -> dict[str, Path]:
    return {"clip_vision": wan_model.write_vision(directory / "vision.gguf")}


def _wan(directory: Path, model: Path, more: Mapping[str, Path] | None = None) -> Mapping[str, Any]:
    text = write_random(text_shapes.NO_T5, directory / "t5.safetensors")
    taesd = wan_model.write_autoencoder(directory / "taehv.gguf")
    return {"diffusion_model": model, "t5xxl": text, "taesd": taesd, **(more or {})}


def _of(family: str) -> Callable[[Path], Mapping[str, Any]]:
    return lambda directory: FAMILIES[family](directory).engine


SHIFTED: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
    **{family: _of(family) for family in ("wan_ti2v", "wan_i2v")},
    **{write.__name__: write for write in (schnell, wan_vace, wan_flf2v, wan_i2v_14b, wan22_t2v, wan22_i2v)},
}
