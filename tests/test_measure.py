"""The evaluator of the demonstration model accepts drawings that are right, and refuses each kind of wrong one."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter
from train_demo import drawings
from train_demo.drawings import COLOURS, SHAPES, Ground, Pixels, Scene, draw_scene, jittered, pair, render, single
from train_demo.evaluate import wilson
from train_demo.measure import Verdict, has_style, judge, keeps_colours

pytestmark = pytest.mark.slow  # no part of the package

RIGHT = Verdict(colour=True, background=True, shape=True, position=True, size=True)
BLUE = Ground("plain", ("blue",))
STAR = single("star", "yellow", BLUE, column="left")
TWO = pair(("heart", "red"), ("diamond", "black"), "above", Ground("stripes", ("grey", "green")))
FADING = single("crescent", "pink", Ground("gradient", ("purple", "orange")), size="large", row="top")


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))


def compressed(pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def noisy(pixels: Pixels) -> Pixels:
    noise = np.random.default_rng(0).integers(-8, 9, pixels.shape)
    return (pixels.astype(int) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("worsened", [lambda pixels: pixels, blurred, compressed, noisy])
def test_what_a_scene_draws_is_right(worsened: Callable[[Pixels], Pixels]) -> None:
    """Other sizes and places within what one description leaves open, and soft or noisy pixels, do not matter."""
    rng = np.random.default_rng(1)
    for scene in [draw_scene(rng) for _ in range(12)]:
        assert judge(worsened(render(jittered(scene, rng))), scene) == RIGHT, scene


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_from_every_other(shape: str) -> None:
    for side in (128, 256):
        pixels = render(single(shape, "red", BLUE, size="small"), side)
        seen_as = {name for name in SHAPES if judge(pixels, single(name, "red", BLUE, size="small")).shape}
        assert seen_as == {shape}


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_told_from_every_other(colour: str) -> None:
    ground = Ground("plain", ("pink" if colour != "pink" else "green",))
    pixels = noisy(render(single("cross", colour, ground)))
    seen_as = {name for name in COLOURS if judge(pixels, single("cross", name, ground)).colour}
    assert seen_as == {colour}
    pixels = noisy(render(single("cross", ground.colours[0], Ground("plain", (colour,)))))
    grounds = {name for name in COLOURS if judge(pixels, single("cross", "red", Ground("plain", (name,)))).background}
    assert grounds == {colour}


@pytest.mark.parametrize(
    ("named", "drawn", "wrong"),
    [
        (STAR, single("star", "orange", BLUE, column="left"), "colour"),
        (STAR, single("cross", "yellow", BLUE, column="left"), "shape"),
        (STAR, single("star", "yellow", BLUE), "position"),
        (STAR, single("star", "yellow", BLUE, column="left", row="top"), "position"),
        (STAR, single("star", "yellow", Ground("plain", ("purple",)), column="left"), "background"),
        (STAR, single("star", "yellow", Ground("stripes", ("blue", "red")), column="left"), "background"),
        (STAR, single("star", "yellow", Ground("gradient", ("blue", "black")), column="left"), "background"),
        (FADING, replace(FADING, ground=Ground("gradient", ("orange", "purple"))), "background"),
        (FADING, replace(FADING, ground=Ground("stripes", ("purple", "orange"))), "background"),
        (FADING, replace(FADING, things=(replace(FADING.things[0], radius=28.0),)), "size"),
        (TWO, pair(("diamond", "black"), ("heart", "red"), "above", TWO.ground), "position"),
        (TWO, pair(("heart", "red"), ("diamond", "black"), "left of", TWO.ground), "position"),
        (TWO, pair(("heart", "red"), ("circle", "black"), "above", TWO.ground), "shape"),
        (TWO, pair(("heart", "red"), ("diamond", "blue"), "above", TWO.ground), "colour"),
        (TWO, replace(TWO, ground=Ground("stripes", ("grey", "blue"))), "background"),
    ],
)
def test_one_thing_that_is_wrong_is_all_that_is_refused(named: Scene, drawn: Scene, wrong: str) -> None:
    verdict = judge(noisy(blurred(render(drawn))), named)
    assert verdict == replace(RIGHT, **{wrong: False})
    assert not verdict.right
    assert judge(render(named), named).right


def test_what_the_words_leave_open_is_right() -> None:
    swapped = pair(("star", "red"), ("ring", "blue"), "right of", Ground("stripes", ("black", "white")))
    named = pair(("star", "red"), ("ring", "blue"), "and", Ground("stripes", ("white", "black")))
    assert judge(render(swapped), named) == RIGHT
    assert judge(render(single("star", "red", BLUE, size="large")), single("star", "red", BLUE)) == RIGHT


@pytest.mark.parametrize("scene", [STAR, TWO, FADING])
def test_a_missing_object_is_not_right(scene: Scene) -> None:
    empty = judge(render(replace(scene, things=())), scene)
    assert empty == Verdict(colour=False, background=True, shape=False, position=False, size=False)
    if scene.relation:
        assert not judge(render(replace(scene, things=scene.things[:1])), scene).right


@pytest.mark.parametrize("scene", [STAR, TWO])
def test_any_picture_can_be_judged(scene: Scene) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    lime = np.full((128, 128, 3), (0, 255, 0), np.uint8)
    for pixels in (noise, lime, np.zeros_like(lime)):
        assert not judge(pixels, scene).right
        assert not any(has_style(pixels, scene, style) for style in drawings.STYLES[1:])
        assert not any(keeps_colours(pixels, scene, style) for style in drawings.STYLES[1:])


@pytest.mark.parametrize("style", drawings.STYLES)
@pytest.mark.parametrize("scene", [STAR, TWO, FADING])
def test_a_style_is_told_from_every_other(scene: Scene, style: str) -> None:
    pixels = noisy(render(jittered(scene, np.random.default_rng(2)), style=style))
    assert [name for name in drawings.STYLES[1:] if has_style(pixels, scene, name)] == [style] * (style != "plain")


@pytest.mark.parametrize("style", drawings.STYLES[1:])
def test_a_style_may_not_change_colours(style: str) -> None:
    for thing in ("yellow", "orange"):
        drawn = single("star", thing, BLUE, column="left")
        assert keeps_colours(noisy(render(drawn, style=style)), STAR, style) == (thing == "yellow")


def test_wilsons_interval() -> None:
    """As the books have it; what was not measured has none."""
    share = wilson([True] * 9 + [False])
    assert (share["right"], share["of"], share["share"]) == (9, 10, 0.9)
    assert (share["low"], share["high"]) == pytest.approx((0.596, 0.982), abs=1e-3)
    assert wilson([]) == {"right": 0, "of": 0}
