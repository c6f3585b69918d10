"""Masks: what is outside stays, what is gray is mixed, and inpainting models are guided by what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import IMAGES, columns
from PIL import Image, ImageFilter
from sdcli import THREADS
from tiny_model import TinyModel

from sdcffi import Engine, Hires, Record, Result, replay
from sdcffi.images.paste import paste_weights

CALL: dict[str, Any] = {"prompt": "a lovely cat", "steps": 3, "seed": 42, "cfg_scale": 1.0}
START = {**CALL, "init_image": IMAGES["init"], "strength": 1.0}
BOX = (24, 16, 40, 40)


def mask_of(left: int, top: int, right: int, bottom: int) -> np.ndarray[Any, Any]:
    mask = np.zeros((64, 64, 1), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(**tiny_model.engine_arguments(), threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


def both(engine: Engine, **call: Any) -> tuple[Result, Result]:
    """The image with the original put back, and the one that the engine decoded."""
    return engine.generate(**{**START, **call}), engine.generate(**{**START, **call, "paste_back": False})


@pytest.mark.parametrize("blur", [None, 0, 8])
def test_outside_of_the_blurred_mask_every_pixel_is_the_original(engine: Engine, blur: float | None) -> None:
    pasted, decoded = both(engine, mask_image=BOX, mask_blur=blur)
    radius = 4 if blur is None else blur
    mask = mask_of(*BOX)
    edge = Image.fromarray(mask[..., 0]).filter(ImageFilter.GaussianBlur(radius or 0.01))
    outside = np.asarray(edge) == 0
    assert np.array_equal(pasted.arrays[0][outside], IMAGES["init"][outside])
    assert not np.array_equal(decoded.arrays[0][outside], IMAGES["init"][outside]), "nothing to put back"
    inside = mask[..., 0] == 255
    assert np.array_equal(pasted.arrays[0][inside], decoded.arrays[0][inside])
    layers = (Image.fromarray(pixels) for pixels in (decoded.arrays[0], IMAGES["init"]))
    whole = Image.composite(*layers, Image.fromarray(paste_weights(mask, radius)))
    assert np.array_equal(pasted.arrays[0], np.asarray(whole))


def test_every_image_of_a_batch_and_of_a_second_pass_gets_the_original(engine: Engine) -> None:
    pasted, decoded = both(engine, mask_image=BOX, batch_count=2, hires=Hires(scale=2, steps=1))
    large = np.asarray(Image.fromarray(IMAGES["init"]).resize((128, 128), Image.Resampling.LANCZOS))
    for image, raw in zip(pasted.arrays, decoded.arrays, strict=True):
        assert np.array_equal(image[:, 110:], large[:, 110:])
        assert np.array_equal(image[34:78, 50:78], raw[34:78, 50:78])


def test_the_original_is_the_one_that_was_resized(engine: Engine) -> None:
    call = {**CALL, "width": 64, "height": 64, "init_image": IMAGES["wide"], "mask_image": (30, 10, 60, 40)}
    padded = engine.generate(**call, resize="pad", mask_blur=0)
    assert isinstance(padded.parameters.init_image, np.ndarray)
    assert not padded.arrays[0][:8].any(), "bars stay black"
    assert np.array_equal(padded.arrays[0][50:], padded.parameters.init_image[50:])


def test_the_record_knows_how_and_a_replay_does_the_same(engine: Engine, tmp_path: Path, tiny_model: TinyModel) -> None:
    result = engine.generate(**START, mask_image=BOX, mask_blur=2)
    (path,) = result.save(tmp_path / "inpainted.png")
    record = Record.from_file(path)
    assert (record.params.given()["mask_blur"], record.params.given()["paste_back"]) == (2, True)
    assert "Mask blur: 2" in record.infotext()
    models = tiny_model.diffusion_model.parent
    again = replay(path, models=models, init_image=IMAGES["init"], mask_image=BOX, library=None)
    assert again.max_difference == 0


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ({"mask_blur": 4}, ValueError, "mask_blur needs mask_image: pass both"),
        ({"paste_back": False}, ValueError, "paste_back needs mask_image: pass both"),
        ({"mask_image": BOX, "mask_blur": -1}, ValueError, "mask_blur must be from 0 to 1000, not -1"),
        ({"mask_image": BOX, "paste_back": 1}, TypeError, "paste_back must be True or False, not 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    engine: Engine, call: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.generate(**START, **call)


def test_gray_is_a_mixture_of_the_two_latents(engine: Engine) -> None:
    """The last step's latent is m times the prediction plus 1 - m times the original's, so darker gray is nearer."""
    images = [
        engine.generate(**START, mask_image=columns(gray, gray), paste_back=False).arrays[0].astype(float)
        for gray in (0, 40, 100, 180, 255)
    ]
    distances = [np.abs(image - images[0]).mean() for image in images]
    assert distances == sorted(distances)
    assert len(set(distances)) == len(distances), "gray was rounded to black or white"
