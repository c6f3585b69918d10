"""The noise of a seed is that of the program that has it: a model that adds nothing shows it in its image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference_noise
import sd1_model
import text_shapes
import transformer_shapes
from safetensors.numpy import load_file, save_file
from sparse import write_random

from sdcffi import Engine, ImageParams, SampleParams

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]
CHANNELS, WIDTH, HEIGHT = 16, 64, 48
SIZE = CHANNELS * HEIGHT * WIDTH // 64
COLOURS = (np.random.default_rng(0).standard_normal((3, CHANNELS)) * 0.03).astype(np.float16)
GENERATORS = {"cuda": reference_noise.cuda, "cpu": reference_noise.cpu, "std_default": reference_noise.libstdcxx}
# Seeds of one and of two words: the web UI's are below 2**32.
SEEDS = {"cuda": (0, 42, 2**32 - 1, 2**32 + 5), "cpu": (0, 42, 2**32 - 1), "std_default": (1, 42, 2**31)}

GPU = (-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564)  # torch.randn(6) of seed 0


def write_decoder(path: Path) -> Path:
    """A tiny autoencoder whose image is 0.5 + `COLOURS` @ latent, but that latents are limited to 3 by a tanh."""
    tensors: dict[str, npt.NDArray[Any]] = load_file(sd1_model.write_taesd(path, CHANNELS))

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


OF_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="std::normal_distribution is each library's own")
PARAMS = [pytest.param(name, marks=OF_LINUX if name == "std_default" else ()) for name in GENERATORS]


@pytest.fixture(scope="module", params=PARAMS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    """FLUX.1 of zeros, with one generator of random numbers, and its name."""
    place = tmp_path_factory.mktemp("noise")
    shapes = transformer_shapes.flux(double=1, single=1)
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, place / "zeros.safetensors")
    files: dict[str, Any] = {
        "diffusion_model": place / "zeros.safetensors",
        "clip_l": write_random(text_shapes.clip_l(), place / "clip_l.safetensors"),
        "t5xxl": write_random(text_shapes.NO_T5, place / "t5.safetensors"),
        "taesd": write_decoder(place / "taesd.safetensors"),
    }
    chosen: dict[str, Any] = {} if request.param == "cuda" else {"rng": request.param}  # cuda is the default
    with Engine(**files, **chosen, threads=1, backend="cpu") as engine:
        yield engine, request.param


def images(engine: Engine, seed: int, **call: Any) -> list[Array]:
    """Images without the middle grey, one pixel for each cell of the latent."""
    found = engine.generate("", width=WIDTH, height=HEIGHT, seed=seed, cfg_scale=1.0, **call).arrays
    for image in found:
        assert np.array_equal(image, image[::8, ::8].repeat(8, 0).repeat(8, 1)), "the decoder mixes cells"
    return [image[::8, ::8] / 255 - 0.5 for image in found]


def seen(latent: Array) -> Array:
    """The image of a latent."""
    limited = 3 * np.tanh(latent.reshape(CHANNELS, -1) / 3)
    return np.asarray((COLOURS.astype(float) @ limited).T.reshape(HEIGHT // 8, WIDTH // 8, 3))


def test_the_reference_has_the_numbers_of_a_gpu() -> None:
    """The example in AUTOMATIC1111's rng_philox.py."""
    assert np.allclose(reference_noise.cuda(6, 0), GPU, atol=2e-7)


def test_a_seed_has_the_noise_of_the_other_program(opened: tuple[Engine, str]) -> None:
    """It is all that an image of one step has. The image is right to a rounded pixel."""
    engine, name = opened
    for seed in SEEDS[name]:
        (image,) = images(engine, seed, steps=1)
        assert np.abs(image - seen(GENERATORS[name](SIZE, seed))).max() < 0.6 / 255, seed
    for index, image in enumerate(images(engine, 42, steps=1, batch_count=2)):
        assert np.abs(image - seen(GENERATORS[name](SIZE, 42 + index))).max() < 0.6 / 255, index


def test_a_sampler_adds_the_noise_that_follows(opened: tuple[Engine, str]) -> None:
    """ComfyUI's euler_ancestral for flow models, from a noise of 1 to 0.5: a quarter is left, the rest is new."""
    engine, name = opened
    levels = ImageParams(sample_params=SampleParams(custom_sigmas=[1.0, 0.5, 0.0]))
    (image,) = images(engine, 42, steps=2, sampler="euler_a", eta=1.0, params=levels)
    first, second = (GENERATORS[name](SIZE, 42, draw) for draw in (0, 1))
    kept = 0.5 / 0.75
    expected = kept * first + np.sqrt(0.5**2 - (0.25 * kept) ** 2) * second
    assert np.abs(image - seen(expected)).max() < 0.6 / 255
