"""AUTOMATIC1111's API, by a client that was written for it, compared with what the engine generates by itself."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile
from serving import Running

import sdcffi
from sdcffi.serve.fields import Fields
from sdcffi.serve.inpainting import Region, filled
from sdcffi.serve.jobs import Rejected
from sdcffi.serve.webui_requests import _ONLY, _SETTINGS_ONLY

httpx = pytest.importorskip("httpx")
webuiapi = pytest.importorskip("webuiapi")

CALL: dict[str, Any] = {"prompt": "a red heart", "width": 128, "height": 128, "steps": 3, "cfg_scale": 2.0, "seed": 5}


@pytest.fixture(scope="module")
def api(demo_server: Running) -> Any:
    return webuiapi.WebUIApi(port=urlsplit(demo_server.url).port)


@pytest.fixture(scope="module")
def picture(demo_engine: sdcffi.Engine) -> Image.Image:
    return demo_engine.generate(**CALL).images[0]


def post(demo_server: Running, path: str, body: Any) -> Any:
    return httpx.post(f"{demo_server.url}/sdapi/v1/{path}", json=body, timeout=120)


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


def base64_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("path", ["extra-single-image", "png-info", "img2img"])
def test_an_image_with_a_side_that_is_too_long(demo_server: Running, path: str) -> None:
    line = base64_of(Image.new("L", (1, 20_000)))
    body = {"init_images": [line], "prompt": "a"} if path == "img2img" else {"image": line}
    answer = post(demo_server, path, body)
    assert (answer.status_code, "sides from 1 to 16384" in answer.json()["detail"]) == (422, True)


# Images are those of the demo_engine.


def test_text_to_image(api: Any, demo_engine: sdcffi.Engine) -> None:
    result = api.txt2img(**CALL, sampler_name="DPM++ 2M", scheduler="Karras", batch_size=2, n_iter=2)
    expected = demo_engine.generate(**CALL, sampler="dpm++2m", scheduler="karras", batch_count=4)
    assert len(result.images) == 4
    for image, array in zip(result.images, expected.arrays, strict=True):
        assert (pixels(image) == array).all()


def test_information_is_what_the_files_say(api: Any) -> None:
    result = api.txt2img(**CALL, negative_prompt="a circle", sampler_name="Euler a", batch_size=2)
    info = result.info
    assert info["all_seeds"] == [5, 6]
    assert info["infotexts"] == [image.info["parameters"] for image in result.images]
    assert (info["seed"], info["steps"], info["cfg_scale"], info["sampler_name"]) == (5, 3, 2, "Euler a")
    assert (info["width"], info["height"], info["sd_model_name"]) == (128, 128, "demo")
    assert (info["prompt"], info["negative_prompt"]) == ("a red heart", "a circle")
    assert result.parameters["prompt"] == "a red heart"
    assert result.parameters["steps"] == 3


def test_another_program_reads_the_files(api: Any, tmp_path: Path) -> None:
    parsers = pytest.importorskip("sd_parsers")
    api.txt2img(**CALL, sampler_name="Euler a").image.save(tmp_path / "plain.png")
    result = api.txt2img(**CALL, sampler_name="Euler a")
    (tmp_path / "image.png").write_bytes(base64.b64decode(result.json["images"][0]))
    found = parsers.ParserManager().parse(tmp_path / "image.png")
    assert found.samplers[0].name == "Euler a"
    assert [prompt.value for prompt in found.prompts] == ["a red heart"]
    assert sdcffi.Record.from_file(tmp_path / "image.png").seed == 5


def test_the_web_interfaces_automatic_is_the_engines_choice(
    api: Any, demo_server: Running, demo_engine: sdcffi.Engine
) -> None:
    answer = post(demo_server, "txt2img", {**CALL, "sampler_index": "Euler", "scheduler": "Automatic"}).json()
    assert (pixels(image_of(answer["images"][0])) == demo_engine.generate(**CALL).arrays[0]).all()


def test_eta_is_passed_on_where_the_sampler_takes_it(api: Any, demo_engine: sdcffi.Engine) -> None:
    plain = demo_engine.generate(**CALL, sampler="euler_a").arrays[0]
    half = demo_engine.generate(**CALL, sampler="euler_a", eta=0.5).arrays[0]
    assert (plain != half).any()
    assert (pixels(api.txt2img(**CALL, sampler_name="Euler a", eta=1.0).image) == plain).all()
    assert (pixels(api.txt2img(**CALL, sampler_name="Euler a", eta=0.5).image) == half).all()
    euler = demo_engine.generate(**CALL, sampler="euler").arrays[0]  # for which webuiapi sends eta=1 too
    assert (pixels(api.txt2img(**CALL, sampler_name="Euler").image) == euler).all()


def test_loras_in_the_prompt(api: Any, demo_engine: sdcffi.Engine) -> None:
    result = api.txt2img(**{**CALL, "prompt": "a red heart<lora:outline:0.8>"}, sampler_name="Euler")
    expected = demo_engine.generate(**CALL, sampler="euler", loras=[("outline", 0.8)])
    assert (pixels(result.image) == expected.arrays[0]).all()
    assert (expected.arrays[0] != demo_engine.generate(**CALL, sampler="euler").arrays[0]).any()
    (report,) = result.info["loras"]
    assert report["applied"] == expected.loras[0].applied
    with pytest.raises(RuntimeError, match="nothing_such"):
        api.txt2img(**{**CALL, "prompt": "<lora:nothing_such:1>"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"hr_upscaler": "Latent", "hr_scale": 1.5}, {"upscaler": "Latent", "scale": 1.5}),
        ({"hr_upscaler": "None", "hr_scale": 1.5}, {"upscaler": "Lanczos", "scale": 1.5}),
        ({"hr_resize_x": 192, "hr_resize_y": 192}, {"upscaler": "Latent", "target_width": 192, "target_height": 192}),
        ({"hr_resize_x": 192}, {"upscaler": "Latent", "target_width": 192, "target_height": 192}),
        ({"hr_upscaler": "double"}, {"upscaler": "Model", "scale": 2.0}),
    ],
)
def test_second_pass(
    api: Any, demo_engine: sdcffi.Engine, network: Path, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    result = api.txt2img(
        **CALL, **given, sampler_name="Euler", enable_hr=True, hr_second_pass_steps=2, denoising_strength=0.5
    )
    path = network if expected["upscaler"] == "Model" else None
    hires = sdcffi.Hires(**expected, steps=2, denoising_strength=0.5, model_path=path)
    assert (pixels(result.image) == demo_engine.generate(**CALL, sampler="euler", hires=hires).arrays[0]).all()
    assert f"Hires upscaler: {expected['upscaler']}" in result.info["infotexts"][0]


def test_second_pass_of_another_shape_is_refused(api: Any) -> None:
    with pytest.raises(RuntimeError, match="aspect ratio"):
        api.txt2img(**CALL, enable_hr=True, hr_resize_x=192, hr_resize_y=128)
    with pytest.raises(RuntimeError, match="hr_prompt"):
        api.txt2img(**CALL, enable_hr=True, hr_prompt="another")
    with pytest.raises(RuntimeError, match=r"hr_upscaler must be one of Latent, .*, double, not .*R-ESRGAN 4x"):
        api.txt2img(**CALL, enable_hr=True, hr_upscaler=webuiapi.HiResUpscaler.ESRGAN_4x)


def test_image_to_image(api: Any, demo_engine: sdcffi.Engine, picture: Image.Image) -> None:
    call = {**CALL, "prompt": "a blue star", "sampler_name": "Euler"}
    result = api.img2img([picture.resize((96, 96))], **call, denoising_strength=0.6)
    same = {**CALL, "prompt": "a blue star", "sampler": "euler", "strength": 0.6}
    expected = demo_engine.generate(**same, init_image=picture.resize((96, 96)), resize="stretch")
    assert (pixels(result.image) == expected.arrays[0]).all()
    wide = picture.resize((160, 96))
    result = api.img2img([wide], **call, denoising_strength=0.6, resize_mode=1)
    expected = demo_engine.generate(**same, init_image=wide, resize="crop")
    assert (pixels(result.image) == expected.arrays[0]).all()
    assert result.info["denoising_strength"] == 0.6


def test_transparent_images_are_put_on_white(api: Any, demo_engine: sdcffi.Engine, picture: Image.Image) -> None:
    clear = picture.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 64, 64))
    result = api.img2img([clear], **CALL, sampler_name="Euler")
    expected = demo_engine.generate(**CALL, sampler="euler", strength=0.75, init_image=clear, alpha="white")
    assert (pixels(result.image) == expected.arrays[0]).all()


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    image = Image.new("L", (128, 128))
    image.paste(255, (32, 16, 96, 80))
    return image


@pytest.mark.parametrize("inverted", [0, 1])
def test_inpainting(
    api: Any, demo_engine: sdcffi.Engine, picture: Image.Image, mask: Image.Image, inverted: int
) -> None:
    result = api.img2img(
        [picture],
        **{**CALL, "prompt": "a blue star", "sampler_name": "Euler"},
        mask_image=mask,
        mask_blur=2,
        inpainting_fill=1,
        inpaint_full_res=False,
        inpainting_mask_invert=inverted,
    )
    expected = demo_engine.generate(
        **{**CALL, "prompt": "a blue star"},
        sampler="euler",
        strength=0.75,
        init_image=picture,
        mask_image=mask.point(lambda value: 255 - value) if inverted else mask,
        mask_blur=2,
    )
    assert (pixels(result.image) == expected.arrays[0]).all()
    assert (pixels(result.image) != pixels(picture)).any()


def test_inpainting_of_the_masked_part_alone(
    api: Any, demo_engine: sdcffi.Engine, picture: Image.Image, mask: Image.Image
) -> None:
    """What clients send by default: the part is generated at the full size, and put back at its own."""
    result = api.img2img(
        [picture],
        **{**CALL, "prompt": "a blue star", "sampler_name": "Euler"},
        mask_image=mask,
        mask_blur=0,
        inpainting_fill=1,
    )
    box = (32, 16, 96, 80)
    part = demo_engine.generate(
        **{**CALL, "prompt": "a blue star"},
        sampler="euler",
        strength=0.75,
        init_image=picture.crop(box),
        mask_image=mask.crop(box),
        resize="stretch",
        paste_back=False,
    ).images[0]
    expected = picture.copy()
    expected.paste(part.resize((64, 64), Image.Resampling.LANCZOS), box[:2])
    assert (pixels(result.image) == pixels(expected)).all()
    assert result.image.info["parameters"] == result.info["infotexts"][0]
    assert "sdcffi" not in result.image.info  # the record is that of the part


def test_inpainting_without_options(api: Any, picture: Image.Image, mask: Image.Image) -> None:
    result = api.img2img([picture], **CALL, mask_image=mask)
    changed = np.argwhere((pixels(result.image) != pixels(picture)).any(axis=2))
    assert changed.size
    assert (changed.min(axis=0) >= (16 - 16, 32 - 16)).all()  # and the blurred edge
    assert (changed.max(axis=0) < (80 + 16, 96 + 16)).all()


def test_masks_are_read_as_there(api: Any, picture: Image.Image, mask: Image.Image) -> None:
    """What is painted on a transparent ground; or what is bright, also in colours."""
    painted = Image.new("RGBA", (128, 128))
    painted.paste((255, 0, 0, 255), (32, 16, 96, 80))
    bright = Image.merge("RGB", (mask, mask, mask))
    options = {**CALL, "sampler_name": "Euler", "inpaint_full_res": False, "inpainting_fill": 1}
    first, second, third = (
        pixels(api.img2img([picture], **options, mask_image=one).image) for one in (mask, painted, bright)
    )
    assert (first == second).all()
    assert (first == third).all()


def test_the_fill_has_the_colours_around() -> None:
    image = np.zeros((50, 70, 3), np.uint8)
    image[:, :35], image[:, 35:] = (200, 0, 0), (0, 0, 100)
    mask = np.zeros((50, 70, 1), np.uint8)
    mask[10:40, 10:60] = 255
    result = filled(np.where(mask > 0, 255, image).astype(np.uint8), mask)
    assert (result[mask[..., 0] == 0] == image[mask[..., 0] == 0]).all()
    assert result[25, 12, 0] > result[25, 57, 0]
    assert result[25, 57, 2] > result[25, 12, 2]
    assert result[..., 1].max() == 0
    assert (filled(image, np.full_like(mask, 255)) == 127).all()


@pytest.mark.parametrize(
    ("box", "padding", "size", "expected"),
    [
        ((32, 16, 96, 80), 0, (64, 64), (32, 16, 96, 80)),
        ((32, 16, 96, 80), 8, (64, 64), (24, 8, 104, 88)),
        ((0, 0, 10, 10), 4, (64, 32), (0, 0, 28, 14)),
        ((118, 90, 128, 100), 0, (32, 64), (118, 80, 128, 100)),
        ((0, 0, 128, 64), 0, (32, 64), (0, 0, 128, 100)),
    ],
)
def test_regions(box: tuple[int, ...], padding: int, size: tuple[int, int], expected: tuple[int, ...]) -> None:
    mask = np.zeros((100, 128, 1), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    region = Region.around(np.zeros((100, 128, 3), np.uint8), mask, padding, size, 4)
    assert region is not None
    assert region.box == expected
    assert Region.around(region.original, np.zeros_like(mask), padding, size, 4) is None


# Fields.


@pytest.mark.parametrize("name", _ONLY)
def test_fields_without_support_are_refused(demo_server: Running, picture: Image.Image, name: str) -> None:
    for path, body in (("txt2img", CALL), ("img2img", {**CALL, "init_images": [base64_of(picture)]})):
        answer = post(demo_server, path, {**body, name: 0.123})
        assert answer.status_code == 422
        assert name in answer.json()["detail"]


@pytest.mark.parametrize("name", _SETTINGS_ONLY)
def test_settings_without_support_are_refused(demo_server: Running, name: str) -> None:
    for path, body in (("txt2img", {**CALL, "override_settings": {name: "x"}}), ("options", {name: "x"})):
        answer = post(demo_server, path, body)
        assert answer.status_code == 422
        assert name in answer.json()["detail"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"nothing_such": 1}, "nothing_such is not a field that this server has"),
        ({"override_settings": {"nothing_such": 1}}, "override_settings.nothing_such is not a field"),
        ({"steps": "many"}, "steps must be a number, not 'many'"),
        ({"steps": 2.5}, "steps must be an integer, not 2.5"),
        ({"width": True}, "width must be a number, not True"),
        ({"prompt": ["a"]}, "prompt must be a text"),
        ({"override_settings": []}, "override_settings must be a JSON object"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "'ADetailer' is not supported"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"image": "x"}]}}}, "'ControlNet' is not supported"),
        ({"alwayson_scripts": {"x": {"args": "abc"}}}, "'x' is not supported"),
        ({"alwayson_scripts": {"x": "abc"}}, "'x' is not supported"),
        ({"alwayson_scripts": {"x": {"args": [None, {"enabled": True}]}}}, "'x' is not supported"),
        ({"alwayson_scripts": {"x": {"args": [0, True, 5]}}}, "'x' is not supported"),
        ({"alwayson_scripts": {"x": {"args": {"enabled": True}}}}, "'x' is not supported"),
        ({"enable_hr": True, "hr_resize_x": 10**400}, "hr_resize_x must be an integer of at most 64 bits"),
        ({"script_name": "X/Y/Z plot"}, "script_name is not supported"),
    ],
)
def test_wrong_fields_are_named(demo_server: Running, field: dict[str, Any], message: str) -> None:
    answer = post(demo_server, "txt2img", {**CALL, **field})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


@pytest.mark.parametrize("blur", [-1, 1001, 1e300])
@pytest.mark.parametrize("name", ["mask_blur", "mask_blur_x"])
def test_a_blur_is_refused_before_the_image_is_made(
    demo_server: Running, picture: Image.Image, mask: Image.Image, name: str, blur: float
) -> None:
    blurs = {"mask_blur": blur} if name == "mask_blur" else {"mask_blur_x": blur, "mask_blur_y": blur}
    answer = post(
        demo_server, "img2img", {**CALL, "init_images": [base64_of(picture)], "mask": base64_of(mask), **blurs}
    )
    assert answer.status_code == 422
    assert "mask_blur must be from 0 to 1000" in answer.json()["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", r'"\udc00"'])
def test_what_cannot_be_answered_is_refused_before_the_image_is_made(demo_server: Running, value: str) -> None:
    body = json.dumps(CALL)[:-1] + f', "s_tmax": {value}}}'
    answer = httpx.post(f"{demo_server.url}/sdapi/v1/txt2img", content=body, timeout=120)
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["detail"]


def test_images_with_too_many_pixels_are_not_decoded(
    demo_server: Running, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = base64_of(picture), base64_of(Image.new("1", (4200, 4200)))
    sizes, load = [], ImageFile.load

    def noting(image: ImageFile) -> Any:
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile, "load", noting)
    for path, body in (
        ("img2img", {**CALL, "init_images": [large]}),
        ("img2img", {**CALL, "init_images": [small], "mask": large}),
        ("extra-single-image", {"image": large}),
        ("png-info", {"image": large}),
    ):
        answer = post(demo_server, path, body)
        assert answer.status_code == 422
        assert "has 4200x4200 pixels" in answer.json()["detail"]
    assert (4200, 4200) not in sizes
    many = {"imageList": [{"data": small, "name": "a"}] * 17}
    assert "imageList must have at most 16 images" in post(demo_server, "extra-batch-images", many).json()["detail"]


def test_a_field_with_half_a_character_is_named() -> None:
    with pytest.raises(Rejected) as refused:
        Fields({"\ud800": 1}).refuse_rest("x")
    assert refused.value.message.encode().startswith(rb"\ud800 is not a field")


@pytest.mark.parametrize("image", ["/etc/passwd", "http://127.0.0.1/a.png", "file:///etc/passwd", "aGVsbG8=", "", 7])
def test_only_data_of_images_is_read(demo_server: Running, image: Any, picture: Image.Image) -> None:
    for path, body in (
        ("img2img", {**CALL, "init_images": [image]}),
        ("img2img", {**CALL, "init_images": [base64_of(picture)], "mask": image or "x"}),
        ("extra-single-image", {"image": image}),
        ("png-info", {"image": image}),
    ):
        answer = post(demo_server, path, body)
        assert answer.status_code == 422
        assert "image" in answer.json()["detail"] or "mask" in answer.json()["detail"]


def test_switched_off_scripts_and_grids(demo_server: Running) -> None:
    scripts: dict[str, Any] = {
        "ADetailer": {"args": [False, {"ad_model": "x"}]},
        "ControlNet": {"args": [{"enabled": False}]},
    }
    scripts |= {"a": {"args": []}, "b": {}, "c": None, "d": {"args": [None, {"enabled": False}, False]}}
    body = {**CALL, "alwayson_scripts": scripts, "save_images": True, "send_images": False}
    answer = post(demo_server, "txt2img", body).json()
    assert answer["images"] == []
    assert len(json.loads(answer["info"])["infotexts"]) == 1


# What programs send, as their sources of 2026 have it.
SILLY_TAVERN = {
    "url": "http://localhost:7860",
    "auth": "",
    "prompt": "a red heart",
    "negative_prompt": "",
    "sampler_name": "Euler a",
    "scheduler": "automatic",
    "steps": 3,
    "cfg_scale": 2,
    "width": 128,
    "height": 128,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}
OPEN_WEBUI = {"prompt": "a red heart", "batch_size": 1, "width": 128, "height": 128, "steps": 3}
KRITA = {
    "prompt": "a red heart",
    "negative_prompt": "",
    "sampler_name": "DPM++ 2M Karras",
    "steps": 3,
    "cfg_scale": 2.0,
    "seed": 5,
    "subseed": 2827841109,
    "subseed_strength": 0,
    "width": 128,
    "height": 128,
    "batch_size": 1,
    "n_iter": 1,
    "denoising_strength": 0.6,
    "mask_blur": 4,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 16,
    "inpainting_mask_invert": 0,
    "resize_mode": 1,
    "image_cfg_scale": 0,
    "styles": [],
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "tiling": False,
    "eta": 0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "sampler_index": "Euler",
    "script_args": [],
    "include_init_images": False,
    "override_settings": {"samples_format": "png", "filter_nsfw": False},
}


@pytest.mark.parametrize("body", [SILLY_TAVERN, OPEN_WEBUI], ids=["SillyTavern", "Open WebUI"])
def test_what_programs_send(demo_server: Running, body: dict[str, Any]) -> None:
    answer = post(demo_server, "txt2img", body)
    assert answer.status_code == 200, answer.text
    assert image_of(answer.json()["images"][0]).size == (128, 128)


def test_what_plug_ins_send(demo_server: Running, picture: Image.Image, mask: Image.Image) -> None:
    body = {**KRITA, "init_images": [base64_of(picture)]}
    assert post(demo_server, "img2img", body).status_code == 200
    answer = post(demo_server, "img2img", {**body, "mask": f"data:image/png;base64,{base64_of(mask)}"})
    assert answer.status_code == 200, answer.text
    assert image_of(answer.json()["images"][0]).size == (128, 128)
    assert answer.json()["parameters"]["init_images"] is None
    answer = post(demo_server, "img2img", {**body, "include_init_images": True})
    assert answer.json()["parameters"]["init_images"] == body["init_images"]


# Settings and names.


def test_models_are_chosen_by_settings(demo_server: Running, demo_engine: sdcffi.Engine) -> None:
    api = webuiapi.WebUIApi(port=urlsplit(demo_server.url).port, sampler="Euler")
    assert api.util_get_model_names() == ["demo", "quick"]
    call = {name: value for name, value in CALL.items() if name not in ("steps", "width", "height", "cfg_scale")}
    body = {**call, "sampler_name": "Euler"}
    small = demo_engine.generate(**call, sampler="euler", width=64, height=64, steps=2, cfg_scale=1.0).arrays[0]
    large = demo_engine.generate(**CALL, sampler="euler").arrays[0]

    def generated(**fields: Any) -> Any:
        answer = post(demo_server, "txt2img", {**body, **fields})
        assert answer.status_code == 200, answer.text
        return pixels(image_of(answer.json()["images"][0]))

    assert (generated(override_settings={"sd_model_checkpoint": "quick.safetensors [b77220e7d8]"}) == small).all()
    assert (generated() == large).all()  # the setting was that of the request
    try:
        options = api.get_options()  # as Open WebUI does: all of them are sent back
        assert api.set_options({**options, "sd_model_checkpoint": "quick"}) is None
        assert api.util_get_current_model() == "quick"
        assert (generated() == small).all()
        api.util_set_model("DEM")
        assert (generated() == large).all()
        kept = {"sd_model_checkpoint": "quick"}
        generated(override_settings=kept, override_settings_restore_afterwards=False)
        assert api.util_get_current_model() == "quick"
    finally:
        api.set_options({"sd_model_checkpoint": "demo"})
    answer = post(demo_server, "txt2img", {**CALL, "override_settings": {"sd_model_checkpoint": "none_such"}})
    assert answer.status_code == 404
    assert "the server has demo, quick" in answer.json()["detail"]


def test_clip_skip_of_one_is_the_models_own(demo_server: Running, demo_engine: sdcffi.Engine) -> None:
    for fields in ({"clip_skip": 1}, {"override_settings": {"CLIP_stop_at_last_layers": 1}}):
        answer = post(demo_server, "txt2img", {**CALL, "sampler_name": "Euler", **fields}).json()
        assert "Clip skip" not in json.loads(answer["info"])["infotexts"][0]
    answer = post(demo_server, "txt2img", {**CALL, "override_settings": {"CLIP_stop_at_last_layers": 2}}).json()
    assert "Clip skip: 2" in json.loads(answer["info"])["infotexts"][0]


def test_names(api: Any, demo_server: Running, demo_engine: sdcffi.Engine) -> None:
    known = demo_engine.capabilities()
    assert {"Euler a", "DPM++ 2M", "UniPC"} <= set(api.util_get_sampler_names())
    assert len(api.get_samplers()) == len(known.samplers)
    assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
    assert [item["name"] for item in api.get_upscalers()] == ["None", "Lanczos", "Nearest", "double"]
    assert "Latent (nearest-exact)" in [item["name"] for item in api.get_latent_upscale_modes()]
    assert [item["name"] for item in api.get_loras()] == ["night", "outline", "sticker"]
    for name in ("sd_vae", "hypernetworks", "face_restorers", "realesrgan_models", "prompt_styles"):
        assert getattr(api, f"get_{name}")() == []
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.refresh_checkpoints() == {}
    assert str(sdcffi.demo_model()["llm"].parent) not in json.dumps([api.get_sd_models(), api.get_loras()])
    assert httpx.get(f"{demo_server.url}/sdapi/v1/nothing-such").status_code == 404


@pytest.mark.slow
def test_every_listed_sampler_and_scheduler_is_taken(api: Any, demo_server: Running) -> None:
    call = {"prompt": "a", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1}
    for sampler in api.util_get_sampler_names():
        assert post(demo_server, "txt2img", {**call, "sampler_name": sampler}).status_code == 200, sampler
    for item in api.get_schedulers():
        for name in (item["name"], item["label"]):
            assert post(demo_server, "txt2img", {**call, "scheduler": name}).status_code == 200, name


# Images that exist.


def test_enlarging(api: Any, picture: Image.Image, network: Path) -> None:
    with sdcffi.Upscaler(network) as upscaler:
        expected = upscaler.upscale(picture, 2).array
        half = upscaler.upscale(picture, 1.5).array
    result = api.extra_single_image(picture, upscaler_1="double", upscaling_resize=2)
    assert (pixels(result.image) == expected).all()
    assert (pixels(api.extra_single_image(picture, upscaler_1="double", upscaling_resize=1.5).image) == half).all()
    lanczos = picture.resize((192, 192), Image.Resampling.LANCZOS)
    result = api.extra_single_image(picture, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=1.5)
    assert (pixels(result.image) == pixels(lanczos)).all()
    assert api.extra_single_image(picture).image.size == (128, 128)
    result = api.extra_single_image(
        picture, upscaler_1="Nearest", resize_mode=1, upscaling_resize_w=300, upscaling_resize_h=200
    )
    assert result.image.size == (300, 200)
    results = api.extra_batch_images([picture, picture], upscaler_1="double")
    assert [(pixels(image) == expected).all() for image in results.images] == [True, True]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ({"gfpgan_visibility": 0.5}, "gfpgan_visibility"),
        ({"codeformer_visibility": 1}, "codeformer_visibility"),
        ({"upscaler_1": "LDSR"}, "upscaler_1"),
        ({"upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 0.5}, "upscaler_2"),
        ({"upscaling_resize": 99}, "upscaling_resize"),
    ],
)
def test_enlarging_refuses_what_it_has_not(api: Any, picture: Image.Image, field: dict[str, Any], name: str) -> None:
    with pytest.raises(RuntimeError, match=name):
        api.extra_single_image(picture, **field)


def test_parameters_of_an_image(api: Any, picture: Image.Image) -> None:
    result = api.png_info(picture)
    assert result.info == picture.info["parameters"]
    assert result.json["items"]["parameters"] == result.info
    found = result.json["parameters"]
    assert (found["Prompt"], found["Steps"], found["Seed"]) == ("a red heart", "3", "5")
    assert (found["Size-1"], found["Size-2"]) == ("128", "128")
    plain = Image.new("RGB", (8, 8))
    assert api.png_info(plain).json == {"info": "", "items": {}, "parameters": {}}


# Progress.


def wait(condition: Any, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_progress_and_interrupt(demo_server: Running, demo_engine: sdcffi.Engine) -> None:
    api, answers = webuiapi.WebUIApi(port=urlsplit(demo_server.url).port), []
    idle = api.get_progress()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
    thread = threading.Thread(target=lambda: answers.append(api.txt2img(**{**CALL, "steps": 200})))
    thread.start()
    watcher = webuiapi.WebUIApi(port=urlsplit(demo_server.url).port)
    seen = wait(lambda: (now := watcher.get_progress())["current_image"] and now)
    assert 0 < seen["progress"] < 1
    assert seen["eta_relative"] > 0
    assert seen["state"]["sampling_steps"] == 200
    assert seen["state"]["job_count"] == 1
    assert image_of(seen["current_image"]).format == "PNG"
    answer = httpx.get(f"{demo_server.url}/sdapi/v1/progress", params={"skip_current_image": True}).json()
    assert answer["current_image"] is None
    assert watcher.interrupt() == {}
    thread.join(30)
    assert answers[0].images == []
    watcher.util_wait_for_ready(check_interval=0.1)
    assert (pixels(api.txt2img(**CALL, sampler_name="Euler").image) == demo_engine.generate(**CALL).arrays[0]).all()
    assert "not_supported" in api.skip()["error"]


def test_a_client_that_leaves_cancels_its_job(demo_server: Running) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{demo_server.url}/sdapi/v1/txt2img", json={**CALL, "steps": 199}, timeout=1.0)
    job = demo_server.service.jobs("127.0.0.1")[0]
    assert wait(lambda: job.state == "cancelled", 10)
