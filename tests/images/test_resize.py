"""Each size rule against Pillow and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcffi.images.resize import check_rule, fitted_size, resized

WIDE = np.random.default_rng(3).integers(0, 256, (40, 100, 3), np.uint8)
MASK = np.where(np.arange(100) < 37, 255, 0).astype(np.uint8)[None, :, None].repeat(40, axis=0)
LANCZOS, BOX = Image.Resampling.LANCZOS, Image.Resampling.BOX


def pillow(pixels: np.ndarray[Any, Any], size: tuple[int, int], **more: Any) -> np.ndarray[Any, Any]:
    return np.asarray(Image.fromarray(pixels).resize(size, LANCZOS, **more))


def test_stretch_scales_each_side_by_itself() -> None:
    assert np.array_equal(resized(WIDE, (64, 64), "stretch"), pillow(WIDE, (64, 64)))


@pytest.mark.parametrize(
    ("size", "box"),
    [((64, 64), (30, 0, 70, 40)), ((20, 5), (0, 7.5, 100, 32.5)), ((200, 160), (25, 0, 75, 40))],
    ids=["sides cut", "top and bottom cut", "enlarged"],
)
def test_crop_covers_and_cuts_equally(size: tuple[int, int], box: tuple[float, ...]) -> None:
    assert np.array_equal(resized(WIDE, size, "crop"), pillow(WIDE, size, box=box))


@pytest.mark.parametrize(
    ("size", "inner", "left", "top"),
    [((64, 64), (64, 26), 0, 19), ((200, 20), (50, 20), 75, 0), ((128, 128), (128, 51), 0, 38)],
    ids=["bars above and below", "bars at the sides", "enlarged"],
)
def test_pad_keeps_all_of_it_amid_black(size: tuple[int, int], inner: tuple[int, int], left: int, top: int) -> None:
    padded = resized(WIDE, size, "pad")
    place = np.s_[top : top + inner[1], left : left + inner[0]]
    assert padded.shape == (size[1], size[0], 3)
    assert np.array_equal(padded[place], pillow(WIDE, inner))
    padded[place] = 0
    assert not padded.any()


@pytest.mark.parametrize(
    ("picture", "within", "multiple", "fitted"),
    [
        ((1000, 500), (512, 512), 64, (512, 256)),
        ((1000, 700), (512, 512), 64, (512, 384)),  # 358.4 to the nearest
        ((700, 1000), (512, 512), 8, (360, 512)),
        ((500, 333), (512, 384), 64, (512, 320)),
        ((10, 10), (512, 256), 16, (256, 256)),  # enlarged
        ((1000, 10), (512, 512), 64, (512, 64)),  # not to nothing
        ((33, 17), (33, 17), 1, (33, 17)),
    ],
)
def test_fit_keeps_the_aspect_to_the_nearest_multiples(
    picture: tuple[int, int], within: tuple[int, int], multiple: int, fitted: tuple[int, int]
) -> None:
    assert fitted_size(picture, within, multiple) == fitted


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("pixels", [WIDE, MASK], ids=["picture", "mask"])
def test_a_picture_of_the_size_is_not_copied(rule: Any, pixels: np.ndarray[Any, Any]) -> None:
    assert resized(pixels, (100, 40), rule) is pixels


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
def test_masks_are_scaled_by_area(rule: Any) -> None:
    smaller = resized(MASK, (50, 20), rule)
    assert smaller.shape == (20, 50, 1)
    assert smaller.flags.c_contiguous
    row = MASK[0, :, 0].reshape(50, 2).mean(axis=1)
    assert np.array_equal(smaller[0, :, 0], np.where(row == 127.5, 128, row))
    larger = resized(MASK, (200, 80), rule)
    assert np.array_equal(larger, MASK.repeat(2, axis=0).repeat(2, axis=1)), "no value between, and no ringing"


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
def test_every_shape_can_be_brought_to_every_size(rule: Any) -> None:
    rng = np.random.default_rng(8)
    shapes = [tuple(int(side) for side in rng.integers(1, 60, 4)) for _ in range(100)]
    for height, width, high, wide in (*shapes, (1, 3000, 16, 16), (3000, 1, 1, 64), (16, 16, 1, 3000)):
        scaled = resized(np.full((height, width, 3), 200, np.uint8), (wide, high), rule)
        assert scaled.shape == (high, wide, 3)
        assert scaled.dtype == np.uint8
        assert (scaled == 200).all() or rule == "pad"


@pytest.mark.parametrize("rule", ["zoom", "", None, 7, ["fit"]])
def test_an_unknown_rule_is_refused_with_the_legal_ones(rule: Any) -> None:
    with pytest.raises(ValueError, match="resize must be one of error, fit, crop, pad, stretch, not "):
        check_rule(rule)
