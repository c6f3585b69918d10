"""Tiny autoencoders of the families that the engine took for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import IMAGE, anima, ernie
from tiny_model import TinyModel

from sdcffi import Engine


def test_ernie_decodes_with_the_tiny_autoencoder_of_flux2(tiny_model: TinyModel, tmp_path: Path) -> None:
    """ERNIE-Image has FLUX.2's autoencoder."""
    files = {name: path for name, path in ernie(tmp_path).engine.items() if name != "vae"}
    with Engine(**files, taesd=tiny_model.taesd, threads=2, backend="cpu") as engine:
        image = np.asarray(engine.generate("a cat", **IMAGE).images[0]).astype(int)
    assert image.std() > 10
    assert np.isin(image, (0, 255)).mean() < 0.3


@pytest.mark.slow
def test_images_are_encoded_as_one_frame(tmp_path: Path) -> None:
    """The tiny autoencoder of Wan, Qwen-Image and Anima: what is encoded shows in the image that begins with it."""
    rng = np.random.default_rng(0)
    starts = [np.kron(rng.integers(0, 256, (2, 2, 3), np.uint8), np.ones((32, 32, 1), np.uint8)) for _ in range(2)]
    with Engine(**anima(tmp_path).engine, threads=2, backend="cpu") as engine:
        images = [
            np.asarray(
                engine.generate("a cat", **IMAGE | {"steps": 4}, init_image=start, strength=0.3).images[0]
            ).astype(int)
            for start in starts
        ]
    assert np.abs(images[0] - images[1]).mean() > 4
