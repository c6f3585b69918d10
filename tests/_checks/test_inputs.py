"""The pictures of a call: one path for all of them, their sizes, and the size that is drawn."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from engine_defaults import IMAGE
from PIL import Image

from sdcffi import Engine, ImageParams, PhotoMaker
from sdcffi._checks.image import check_image
from sdcffi._checks.inputs import generated_size, take_images
from sdcffi._models.architectures import _TABLE
from sdcffi._models.files import Model
from sdcffi.images.resize import resized

SD1 = Model(architecture=_TABLE["sd1"], takes_hint=True, encodes=True)  # multiples of 64
FLUX2 = Model(architecture=_TABLE["flux2"], takes_hint=True, encodes=True)  # of 16
UNKNOWN = Model()
RULES: list[Any] = ["fit", "crop", "pad", "stretch"]
DRAW: dict[str, Any] = {"prompt": "a cat", "steps": 1, "seed": 3, "cfg_scale": 1.0}


def picture(width: int, height: int, channels: int = 3) -> Any:
    return np.random.default_rng(width).integers(0, 256, (height, width, channels), np.uint8)


def size(pixels: Any) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def taken(model: Model = FLUX2, resize: Any = "error", **fields: Any) -> Any:
    """What goes to the engine, which it has not to scale."""
    params: Any = check_image(ImageParams(**fields), model, IMAGE, resize)
    for name in ("init_image", "mask_image", "control_image"):
        if getattr(params, name) is not None:
            assert size(getattr(params, name)) == generated_size(params.width, params.height, model)
    return params


# The size that is drawn.


@pytest.mark.parametrize(
    ("fields", "drawn"),
    [
        ({"init_image": picture(96, 64)}, (96, 64)),
        ({"init_image": picture(96, 64), "ref_images": [picture(80, 80)]}, (96, 64)),
        ({"init_image": picture(96, 64), "width": 96}, (96, 64)),
        ({"init_image": picture(96, 64), "height": 64}, (96, 64)),
        ({"init_image": picture(96, 64), "width": 96, "height": 64}, (96, 64)),
        ({"control_image": picture(96, 64)}, (96, 64)),
        ({"ref_images": [picture(80, 64), picture(64, 64)]}, (80, 64)),
        ({"ref_images": [picture(80, 64)], "width": 160}, (160, 128)),
        ({"ref_images": [picture(80, 64)], "height": 640, "width": 32}, (32, 640)),
    ],
)
def test_a_size_that_is_not_asked_for_is_the_pictures(fields: dict[str, Any], drawn: tuple[int, int]) -> None:
    params = taken(**fields)
    assert (params.width, params.height) == drawn


def test_without_pictures_the_size_is_left_to_the_engine() -> None:
    for fields in ({}, {"ref_images": []}, {"pm_params": PhotoMaker(style_strength=5)}):
        params = ImageParams(prompt="a", **fields)  # type: ignore[arg-type]
        assert take_images(params, FLUX2).given().keys() == params.given().keys()


@pytest.mark.parametrize("name", ["init_image", "control_image"])
@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        (
            FLUX2,
            {"width": 64, "height": 64},
            "is 96x64 pixels, the result is 64x64 (in multiples of 16); pass resize='fit'",
        ),
        (FLUX2, {"height": 32}, "is 96x64 pixels, the result is 48x32"),
        (SD1, {}, "is 96x64 pixels, the result is 128x64 (in multiples of 64); pass resize="),
        (UNKNOWN, {}, "is 96x64 pixels, the result is 128x64; pass resize="),
        (UNKNOWN, {"width": 96, "height": 64}, "is 96x64 pixels, the result is 128x64; pass resize="),
    ],
)
def test_another_size_is_refused(name: str, model: Model, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        taken(model, **fields, **{name: picture(96, 64)})
    assert said in str(caught.value)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("model", "asked", "within"),
    [
        (FLUX2, (64, 64), (64, 64)),
        (FLUX2, (60, 200), (64, 208)),
        (SD1, (None, None), (128, 64)),
        (SD1, (65, None), (128, 64)),
        (UNKNOWN, (None, None), (128, 64)),
        (UNKNOWN, (64, 64), (64, 64)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*generates sizes in multiples of")
def test_the_target_is_the_size_that_is_drawn(
    rule: Any, model: Model, asked: tuple[int | None, int | None], within: tuple[int, int]
) -> None:
    init = picture(96, 64)
    params = taken(model, rule, init_image=init, width=asked[0], height=asked[1])
    if rule != "fit":
        assert np.array_equal(params.init_image, resized(init, within, rule))
        assert generated_size(params.width, params.height, model) == within


def test_fit_gives_the_result_the_pictures_aspect() -> None:
    params = taken(FLUX2, "fit", init_image=picture(96, 64), width=48, height=512, control_image=picture(64, 64))
    assert (params.width, params.height) == (48, 32)
    assert np.array_equal(params.control_image, resized(picture(64, 64), (48, 32), "crop"))
    params = taken(SD1, "fit", init_image=picture(500, 333))
    assert (params.width, params.height) == (512, 320)
    assert np.array_equal(params.init_image, resized(picture(500, 333), (512, 320), "crop"))


def test_an_unknown_models_size_must_be_every_models() -> None:
    with pytest.raises(ValueError, match="width and height must be multiples of 64 with init_image, not 72 and 64"):
        taken(UNKNOWN, "crop", init_image=picture(96, 64), width=72, height=64)


def test_a_bad_size_beside_a_picture_is_refused() -> None:
    for width, error in ((0, ValueError), ("64", TypeError), (1 << 40, ValueError)):
        with pytest.raises(error, match="width must be"):
            check_image(ImageParams(init_image=picture(8, 8), width=width), FLUX2, IMAGE, "fit")  # type: ignore[arg-type]


# Masks.


@pytest.mark.parametrize("rule", RULES)
def test_mask_and_picture_stay_in_line(rule: Any) -> None:
    """The mask is what is bright in the picture, before and after."""
    light = np.zeros((90, 200, 3), np.uint8)
    light[30:60, 40:150] = 255
    params = taken(FLUX2, rule, init_image=light, mask_image=light[..., 0], width=96, height=96)
    bright, white = params.init_image[..., 0] > 127, params.mask_image[..., 0] > 127
    assert bright.any()
    assert (bright != white).mean() < 0.02


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_of_another_size_but_the_same_aspect_is_in_line(rule: Any) -> None:
    mask = np.zeros((60, 40), bool)
    mask[:30] = True
    params = taken(FLUX2, rule, init_image=picture(80, 120), mask_image=mask, width=64, height=64)
    assert size(params.mask_image) == size(params.init_image)
    with pytest.raises(ValueError, match="mask_image is 40x40 pixels, init_image is 80x120; their aspect ratios"):
        taken(FLUX2, rule, init_image=picture(80, 120), mask_image=mask[:40])


def test_a_box_is_in_pixels_of_the_picture_and_scaled_with_it() -> None:
    params = taken(init_image=picture(64, 64), mask_image=(16, 0, 64, 32))
    assert params.mask_image[:32, 16:].min() == 255
    assert params.mask_image.mean() == 255 * 48 * 32 / 64**2
    scaled = taken(FLUX2, "stretch", init_image=picture(64, 64), mask_image=(16, 0, 64, 32), width=128, height=32)
    assert (scaled.mask_image[:16, 32:] == 255).all()
    assert scaled.mask_image.mean() == params.mask_image.mean()


@pytest.mark.parametrize("mask", [(0, 0, 8, 8), np.ones((8, 8), bool)])
def test_a_mask_needs_a_picture(mask: Any) -> None:
    with pytest.raises(ValueError, match="mask_image needs init_image"):
        taken(mask_image=mask)


def test_bars_of_a_mask_are_kept() -> None:
    white = np.ones((32, 64), bool)
    params = taken(FLUX2, "pad", init_image=picture(64, 32), mask_image=white, width=64, height=64)
    assert not params.mask_image[:16].any()
    assert (params.mask_image[16:48] == 255).all()


# References.


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("given", "legal"), [((100, 75), (96, 80)), ((4, 4), (64, 64)), ((8, 32), (64, 256)), ((640, 64), (640, 64))]
)
def test_references_are_brought_to_legal_sizes(rule: Any, given: tuple[int, int], legal: tuple[int, int]) -> None:
    reference = picture(*given)
    params = taken(FLUX2, rule, ref_images=[reference, picture(64, 64)], width=64, height=64)
    assert [size(item) for item in params.ref_images] == [legal, (64, 64)]
    expected = resized(reference, legal, rule)
    assert np.array_equal(params.ref_images[0], expected)


def test_references_that_the_engine_scales_are_left_to_it() -> None:
    params = taken(FLUX2, "fit", ref_images=[picture(100, 75)], auto_resize_ref_image=True, width=64, height=64)
    assert size(params.ref_images[0]) == (100, 75)


def test_a_reference_of_no_legal_size_is_refused() -> None:
    for rule, said in (
        ("error", "must have sides that are multiples of 16 .* pass resize="),
        ("fit", "at least 64 pixels"),
    ):
        reference = picture(70, 64) if rule == "error" else picture(1, 900)
        with pytest.raises(ValueError, match=rf"ref_images\[0\] .*{said}"):
            taken(FLUX2, rule, ref_images=[reference], width=64, height=64)


@pytest.mark.parametrize("images", [7, "x.png", b"", picture(64, 64), Image.new("RGB", (64, 64))])
def test_references_are_a_sequence(images: Any) -> None:
    with pytest.raises(TypeError, match="ref_images must be a sequence of images, not "):
        take_images(ImageParams(ref_images=images), FLUX2)


# One path.


def test_every_picture_goes_through_the_same_conversion() -> None:
    pixels = picture(64, 64)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    for source in (pixels, pixels / 255, Image.fromarray(pixels), file.getvalue()):
        params: Any = take_images(
            ImageParams(
                init_image=source,
                control_image=source,
                ref_images=[source],
                pm_params=PhotoMaker(id_images=[source], style_strength=3),
            ),
            UNKNOWN,
        )
        arrived = (params.init_image, params.control_image, *params.ref_images, *params.pm_params.id_images)
        assert all(np.array_equal(item, pixels) for item in arrived)
        assert params.pm_params.style_strength == 3


def test_alpha_holds_for_every_picture() -> None:
    clear = Image.new("RGBA", (64, 64))
    fields: dict[str, Any] = {"init_image": clear, "control_image": clear, "ref_images": [clear]}
    fields["pm_params"] = PhotoMaker(id_images=[clear])
    params: Any = take_images(ImageParams(**fields), UNKNOWN, alpha="white")
    arrived = (params.init_image, params.control_image, *params.ref_images, *params.pm_params.id_images)
    assert all((item == 255).all() for item in arrived)
    for name, value in fields.items():
        with pytest.raises(ValueError, match=rf"{'id_images' if name == 'pm_params' else name}.* has transparent"):
            take_images(ImageParams(**{name: value}), UNKNOWN)


def test_rule_and_alpha_are_checked_without_pictures() -> None:
    with pytest.raises(ValueError, match="resize must be one of"):
        take_images(ImageParams(), FLUX2, "zoom")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha must be"):
        take_images(ImageParams(), FLUX2, alpha="nowhite")


# With an engine.


@pytest.fixture(scope="module")
def start() -> Image.Image:
    return Image.fromarray(picture(100, 64)).resize((100, 64), Image.Resampling.BILINEAR)


def test_an_engine_draws_from_the_resized_picture(shared: Engine, start: Image.Image) -> None:
    result = shared.generate(**DRAW, init_image=start, mask_image=(0, 0, 50, 64), width=48, height=48, resize="fit")
    assert size(result.arrays[0]) == (48, 32)
    assert np.array_equal(result.parameters.init_image, resized(np.asarray(start), (48, 32), "crop"))  # type: ignore[arg-type]
    again = shared.generate(**DRAW, params=result.parameters)
    assert np.array_equal(again.arrays[0], result.arrays[0])


def test_a_picture_in_params_goes_the_same_way(shared: Engine, start: Image.Image) -> None:
    keyword = shared.generate(**DRAW, init_image=start, width=32, height=32, resize="crop")
    inside = shared.generate(**DRAW, width=32, height=32, resize="crop", params=ImageParams(init_image=start))
    assert np.array_equal(keyword.arrays[0], inside.arrays[0])
    with pytest.raises(ValueError, match="init_image is 100x64 pixels, the result is 64x64"):
        shared.generate(**DRAW, width=64, height=64, params=ImageParams(init_image=start))
