"""Pictures in: what is taken, what is refused, what is copied."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcffi.images import as_mask, as_rgb, to_pillow

PIXELS = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_a_contiguous_uint8_array_is_not_copied() -> None:
    assert as_rgb(PIXELS, "init_image") is PIXELS


def test_a_strided_array_is_copied_to_a_contiguous_one() -> None:
    strided = PIXELS[:, ::-1]
    taken = as_rgb(strided, "init_image")
    assert taken.flags.c_contiguous
    assert (taken == strided).all()


def test_a_pillow_image_a_file_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    path = tmp_path / "picture.png"
    path.write_bytes(png(image))
    for source in (image, path, str(path), path.read_bytes()):
        assert (as_rgb(source, "init_image") == PIXELS).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert as_rgb(Image.fromarray(PIXELS).convert(mode), "init_image").shape == (6, 4, 3)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees
    turned = as_rgb(png(Image.fromarray(PIXELS), exif=exif), "init_image")
    assert (turned == np.rot90(PIXELS, 3)).all()


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (PIXELS.astype(np.float32), ValueError, r"uint8 array of shape \(H, W, 3\), not float32 \(6, 4, 3\)"),
        (PIXELS[..., :1], ValueError, r"not uint8 \(6, 4, 1\)"),
        (PIXELS[:0], ValueError, r"not uint8 \(0, 4, 3\)"),
        (b"no picture", ValueError, "init_image cannot be read as a picture"),
        ("/does/not/exist.png", ValueError, "is not a file"),
        (3, TypeError, "init_image must be an array, a Pillow image, a path or bytes"),
    ],
)
def test_what_cannot_be_taken_without_guessing_is_refused(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_rgb(image, "init_image")


def test_masks_have_one_channel() -> None:
    assert as_mask(PIXELS[..., 0], "mask_image").shape == (6, 4, 1)
    assert as_mask(Image.fromarray(PIXELS), "mask_image").shape == (6, 4, 1)
    with pytest.raises(ValueError, match=r"\(H, W, 1\)"):
        as_mask(PIXELS, "mask_image")


def test_pixels_go_through_pillow_and_back() -> None:
    assert (np.asarray(to_pillow(PIXELS)) == PIXELS).all()
