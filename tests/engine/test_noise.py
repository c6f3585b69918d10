"""The noise of a seed is that of the program that has it: a model that adds nothing shows it in its image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference_noise
import text_shapes
import transformer_shapes
from safetensors.numpy import save_file
from sparse import write_random

from sdcffi import Engine

Array = npt.NDArray[np.float64]
CHANNELS, WIDTH, HEIGHT = 16, 64, 48
SIZE = CHANNELS * HEIGHT * WIDTH // 64
COLOURS = (np.random.default_rng(0).standard_normal((3, CHANNELS)) * 0.03).astype(np.float16)
GENERATORS = {"cuda": reference_noise.cuda, "cpu": reference_noise.cpu}
# Seeds of one and of two words: the web UI's are below 2**32.
SEEDS = {"cuda": (0, 42, 2**32 - 1, 2**32 + 5), "cpu": (0, 42, 2**32 - 1)}


def write_decoder(path: Path) -> Path:
    """A tiny autoencoder whose image is 0.5 + `COLOURS` @ latent, but that latents are limited to 3 by a tanh."""
    tensors: dict[str, npt.NDArray[Any]] = {}

    def conv(name: str, matrix: npt.NDArray[Any], bias: float | None = 0.0) -> None:
        kernel = np.zeros((*matrix.shape, 3, 3), np.float16)
        kernel[..., 1, 1] = matrix
        tensors[f"{name}.weight"] = kernel
        if bias is not None:
            tensors[f"{name}.bias"] = np.full(len(matrix), bias, np.float32)

    signs = np.zeros((64, CHANNELS))  # both signs of each channel, as the layers between have a ReLU
    signs[:CHANNELS], signs[32 : 32 + CHANNELS] = np.eye(CHANNELS), -np.eye(CHANNELS)
    conv("decoder.layers.0", signs)
    for block in (2, 3, 4, 7, 8, 9, 12, 13, 14, 17):
        for layer in (0, 2, 4):
            conv(f"decoder.layers.{block}.conv.{layer}", np.zeros((64, 64)))
    for layer in (6, 11, 16):
        conv(f"decoder.layers.{layer}", np.eye(64), None)
    conv("decoder.layers.18", COLOURS @ signs.T.astype(np.float16), 0.5)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module", params=GENERATORS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """FLUX.1 of zeros, with one generator of random numbers."""
    place = tmp_path_factory.mktemp("noise")
    shapes = transformer_shapes.flux(double=1, single=1)
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, place / "zeros.safetensors")
    files = {
        "diffusion_model": place / "zeros.safetensors",
        "clip_l": write_random(text_shapes.clip_l(), place / "clip_l.safetensors"),
        "t5xxl": write_random(text_shapes.NO_T5, place / "t5.safetensors"),
        "taesd": write_decoder(place / "taesd.safetensors"),
    }
    chosen = {} if request.param == "cuda" else {"rng": request.param}  # cuda is the default
    with Engine(**files, **chosen, threads=1, backend="cpu") as engine:
        engine.generator = request.param  # type: ignore[attr-defined]
        yield engine


def images(engine: Engine, seed: int, **call: Any) -> list[Array]:
    """Images without the middle grey, one pixel for each cell of the latent."""
    found = engine.generate("", width=WIDTH, height=HEIGHT, seed=seed, cfg_scale=1.0, sampler="euler", **call).arrays
    for image in found:
        assert np.array_equal(image, image[::8, ::8].repeat(8, 0).repeat(8, 1)), "the decoder mixes cells"
    return [image[::8, ::8] / 255 - 0.5 for image in found]


def seen(latent: Array) -> Array:
    """The image of a latent."""
    limited = 3 * np.tanh(latent.reshape(CHANNELS, -1) / 3)
    return np.asarray((COLOURS.astype(float) @ limited).T.reshape(HEIGHT // 8, WIDTH // 8, 3))
