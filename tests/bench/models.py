"""The models that are measured, with random weights, written once and kept in the user's cache directory (25 GB).

Each function returns the keyword arguments with which `Engine` loads its model. Speed does not depend on the weights,
but they are scaled as a network's at the start of its training, so that nothing overflows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import sd1_model
import text_shapes
import transformer_shapes
import upscaling_networks
from sparse import write_random
from tiny_model import TinyModel, write_model

from sdcffi import convert
from sdcffi._files import cache_directory, replacing

from .lora import adapters

Files = dict[str, str]
UPSCALER_BLOCKS = 6  # as Real-ESRGAN's network for drawings; that for photographs has 23


class RandomValues(Mapping[str, np.ndarray]):
    """Values for the tensors of a checkpoint, each made when it is asked for."""

    def __init__(self, tensors: Mapping[str, full_size.Shape]) -> None:
        self._tensors = tensors
        self._noise = np.random.default_rng(0).standard_normal((1 << 22) + 1, np.float32)  # odd: no rows repeat

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self._tensors[name]
        if len(shape) < 2:
            return np.full(shape, 1.0 if name.endswith(("weight", "scale")) else 0.0)
        return np.resize(self._noise * np.float32(math.prod(shape[1:]) ** -0.5), shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def tiny() -> Files:
    """The demonstration's model: 1.6 million parameters in the shape of FLUX.2-klein."""
    return {name: str(path) for name, path in _tiny().engine_arguments().items()}


def sd15(type: str = "f16") -> Files:
    """Stable Diffusion 1.5 at real size, with a tiny autoencoder, so that what counts is the U-Net."""
    path = kept("sd15.safetensors", lambda file: _write_random(full_size.sd1().tensors, file))
    if type != "f16":
        path = kept(f"sd15-{type}.gguf", lambda file, source=path: convert(source, file, type=type))
    return {"model": str(path), "taesd": str(kept("taesd.safetensors", sd1_model.write_taesd))}


def sdxl(type: str = "f16") -> Files:
    """Stable Diffusion XL at real size, with a tiny autoencoder."""
    path = kept("sdxl.safetensors", lambda file: _write_random(full_size.sdxl().tensors, file))
    if type != "f16":
        path = kept(f"sdxl-{type}.gguf", lambda file, source=path: convert(source, file, type=type))
    return {"model": str(path), "taesd": str(kept("taesd.safetensors", sd1_model.write_taesd))}


def klein(type: str = "f16") -> Files:
    """Blocks of FLUX.2 klein 4B, 2 double and 4 single ones of real width, with the tiny model's other networks."""
    shapes = transformer_shapes.flux2(transformer_shapes.TEXT, hidden=3072, single=4)
    tensors = shapes.beginning("model.diffusion_model.")
    path = kept("klein.safetensors", lambda file: _write_random(tensors, file))
    if type != "f16":
        path = kept(f"klein-{type}.gguf", lambda file, source=path: convert(source, file, type=type))
    return {**tiny(), "diffusion_model": str(path)}


def text_encoder(type: str = "f16") -> Files:
    """Four layers of a language model, as wide as Qwen3-4B's, before a small transformer.

    The transformer is ERNIE-Image's, for which the engine pads no text, so that a prompt of any length can be measured.
    """
    tensors = text_shapes.ministral(2560, inner=9728, layers=4)
    path = kept("text-encoder.safetensors", lambda file: _write_random(tensors, file))
    if type != "f16":
        path = kept(f"text-encoder-{type}.gguf", lambda file, source=path: convert(source, file, type=type))
    shapes = transformer_shapes.ernie(text=2560).beginning("model.diffusion_model.")
    first = {name: shape for name, shape in shapes.items() if name.endswith("x_embedder.proj.weight")}
    transformer = kept("ernie.safetensors", lambda file: write_random(shapes, file))
    width = kept("ernie-width.safetensors", lambda file: write_random(first, file))  # is read before the others
    return {**tiny(), "model": str(width), "diffusion_model": str(transformer), "llm": str(path)}


def autoencoder() -> Files:
    """Stable Diffusion 1.5's autoencoder at real size beside a small U-Net, so that what counts is the autoencoder."""
    unet = kept("sd1-small.safetensors", lambda file: full_size.write_zeros(sd1_model.small().tensors, file))
    return {"model": str(unet), "vae": str(kept("vae.safetensors", _write_autoencoder))}


def upscaler() -> Files:
    """Real-ESRGAN's network with 6 blocks, which makes images four times as wide and high."""
    weights = upscaling_networks.random_weights(4, UPSCALER_BLOCKS)
    name = f"rrdbnet-x4-{UPSCALER_BLOCKS}.safetensors"
    return {"upscale_model": str(kept(name, lambda file: upscaling_networks.write_network(file, weights)))}


def loras() -> list[str]:
    """Four adapters of rank 4 for the tiny model."""
    directory = _directory() / "loras"
    if not directory.is_dir():
        with replacing(directory) as temporary:
            temporary.mkdir()
            adapters(_tiny(), temporary, 4)
    return [str(path) for path in sorted(directory.glob("*.safetensors"))]


MODELS: dict[str, Callable[[], Files]] = {
    "tiny": tiny,
    "sd15-f16": sd15,
    "sd15-q8_0": lambda: sd15("q8_0"),
    "sd15-q4_0": lambda: sd15("q4_0"),
    "sdxl-f16": sdxl,
    "sdxl-q8_0": lambda: sdxl("q8_0"),
    "klein-f16": klein,
    "klein-q8_0": lambda: klein("q8_0"),
    "klein-q4_K": lambda: klein("q4_K"),
    "text-encoder-f16": text_encoder,
    "text-encoder-q8_0": lambda: text_encoder("q8_0"),
    "autoencoder": autoencoder,
    "upscaler": upscaler,
}


def picture(size: int) -> str:
    """An image to begin with."""
    from PIL import Image

    def write(file: Path) -> None:
        small = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(file)

    return str(kept(f"picture-{size}.png", write))


def _tiny() -> TinyModel:
    return write_model(_directory() / "tiny")


def _write_random(tensors: Mapping[str, full_size.Shape], path: Path) -> None:
    full_size.write_zeros(tensors, path, RandomValues(tensors))


def _write_autoencoder(path: Path) -> None:
    layout = full_size.Layout()
    full_size.autoencoder(layout)
    _write_random({name.removeprefix("first_stage_model."): shape for name, shape in layout.tensors.items()}, path)


def kept(name: str, write: Callable[[Path], Any]) -> Path:
    """A file or directory among the models, written where it is missing."""
    path = _directory() / name
    if not path.exists():
        with replacing(path) as temporary:
            write(temporary)
    return path


def _directory() -> Path:
    directory = cache_directory() / "bench" / "models"
    os.makedirs(directory, exist_ok=True)
    return directory
