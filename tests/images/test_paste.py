"""The original outside of a mask: exactly, and mixed as Pillow mixes; by weights as AUTOMATIC1111 computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sdcffi.images.paste import paste_original, paste_weights

Pixels = np.ndarray[Any, Any]


def noise(seed: int, height: int = 60, width: int = 80, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def box(left: int, top: int, right: int, bottom: int) -> Pixels:
    mask = np.zeros((60, 80, 1), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def of_web_interface(mask: Pixels, blur: float) -> Pixels:
    """`mask_for_overlay` of AUTOMATIC1111's processing.py, whose older versions blur with Pillow."""
    blurred = Image.fromarray(mask[..., 0]).filter(ImageFilter.GaussianBlur(blur))
    return np.clip(np.asarray(blurred).astype(np.float32) * 2, 0, 255).astype(np.uint8)


SOFT = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (60, 1))[..., None]


@pytest.mark.parametrize("mask", [box(10, 20, 50, 45), box(0, 0, 40, 60), SOFT], ids=["box", "half", "soft"])
@pytest.mark.parametrize("blur", [0, 1.5, 4, 64])
def test_weights_are_those_of_the_web_interface_and_never_below_the_mask(mask: Pixels, blur: float) -> None:
    weights = paste_weights(mask, blur)
    expected = of_web_interface(mask, blur)
    below = mask[..., 0] > expected
    assert np.array_equal(weights[~below], expected[~below])
    assert np.array_equal(weights[below], mask[..., 0][below])


@pytest.mark.parametrize("blur", [0, 4])
def test_pixels_are_those_of_pillow_s_composite(blur: float) -> None:
    generated, original, mask = noise(1), noise(2), box(10, 20, 50, 45)
    expected = Image.composite(
        *(Image.fromarray(pixels) for pixels in (generated, original)), Image.fromarray(paste_weights(mask, blur))
    )
    pasted = generated.copy()
    paste_original([pasted], original, mask, blur)
    assert np.array_equal(pasted, np.asarray(expected))
    inside = mask[..., 0] == 255
    assert np.array_equal(pasted[inside], generated[inside])
    outside = np.asarray(Image.fromarray(mask[..., 0]).filter(ImageFilter.GaussianBlur(blur or 0.01))) == 0
    assert outside.any()
    assert np.array_equal(pasted[outside], original[outside])


def test_every_image_of_a_batch_gets_the_original_scaled_to_its_size() -> None:
    original, mask = noise(3), box(16, 12, 40, 36)
    batch = [noise(seed, 120, 160) for seed in (4, 5)]
    before = [image.copy() for image in batch]
    paste_original(batch, original, mask, 4)
    large = np.asarray(Image.fromarray(original).resize((160, 120), Image.Resampling.LANCZOS))
    for image, generated in zip(batch, before, strict=True):
        assert np.array_equal(image[26:70, 34:78], generated[26:70, 34:78])
        assert np.array_equal(image[100:], large[100:])
        assert np.array_equal(image[:, 110:], large[:, 110:])


def test_a_white_mask_changes_nothing_and_a_black_one_everything() -> None:
    generated, original = noise(6), noise(7)
    for mask, expected in ((np.full((60, 80, 1), 255, np.uint8), generated), (box(0, 0, 0, 0), original)):
        pasted = generated.copy()
        paste_original([pasted], original, mask, 4)
        assert np.array_equal(pasted, expected)
