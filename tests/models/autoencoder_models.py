"""Full autoencoders with random weights, and models that change nothing of a latent: all of their weights are zeros.

What such a model gives is the autoencoder's: an image is encoded, some noise is added, and it is decoded. Weights come
from a seed, so that tests/oracle/full_autoencoders.py computes the same images with diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import numpy.typing as npt
import sd1_model
import sdxl_model
import text_models
import text_shapes
import transformer_shapes
from full_size import Layout, Shape, write_zeros
from safetensors.numpy import save_file

DECODER = 32  # width of the first level, where the engine reads it from the file; it is 128 in the encoder
SIDE, SEED = 64, 1
_FAINT = -40.0  # log of the variance that the encoder tells: so small that nothing is left to chance
_PREFIX = "model.diffusion_model."


@dataclass(frozen=True)
class Autoencoder:
    """A family's autoencoder.

    Attributes
    ----------
    model : callable
        Writes the model of zeros and returns keywords of `Engine`.
    channels : int
        Of the latent.
    quantised : bool
        Whether there are the two convolutions between the latent and the rest.
    sigmas : tuple of float
        Noise levels, of which that before the last is what the latent gets.
    """

    model: Callable[[Path], dict[str, Any]]
    channels: int
    quantised: bool
    sigmas: tuple[float, ...]


def _whole(shapes: Callable[[], Mapping[str, Shape]]) -> Callable[[Path], dict[str, Any]]:
    def write(directory: Path) -> dict[str, Any]:
        own = {name: shape for name, shape in shapes().items() if not name.startswith("first_stage_model.")}
        return {"model": write_zeros(own, directory / "model.safetensors")}

    return write


def _parts(
    shapes: Callable[[], Mapping[str, Shape]], **text: Callable[[], Mapping[str, Shape]]
) -> Callable[[Path], dict[str, Any]]:
    def write(directory: Path) -> dict[str, Any]:
        files = {name: write_zeros(encoder(), directory / f"{name}.safetensors") for name, encoder in text.items()}
        return {"diffusion_model": write_zeros(shapes(), directory / "diffusion.safetensors"), **files}

    return write


def _sd3(directory: Path) -> dict[str, Any]:
    """In a type that takes a sixteenth of the memory."""
    clip_l = write_zeros(text_shapes.clip_l(), directory / "clip_l.safetensors")
    return {"diffusion_model": text_models.zeros(transformer_shapes.sd3(), directory / "sd3.gguf"), "clip_l": clip_l}


def _flux2() -> Mapping[str, Shape]:
    return transformer_shapes.flux2(transformer_shapes.TEXT)


def _qwen3() -> Mapping[str, Shape]:
    return text_shapes.qwen3(transformer_shapes.TEXT)


def _no_t5() -> Mapping[str, Shape]:
    return text_shapes.NO_T5


AUTOENCODERS: Mapping[str, Autoencoder] = {
    "sd1": Autoencoder(_whole(lambda: sd1_model.small().tensors), 4, True, (3.0, 0.06, 0.0)),
    "sdxl": Autoencoder(_whole(lambda: sdxl_model.vega().tensors), 4, True, (3.0, 0.06, 0.0)),
    "sd3": Autoencoder(_sd3, 16, False, (1.0, 0.4, 0.0)),
    "flux": Autoencoder(
        _parts(transformer_shapes.flux, clip_l=text_shapes.clip_l, t5xxl=_no_t5), 16, False, (1.0, 0.15, 0.0)
    ),
    "flux2": Autoencoder(_parts(_flux2, llm=_qwen3), 32, True, (1.0, 1e-5, 0.0)),  # without what scales its latent
}


def start() -> npt.NDArray[np.uint8]:
    """The image that is encoded: patches of color and some noise."""
    rng = np.random.default_rng(0)
    patches = np.kron(rng.integers(40, 216, (8, 8, 3)), np.ones((SIDE // 8, SIDE // 8, 1)))
    return (patches + rng.integers(-20, 21, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


def shapes(channels: int, *, quantised: bool = True) -> dict[str, Shape]:
    """Names and shapes of the autoencoder of Stable Diffusion and FLUX."""
    encoder, decoder = Layout(), Layout()
    full_size.autoencoder(encoder, latent=channels)
    full_size.autoencoder(decoder, latent=channels, base=DECODER)
    own = {**encoder.tensors, **{name: shape for name, shape in decoder.tensors.items() if ".decoder." in name}}
    named = {name.partition(".")[2]: shape for name, shape in own.items()}
    return {name: shape for name, shape in named.items() if quantised or "quant_conv" not in name}


def weights(channels: int, *, quantised: bool = True) -> dict[str, npt.NDArray[Any]]:
    """Random weights with which the signal stays as strong as it is, in half precision but for vectors."""
    rng = np.random.default_rng(5)
    drawn = {name: _drawn(name, shape, rng) for name, shape in shapes(channels, quantised=quantised).items()}
    for name in ("quant_conv",) if quantised else ("encoder.conv_out",):
        drawn[f"{name}.weight"][channels:] = 0
        drawn[f"{name}.bias"][channels:] = _FAINT
    drawn["decoder.conv_out.weight"] = (drawn["decoder.conv_out.weight"] * np.float16(0.4)).astype(np.float16)
    return drawn


def _drawn(name: str, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
    values = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
        return np.float32("norm" in name and name.endswith("weight")) + values * np.float32(0.1)
    return (values * np.float32(1 / math.sqrt(math.prod(shape[1:])))).astype(np.float16)


def write(family: str, directory: Path) -> dict[str, Any]:
    """Write the model of zeros and its autoencoder; return keywords of `Engine`."""
    kind = AUTOENCODERS[family]
    vae = directory / "vae.safetensors"
    save_file(weights(kind.channels, quantised=kind.quantised), vae)
    return {**kind.model(directory), "vae": vae}
