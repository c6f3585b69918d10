"""The models that are measured, with random weights, written once and kept in the user's cache directory (6 GB).

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
import upscaling_networks
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
            return np.full(shape, 1.0 if name.endswith("weight") else 0.0)
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
    path = _kept("sd15.safetensors", lambda file: _write_random(full_size.sd1().tensors, file))
    if type != "f16":
        path = _kept(f"sd15-{type}.gguf", lambda file, source=path: convert(source, file, type=type))
    return {"model": str(path), "taesd": str(_kept("taesd.safetensors", sd1_model.write_taesd))}


def autoencoder() -> Files:
    """Stable Diffusion 1.5's autoencoder at real size beside a small U-Net, so that what counts is the autoencoder."""
    unet = _kept("sd1-small.safetensors", lambda file: full_size.write_zeros(sd1_model.small().tensors, file))
    return {"model": str(unet), "vae": str(_kept("vae.safetensors", _write_autoencoder))}


def upscaler() -> Files:
    """Real-ESRGAN's network with 6 blocks, which makes images four times as wide and high."""
    weights = upscaling_networks.random_weights(4, UPSCALER_BLOCKS)
    name = f"rrdbnet-x4-{UPSCALER_BLOCKS}.safetensors"
    return {"upscale_model": str(_kept(name, lambda file: upscaling_networks.write_network(file, weights)))}


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
    "autoencoder": autoencoder,
    "upscaler": upscaler,
}


def picture(size: int) -> str:
    """An image to begin with."""
    from PIL import Image

    def write(file: Path) -> None:
        small = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(file)

    return str(_kept(f"picture-{size}.png", write))


def _tiny() -> TinyModel:
    return write_model(_directory() / "tiny")


def _write_random(tensors: Mapping[str, full_size.Shape], path: Path) -> None:
    full_size.write_zeros(tensors, path, RandomValues(tensors))


def _write_autoencoder(path: Path) -> None:
    layout = full_size.Layout()
    full_size.autoencoder(layout)
    _write_random({name.removeprefix("first_stage_model."): shape for name, shape in layout.tensors.items()}, path)


def _kept(name: str, write: Callable[[Path], Any]) -> Path:
    path = _directory() / name
    if not path.exists():
        with replacing(path) as temporary:
            write(temporary)
    return path


def _directory() -> Path:
    directory = cache_directory() / "bench" / "models"
    os.makedirs(directory, exist_ok=True)
    return directory
