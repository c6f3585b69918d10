"""Tiny autoencoders of the families that the engine took for others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from families import IMAGE, FamilyModel, anima, ernie, qwen_image
from tiny_model import TinyModel

from sdcffi import Engine


def test_ernie_decodes_with_the_tiny_autoencoder_of_flux2(tiny_model: TinyModel, tmp_path: Path) -> None:
    """ERNIE-Image has FLUX.2's autoencoder."""
    files = {name: path for name, path in ernie(tmp_path).engine.items() if name != "vae"}
    with Engine(**files, taesd=tiny_model.taesd, threads=2, backend="cpu") as engine:
        image = np.asarray(engine.generate("a cat", **IMAGE).images[0]).astype(int)
    assert image.std() > 10
    assert np.isin(image, (0, 255)).mean() < 0.3


def starts() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 256, (2, 2, 3), np.uint8), np.ones((32, 32, 1), np.uint8)) for _ in range(2)]


def difference(family: Callable[[Path], FamilyModel], directory: Path, given: Callable[[Any], dict[str, Any]]) -> float:
    """How far apart on average the images are that begin with, or refer to, one and another image."""
    with Engine(**family(directory).engine, threads=2, backend="cpu") as engine:
        one, other = (
            np.asarray(engine.generate("a cat", **IMAGE | given(image)).images[0]).astype(int) for image in starts()
        )
    return float(np.abs(one - other).mean())


@pytest.mark.slow
@pytest.mark.parametrize("family", [anima, qwen_image])
def test_images_are_encoded_as_one_frame(family: Callable[[Path], FamilyModel], tmp_path: Path) -> None:
    """The tiny autoencoder of Wan, Qwen-Image and Anima: what is encoded shows in the image that begins with it."""
    assert difference(family, tmp_path, lambda image: {"init_image": image, "steps": 4, "strength": 0.3}) > 4


@pytest.mark.slow
def test_images_that_qwen_refers_to_are_encoded_as_one_frame(tmp_path: Path) -> None:
    assert difference(qwen_image, tmp_path, lambda image: {"ref_images": [image]}) > 4
