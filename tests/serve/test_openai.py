"""OpenAI's images API, by its own package, compared with what the engine generates by itself."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import Running, serving

import sdcffi
from sdcffi.demo import SETTINGS
from sdcffi.serve import ServeConfig
from sdcffi.serve.config import ModelConfig
from sdcffi.serve.jobs import Rejected
from sdcffi.serve.openai import _ONLY, _automatic_size, _edit

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

CALL: dict[str, Any] = {"prompt": "a red heart", "width": 128, "height": 128, "steps": 3, "cfg_scale": 2.0, "seed": 5}
SAME: dict[str, Any] = {"prompt": "a red heart", "size": "128x128", "extra_body": {"seed": 5}}  # with the model's rest


@pytest.fixture(scope="module")
def client(demo_server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def picture(demo_engine: sdcffi.Engine) -> Image.Image:
    return demo_engine.generate(**CALL).images[0]


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


def file_of(image: Image.Image, name: str = "image.png") -> tuple[str, bytes]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return name, buffer.getvalue()


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


# Generation.


def test_generation(client: Any, demo_engine: sdcffi.Engine) -> None:
    answer = client.images.generate(**SAME, n=2)
    expected = demo_engine.generate(**CALL, batch_count=2)
    for item, array in zip(answer.data, expected.arrays, strict=True):
        assert (pixels(image_of(item.b64_json)) == array).all()
        assert item.url is None
    assert (answer.size, answer.output_format, answer.quality) == ("128x128", "png", "medium")
    assert abs(answer.created - time.time()) < 600
    assert answer.usage.total_tokens == 0


def test_addresses(client: Any, demo_server: Running, demo_engine: sdcffi.Engine) -> None:
    answer = client.images.generate(**SAME, response_format="url")
    (item,) = answer.data
    assert item.b64_json is None
    assert item.url.startswith(f"{demo_server.url}/")
    content = httpx.get(item.url).content
    assert (pixels(Image.open(io.BytesIO(content))) == demo_engine.generate(**CALL).arrays[0]).all()
    assert sdcffi.Record.from_file(content).seed == 5


def test_formats(client: Any, demo_engine: sdcffi.Engine) -> None:
    expected = demo_engine.generate(**CALL)
    sizes = []
    for name in ("jpeg", "webp"):
        for compression in (100, 10):
            answer = client.images.generate(**SAME, output_format=name, output_compression=compression)
            content = base64.b64decode(answer.data[0].b64_json)
            image = Image.open(io.BytesIO(content))
            assert image.format == name.upper()
            assert answer.output_format == name
            error = np.abs(pixels(image).astype(int) - expected.arrays[0]).mean()
            assert error < 40 / compression**0.5
            assert sdcffi.Record.from_file(content).seed == 5
            sizes.append(len(content))
    assert sizes[0] > sizes[1]
    assert sizes[2] > sizes[3]


def test_own_keywords(client: Any, demo_engine: sdcffi.Engine) -> None:
    keywords = {"steps": 4, "negative_prompt": "a circle", "cfg_scale": 3.0, "sampler": "Euler a", "seed": 7}
    answer = client.images.generate(prompt="a red heart", size="64x64", extra_body={**keywords, "loras": ["outline"]})
    expected = demo_engine.generate("a red heart", width=64, height=64, **keywords, loras=["outline"])
    assert (pixels(image_of(answer.data[0].b64_json)) == expected.arrays[0]).all()


def test_models_have_defaults(client: Any, demo_engine: sdcffi.Engine) -> None:
    answer = client.images.generate(prompt="a", model="quick", extra_body={"seed": 1})
    expected = demo_engine.generate("a", width=64, height=64, steps=2, cfg_scale=1.0, seed=1)
    assert (pixels(image_of(answer.data[0].b64_json)) == expected.arrays[0]).all()
    assert answer.size == "64x64"


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 2), ("auto", 3), ("standard", 3), ("medium", 3), ("high", 6), ("hd", 6)]
)
def test_quality_is_the_number_of_steps(client: Any, quality: str, steps: int) -> None:
    answer = client.images.generate(**SAME, quality=quality)
    assert image_of(answer.data[0].b64_json).info["parameters"].splitlines()[1].startswith(f"Steps: {steps},")


def test_a_model_without_defaults_is_used_as_its_file_says(tmp_path: Path) -> None:
    files = {name: str(path) for name, path in sdcffi.demo_model().items()}
    config = ServeConfig.of({}, models=(ModelConfig.of("open", {**files, "backend": "cpu"}),), port=0, store=tmp_path)
    with serving(config) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        properties = httpx.get(f"{server.url}/api/parameters").json()["properties"]
        answer = client.images.generate(prompt="a red heart", quality="low")
    assert {name: properties[name]["default"] for name in SETTINGS} == SETTINGS
    assert answer.size == f"{SETTINGS['width']}x{SETTINGS['height']}"
    told = image_of(answer.data[0].b64_json).info["parameters"].splitlines()[1]
    assert told.startswith(f"Steps: {SETTINGS['steps'] // 2},")
    assert f"CFG scale: {SETTINGS['cfg_scale']:g}," in told


def test_many_at_once(demo_server: Running, demo_engine: sdcffi.Engine) -> None:
    async def generate() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{demo_server.url}/v1", api_key="none") as client:
            calls = [client.images.generate(**{**SAME, "extra_body": {"seed": seed}}) for seed in range(4)]
            return await asyncio.gather(*calls)

    answers = asyncio.run(generate())
    expected = demo_engine.generate(**{**CALL, "seed": 0}, batch_count=4)
    for answer, array in zip(answers, expected.arrays, strict=True):
        assert (pixels(image_of(answer.data[0].b64_json)) == array).all()


# Streams.


@pytest.mark.parametrize(("partial", "format"), [(0, "png"), (3, "png"), (2, "webp")])
def test_stream(client: Any, demo_engine: sdcffi.Engine, partial: int, format: str) -> None:
    call = {**SAME, "extra_body": {"seed": 5, "steps": 8}}
    events = list(client.images.generate(**call, stream=True, partial_images=partial, output_format=format))
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * partial,
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:-1]] == list(range(partial))
    images = [image_of(event.b64_json) for event in events]
    assert {(image.format, image.size) for image in images} == {(format.upper(), (128, 128))}
    assert {(event.size, event.output_format) for event in events} == {("128x128", format)}
    expected = demo_engine.generate(**{**CALL, "steps": 8}).arrays[0]
    if format == "png":
        assert (pixels(images[-1]) == expected).all()
    errors = [np.abs(pixels(image).astype(int) - expected).mean() for image in images]
    assert errors[-1] == min(errors)
    assert events[-1].usage.total_tokens == 0


def test_stream_of_several_images(client: Any, demo_engine: sdcffi.Engine) -> None:
    events = list(client.images.generate(**SAME, n=2, stream=True))
    arrays = demo_engine.generate(**CALL, batch_count=2).arrays
    for event, array in zip(events, arrays, strict=True):
        assert (pixels(image_of(event.b64_json)) == array).all()


def test_stream_of_a_job_that_is_cancelled(client: Any, demo_server: Running) -> None:
    stream = client.images.generate(**{**SAME, "extra_body": {"steps": 200}}, stream=True)
    (job,) = (job for job in demo_server.service.jobs("127.0.0.1") if job.state in ("queued", "running"))
    httpx.delete(f"{demo_server.url}/api/jobs/{job.id}")
    with pytest.raises(openai.APIError, match="the job was cancelled"):
        list(stream)


def wait(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_clients_that_leave_cancel_their_jobs(client: Any, demo_server: Running) -> None:
    long = {**SAME, "extra_body": {"steps": 200}}
    with client.images.generate(**long, stream=True, partial_images=3) as stream:
        next(iter(stream))
    streamed = demo_server.service.jobs("127.0.0.1")[0]
    wait(lambda: streamed.state == "cancelled")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).images.generate(**long)
    job = demo_server.service.jobs("127.0.0.1")[0]
    assert job is not streamed
    wait(lambda: job.state == "cancelled")


# Edits.


def cut_out(box: tuple[int, int, int, int]) -> Image.Image:
    """A mask as OpenAI wants it: transparent where the image is edited."""
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), box)
    return image


def test_edit_with_a_mask(client: Any, demo_engine: sdcffi.Engine, picture: Image.Image) -> None:
    box = (32, 16, 96, 80)
    answer = client.images.edit(
        image=file_of(picture), mask=file_of(cut_out(box)), prompt="a blue star", extra_body={"seed": 5}
    )
    expected = demo_engine.generate(**{**CALL, "prompt": "a blue star"}, init_image=picture, mask_image=box)
    assert (pixels(image_of(answer.data[0].b64_json)) == expected.arrays[0]).all()


def test_edit_by_a_model_that_takes_references(client: Any, demo_engine: sdcffi.Engine, picture: Image.Image) -> None:
    other = picture.transpose(Image.Transpose.ROTATE_90).resize((96, 64))
    answer = client.images.edit(
        image=[file_of(picture), file_of(other)], prompt="2024", n=2, extra_body={"seed": 5, "cfg_scale": 2}
    )
    expected = demo_engine.generate(
        **{**CALL, "prompt": "2024"}, ref_images=[picture, other], batch_count=2, resize="fit"
    )
    for item, array in zip(answer.data, expected.arrays, strict=True):
        assert (pixels(image_of(item.b64_json)) == array).all()


def test_edit_to_another_size(client: Any, picture: Image.Image) -> None:
    assert client.images.edit(image=file_of(picture), prompt="a", size="64x96").size == "64x96"
    width, height = _automatic_size(2000, 1000)
    assert width * height <= 1 << 20
    assert width / height == pytest.approx(2, rel=0.01)


def test_edit_by_a_model_without_references(picture: Image.Image) -> None:
    plain, clear = file_of(picture)[1], file_of(cut_out((0, 0, 64, 64)))[1]
    assert _edit([plain], None, {}, False) == {
        "init_image": plain,
        "alpha": "white",
        "resize": "fit",
        "width": 128,
        "height": 128,
    }
    parts = _edit([clear], None, {"width": 64, "height": 64}, False)  # its own transparent pixels are the mask
    assert parts["resize"] == "crop"
    assert (parts["mask_image"][:64, :64] == 255).all()
    assert (parts["mask_image"][64:] == 0).all()
    with pytest.raises(Rejected, match="one image"):
        _edit([plain, plain], None, {}, False)


def test_stream_of_an_edit(client: Any, picture: Image.Image) -> None:
    events = list(
        client.images.edit(
            image=file_of(picture), prompt="a", stream=True, partial_images=1, extra_body={"steps": 6, "seed": 1}
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"mask": ("mask.png", file_of(Image.new("RGB", (128, 128)))[1])}, "mask must have transparent pixels"),
        ({"mask": ("mask.png", file_of(Image.new("RGBA", (64, 64)))[1])}, "mask must have the size"),
        ({"image": ("image.png", b"no image")}, "image cannot be read"),
        ({"image": [("image.png", b"")] * 17}, "1 to 16 files"),
        ({"markup": ("image.png", b"x")}, "markup is not supported"),
        ({"input_fidelity": "high"}, "input_fidelity is not supported"),
    ],
)
def test_wrong_edits(client: Any, picture: Image.Image, call: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        client.images.edit(**{"image": file_of(picture), "prompt": "a", **call})


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("unicode_escape", b"\\ud800"),
        ("utf-7", b"+2AA-"),
        ("idna", b"xn--a-"),
        ("undefined", b"a"),
        ("punycode", b"\xff"),
    ],
)
def test_a_form_in_an_odd_encoding(demo_server: Running, picture: Image.Image, charset: str, text: bytes) -> None:
    form = b"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\n" + text + b"\r\n"
    form += (
        b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
        + file_of(picture)[1]
        + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = httpx.post(f"{demo_server.url}/v1/images/edits", content=form, headers=headers, timeout=60)
    assert (answer.status_code, "send it as UTF-8" in answer.text) == (400, True)


def test_edits_are_forms(demo_server: Running) -> None:
    answer = httpx.post(f"{demo_server.url}/v1/images/edits", json={"prompt": "a", "image": "http://127.0.0.1/a.png"})
    assert answer.status_code == 400
    assert "multipart/form-data" in answer.json()["error"]["message"]


# Models and errors.


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "quick"]
    assert client.models.retrieve("quick").id == "quick"
    with pytest.raises(openai.NotFoundError, match="the server has demo, quick"):
        client.models.retrieve("gpt-image-1")


@pytest.mark.parametrize("name", _ONLY)
def test_fields_without_support_are_refused(client: Any, name: str) -> None:
    with pytest.raises(openai.BadRequestError, match=name) as caught:
        client.images.generate(**{**SAME, "extra_body": {name: "x"}})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("call", "param", "message"),
    [
        ({"size": "large"}, "size", "size must be WIDTHxHEIGHT or auto"),
        ({"quality": "best"}, "quality", "quality must be one of low, medium"),
        ({"quality": "high", "extra_body": {"steps": 3}}, "steps", "steps and quality both"),
        ({"output_format": "svg"}, "output_format", "output_format must be one of png, jpeg, webp"),
        ({"output_compression": 50}, "output_compression", "100 for PNG"),
        ({"partial_images": 2}, "partial_images", "with stream=true"),
        ({"partial_images": 4, "stream": True}, "partial_images", "from 0 to 3"),
        ({"response_format": "url", "output_format": "webp"}, "response_format", "for PNG files"),
        ({"n": "two"}, "n", "n must be a number"),
        ({"prompt": None}, "prompt", "there is none"),
        ({"extra_body": {"nothing_such": 1}}, "nothing_such", "nothing_such is not a field"),
        ({"extra_body": {"hires_model": "/etc/passwd"}}, "hires_model", "hires_model is not a field"),
        ({"extra_body": {"init_image": "/etc/passwd"}}, "init_image", "init_image is not a field"),
        ({"extra_body": {"threads": 1}}, "threads", "threads is not a field"),
        ({"n": 1000}, None, "must be at most 16"),
        ({"size": "9999x9999"}, None, "must be at most"),
        ({"extra_body": {"loras": ["none_such"]}}, None, "none_such"),
    ],
)
def test_wrong_fields_are_named(client: Any, call: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.images.generate(**{**SAME, **call})
    assert caught.value.type == "invalid_request_error"
    assert param is None or caught.value.param == param


def test_unknown_models(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'dall-e-3'; the server has demo, quick") as caught:
        client.images.generate(**SAME, model="dall-e-3")
    assert caught.value.code == "model_not_found"


def test_idle_fields_are_taken(client: Any) -> None:
    call = {**SAME, "moderation": "low", "user": "somebody", "background": "opaque", "style": "vivid"}
    assert client.images.generate(**call, output_compression=100).size == "128x128"


@contextmanager
def another(config: ServeConfig, store: Path, **changes: Any) -> Iterator[Running]:
    with serving(replace(config, store=store, **changes)) as running:
        yield running


def test_failures_are_not_tried_again(demo_config: ServeConfig, tmp_path: Path) -> None:
    """The package would send a request with a 5xx twice more."""
    with (
        another(demo_config, tmp_path, timeout=0.5) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(**{**SAME, "extra_body": {"steps": 200}})
        assert caught.value.status_code == 504
        assert caught.value.code == "GenerationTimeoutError"
        assert len(server.service.jobs("127.0.0.1")) == 1


def test_keys(demo_config: ServeConfig, tmp_path: Path) -> None:
    key = "the-key-of-the-tests"
    with another(demo_config, tmp_path, keys={"tests": key}) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="another", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="needs a key"):
                client.models.list()
            answer = client.with_options(api_key=key).images.generate(**SAME, model="quick", response_format="url")
        content = httpx.get(answer.data[0].url).content  # its signature is enough
        assert Image.open(io.BytesIO(content)).size == (128, 128)
        webui = f"{server.url}/sdapi/v1/options"
        assert httpx.get(webui).status_code == 401
        assert httpx.get(webui, auth=("anybody", key)).json()["sd_model_checkpoint"] == "demo"
        httpx.post(webui, auth=("anybody", key), json={"sd_model_checkpoint": "quick"})
        assert httpx.get(webui, headers={"Authorization": f"Bearer {key}"}).json()["sd_model_checkpoint"] == "quick"


def test_a_full_queue_is_a_rate_limit(demo_config: ServeConfig, tmp_path: Path) -> None:
    async def generate(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            calls = [client.images.generate(**{**SAME, "extra_body": {"steps": 30}}) for _ in range(6)]
            return await asyncio.gather(*calls, return_exceptions=True)

    with another(demo_config, tmp_path, queue=1) as server:
        answers = asyncio.run(generate(f"{server.url}/v1"))
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert 4 <= len(refused) <= 5
    assert len(refused) + sum(hasattr(answer, "data") for answer in answers) == 6
    assert int(refused[0].response.headers["retry-after"]) >= 1
    assert refused[0].code == "rate_limit_exceeded"
