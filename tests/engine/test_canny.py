"""Edges: against the same algorithm written in numpy, on shapes whose edges are known, and within a call that draws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from sdcli import Pixels

from sdcffi import Engine, canny

Array = npt.NDArray[np.float32]


def drawing(width: int = 48, height: int = 40) -> Pixels:
    """A bright disc and a dim square on soft noise."""
    noise = np.random.default_rng(0).integers(0, 12, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    pen.ellipse((6, 6, 26, 26), fill=(240, 220, 200))
    pen.rectangle((30, 20, 41, 34), fill=(60, 70, 50))
    return np.asarray(image)


def correlate(image: Array, kernel: Array) -> Array:
    """Kernel times neighbourhood, with zeros around the picture."""
    reach = kernel.shape[0] // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, reach), kernel.shape)
    return np.einsum("yxij,ij->yx", windows, kernel).astype(np.float32)


def edges(pixels: Pixels, high: float, low: float, weak: float, strong: float, inverse: bool) -> Array:
    """The steps of `preprocess_canny` in upstream's preprocessing.hpp, 0 to 1."""
    grey = (pixels.astype(np.float32) / 255) @ np.float32([0.2989, 0.5870, 0.1140])
    axis = np.arange(-2, 3)
    gauss = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.4**2)) / (2 * math.pi * 1.4**2)
    grey = correlate(grey, gauss.astype(np.float32))
    across = correlate(grey, np.float32([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]))
    down = correlate(grey, np.float32([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]))
    strength = np.sqrt(across**2 + down**2)
    strength = strength / strength.max()
    thin = thinned(strength, np.degrees(np.arctan2(down, across)))
    top = thin.max() * high
    marked = np.where(thin >= top, np.float32(strong), np.where(thin >= top * low, np.float32(weak), thin))
    height, width = marked.shape
    marked[:3] = marked[:, :3] = marked[height - 2 :] = marked[:, width - 2 :] = 0
    followed = follow(marked, np.float32(weak), np.float32(strong))
    return 1 - followed if inverse else followed


def thinned(strength: Array, angle: Array) -> Array:
    """Keep what is as strong as its neighbours above and below.

    Upstream means to look along the gradient, but its ranges of angles are the wrong way round: the first takes all up
    to 157.5 degrees, and what is left must be the strongest of the picture.
    """
    result = np.zeros_like(strength)
    angle = np.where(angle < 0, angle + 180, angle)[1:-1, 1:-1]
    above, here, below = (strength[row : strength.shape[0] - 2 + row, 1:-1] for row in (0, 1, 2))
    kept = np.where(angle <= 157.5, (here >= above) & (here >= below), here >= 1)
    result[1:-1, 1:-1] = np.where(kept, here, 0)
    return result


def follow(marked: Array, weak: np.float32, strong: np.float32) -> Array:
    for y in range(1, marked.shape[0] - 1):
        for x in range(1, marked.shape[1] - 1):
            if marked[y, x] == weak:
                around = [marked[y - 1, x + 1], marked[y, x + 1], marked[y - 1, x], marked[y + 1, x]]
                around += [marked[y - 1, x - 1], marked[y, x - 1]]
                marked[y, x] = strong if strong in around else 0
    return marked


SETTINGS = {"high_threshold": 0.08, "low_threshold": 0.08, "weak": 0.8, "strong": 1.0, "inverse": False}


@pytest.mark.parametrize(
    "changes",
    [{}, {"inverse": True}, {"high_threshold": 0.4, "low_threshold": 0.2}, {"strong": 0.6, "weak": 0.3}],
    ids=str,
)
def test_edges_are_those_of_the_algorithm(changes: dict[str, Any]) -> None:
    """Sums in another order may move a value over a threshold: one pixel in a thousand may differ."""
    found = canny(drawing(), **changes, isolated=False)
    expected = edges(drawing(), *{**SETTINGS, **changes}.values())
    differing = np.abs(found - (expected * 255)[..., None]).max(axis=2) > 0.51
    assert differing.mean() < 0.001
    assert found.shape == (40, 48, 3)
    assert 30 < (found == round(255 * float(changes.get("strong", 1)))).all(axis=2).sum() < 0.95 * 40 * 48


def test_the_border_of_a_rectangle_is_found_where_it_is() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[12:28] = 255
    bright = canny(pixels, isolated=False)[:, 20, 0] > 128
    assert set(np.flatnonzero(bright)) <= {10, 11, 12, 13, 26, 27, 28, 29}
    assert bright[11:13].any()
    assert bright[27:29].any()


@pytest.mark.parametrize("brightness", [0, 128])
def test_a_picture_of_one_colour_has_no_edges(brightness: int) -> None:
    assert not canny(np.full((24, 24, 3), brightness, np.uint8), isolated=False).any()


def test_the_picture_given_is_not_changed_and_both_modes_agree(tmp_path: Path) -> None:
    pixels, path = drawing(), tmp_path / "drawing.png"
    before = pixels.copy()
    pixels.flags.writeable = False
    Image.fromarray(pixels).save(path)
    found = canny(pixels, isolated=False)
    assert np.array_equal(pixels, before)
    assert np.array_equal(found, canny(path))
    found[:] = 7  # the caller's own


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 4)])
def test_a_picture_of_border_only_has_no_edges(size: tuple[int, int]) -> None:
    assert not canny(drawing()[: size[0], : size[1]], isolated=False).any()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"high_threshold": 1.5}, ValueError, "high_threshold must be from 0 to 1, not 1.5"),
        ({"low_threshold": math.nan}, ValueError, "low_threshold must be finite"),
        ({"weak": None}, TypeError, "weak must be a number, not None"),
        ({"weak": 1.0}, ValueError, "weak and strong must differ, but both are 1.0"),
        ({"inverse": 1}, TypeError, "inverse must be True or False, not 1"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, ValueError, "image"),
        ({"image": np.zeros((4, 4, 2), np.uint8)}, ValueError, "image"),
    ],
)
def test_a_bad_argument_is_refused(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        canny(**{"image": drawing(), **changes})


# --- within a call that draws ---

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 48, "height": 48, "steps": 1, "cfg_scale": 1.0, "seed": 1}


def test_a_call_draws_with_the_edges_of_its_hint(shared: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has no ControlNet; that it takes hints is pretended, and what it was given is looked at."""
    monkeypatch.setattr(shared, "_model", replace(shared._model, takes_hint=None))
    hint = drawing(48, 48)
    result = shared.generate(**DRAW, control_image=hint, canny=True)
    assert result.parameters.control_image is not None
    assert np.array_equal(result.parameters.control_image, canny(hint))
    assert np.array_equal(hint, drawing(48, 48))


def test_edges_of_nothing_are_refused(shared: Engine) -> None:
    with pytest.raises(ValueError, match="canny=True needs control_image"):
        shared.generate(**DRAW, canny=True)
    with pytest.raises(TypeError, match="canny must be True or False, not 'yes'"):
        shared.generate(**DRAW, canny="yes")  # type: ignore[arg-type]
