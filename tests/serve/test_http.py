"""The server as its clients see it: jobs, events, images, limits, keys, and what it never tells."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

pytest.importorskip("fastapi")

import httpx
from serving import LONG, TINY, Running, serving, tiny_config

from sdcffi import CancelledError, Engine, Record, Upscaler, demo_model
from sdcffi.serve import ModelConfig, exchange
from sdcffi.serve.client import RemoteJob, ServerError
from sdcffi.serve.http import _Guard
from sdcffi.serve.metrics import Metrics

KEYS = {"alice": "a-key-of-alice-with-30-characters", "bob": "b-key-of-bob-with-30-characters!!"}


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    network = write_network(tmp_path_factory.mktemp("network") / "x2.safetensors", random_weights(2))
    files = {name: str(path) for name, path in demo_model().items()}
    more = ModelConfig.of("demo", {**files, **TINY, "backend": "cpu"}), ModelConfig.upscaler("x2", str(network))
    limits = {"queue": 6, "queue_per_client": 4, "request_bytes": 100_000}
    with serving(tiny_config(tiny_model, tmp_path_factory.mktemp("store"), *more, **limits)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with keys."""
    config = tiny_config(tiny_model, tmp_path_factory.mktemp("store"), keys=KEYS, cors=["https://friend.example"])
    with serving(config) as running:
        yield running


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def png(color: str = "red", size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def icon() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "ICO")
    return encoded(buffer.getvalue())


def blank(size: int) -> str:
    """A large image in a small file: all black, with a bit for each pixel."""
    buffer = io.BytesIO()
    Image.new("1", (size, size)).save(buffer, "PNG")
    return encoded(buffer.getvalue())


def post(http: httpx.Client, parameters: dict[str, Any], query: str = "", **body: Any) -> httpx.Response:
    return http.post(f"/api/jobs{query}", json={"parameters": parameters, **body})


def until_running(http: httpx.Client, job_id: str) -> None:
    end = time.monotonic() + 30
    while http.get(f"/api/jobs/{job_id}").json()["state"] == "queued":
        assert time.monotonic() < end
        time.sleep(0.02)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_a_job_gives_the_image_that_the_engine_gives(server: Running, tiny_model: TinyModel) -> None:
    with server.client() as client:
        job = client.wait(client.submit("a cat", seed=5, batch_count=2, loras=[("lora", 0.5)]))
        images = client.images(job)
    with Engine(**tiny_model.engine_arguments(), backend="cpu") as engine:
        expected = engine.generate("a cat", seed=5, batch_count=2, loras=[(tiny_model.lora, 0.5)], **TINY)
    assert [np.asarray(image).tolist() for image in images] == [array.tolist() for array in expected.arrays]
    assert [image["seed"] for image in job.images] == [5, 6]
    assert (job.state, job.error, job.attempts, job.model) == ("finished", None, 1, "tiny")
    assert (job.loras[0]["path"], job.loras[0]["multiplier"]) == ("lora", 0.5)
    assert job.loras[0]["applied"] == job.loras[0]["total"] > 0
    assert job.progress is not None
    assert job.progress["fraction"] == 1
    assert job.parameters == {"prompt": "a cat", "seed": 5, "batch_count": 2}


def test_an_image_has_its_record(server: Running, http: httpx.Client) -> None:
    with server.client() as client:
        job = client.wait(client.submit("a dog", seed=9, width=128))
        content = client.image_files(job)[0]
    record = http.get(job.images[0]["record_url"]).json()
    assert Record.from_file(content).to_dict() == record == Record.from_dict(record).to_dict()
    assert (record["seed"], record["width"], record["params"]["prompt"]) == (9, 128, "a dog")
    read = http.post("/api/read", content=content).json()
    assert read["model"] == "tiny"
    assert {**TINY, "prompt": "a dog", "seed": 9, "width": 128}.items() <= read["parameters"].items()
    again = client_wait(server, read["parameters"])
    assert http.get(again.images[0]["url"]).content[-2000:] == content[-2000:]


def client_wait(server: Running, parameters: dict[str, Any]) -> RemoteJob:
    with server.client() as client:
        return client.wait(client.submit(**parameters))


def test_an_image_of_another_program_is_read(http: httpx.Client) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(
        "parameters", "a cat <lora:x:0.5>\nNegative prompt: dogs\nSteps: 7, Sampler: Euler a, CFG scale: 3, Seed: 4"
    )
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG", pnginfo=info)
    found = http.post("/api/read", content=buffer.getvalue()).json()["parameters"]
    assert (found["steps"], found["seed"], found["negative_prompt"]) == (7, 4, "dogs")
    answer = http.post("/api/read", content=png())
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "no_record")
    assert http.post("/api/read", content=b"no image").status_code == 400


def test_images_come_in_as_data(server: Running) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    data_url = "data:image/png;base64," + encoded(png("blue"))
    given = {"model": "demo", "seed": 1, "mask_blur": 0}
    for init in (png("blue"), Image.new("RGB", (64, 64), "blue"), data_url):
        with server.client() as client:
            job = client.wait(client.submit("x", init_image=init, mask_image=mask, strength=0.5, **given))
            pixels = np.asarray(client.images(job)[0])
        assert (pixels[:, 40:] == (0, 0, 255)).all()  # outside of the mask
        assert not (pixels[:, :24] == (0, 0, 255)).all()
    box = client_wait(server, {"prompt": "x", "init_image": png("blue"), "mask_image": [0, 0, 32, 64], **given})
    assert box.state == "finished"


@pytest.mark.parametrize("name", ["ref_images", "pm_id_images"])
def test_a_client_sends_lists_of_images(server: Running, name: str) -> None:
    with server.client() as client, pytest.raises(ServerError, match=f"{name} must have at most 16 images"):
        client.submit("x", **{name: [Image.new("RGB", (8, 8))] * 17})


def test_an_image_is_upscaled(server: Running, http: httpx.Client) -> None:
    with server.client() as client:
        job = client.wait(client.submit(kind="upscale", model="x2", image=png(size=32)))
        large = client.images(job)[0]
        with pytest.raises(ServerError, match="factor must be from 1"):
            client.wait(client.submit(kind="upscale", model="x2", image=png(size=32), factor=9))
        with pytest.raises(ServerError, match="send a smaller one"):
            client.submit(kind="upscale", model="x2", image=png(size=2100), factor=4)
        for parameters in ({}, {"image": png(), "size": 4}, {"image": png(), "factor": 0.5}):
            with pytest.raises(ServerError):
                client.submit(kind="upscale", model="x2", **parameters)
    entry = next(model for model in server.service.config.models if model.name == "x2")
    with Upscaler(entry.arguments.engine_others["model"], backend="cpu") as upscaler:
        assert np.array_equal(np.asarray(large), upscaler.upscale(png(size=32)).array)
    assert (job.kind, large.size, job.images[0]["record_url"]) == ("upscale", (64, 64), None)
    assert http.get(f"/api/images/{job.images[0]['id']}/record").status_code == 404


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "there is no prompt"),
        ({"prompt": 5}, "prompt must be a string"),
        ({"prompt": "x", "stepz": 3}, "unknown parameter 'stepz'; did you mean steps"),
        ({"prompt": "x", "width": 0}, "width must be from 1"),
        ({"prompt": "x", "steps": "many"}, "steps must be an integer"),
        ({"prompt": "x", "sampler": "best"}, "sampler must be one of euler"),
        ({"prompt": "x", "width": 8192, "height": 8192}, "width x height must be at most"),
        ({"prompt": "x", "width": 512, "hires": True, "hires_scale": 16}, "width x height must be at most"),
        ({"prompt": "x", "steps": 201}, "steps must be at most 200"),
        ({"prompt": "x", "sigmas": [1 - step / 250 for step in range(251)]}, "steps must be at most 200"),
        ({"prompt": "x", "ref_images": [encoded(png(size=8))] * 17}, "ref_images must have at most 16 images"),
        ({"prompt": "x", "pm_id_images": [""] * 17}, "pm_id_images must have at most 16 images"),
        ({"prompt": "x", "init_image": icon()}, "icon"),
        ({"prompt": "x", "batch_count": 17}, "batch_count must be at most 16"),
        ({"prompt": "x", "model": "/etc/passwd"}, "set by the server"),
        ({"prompt": "x", "backend": "cpu"}, "set by the server"),
        ({"prompt": "x", "loras": ["other"]}, "there is no LoRA 'other'"),
        ({"prompt": "x", "loras": ["../lora"]}, "there is no LoRA"),
        ({"prompt": "x", "loras": [{"path": "/etc/passwd"}]}, "a LoRA must be"),
        ({"prompt": "x", "loras": "lora"}, "loras must be a list"),
        ({"prompt": "x", "params": {"loras": [{"path": "/etc/passwd"}]}}, "there is no LoRA 'passwd'"),
        ({"prompt": "x", "params": {"init_image": "/etc/passwd"}}, "init_image must be the data of an image"),
        ({"prompt": "x", "init_image": "/etc/passwd"}, "init_image must be the data of an image"),
        ({"prompt": "x", "init_image": "http://127.0.0.1/x.png"}, "init_image must be the data of an image"),
        ({"prompt": "x", "init_image": encoded(b"%!PS-Adobe")}, "PostScript"),
        ({"prompt": "x", "ref_images": ["/etc/passwd"]}, "ref_images must be the data of an image"),
        ({"prompt": "x", "hires_model": "/etc/passwd"}, "a file of the server"),
        ({"prompt": "x", "pm_id_embed": "/etc/passwd"}, "a file of the server"),
        ({"sdcffi": 1, "files": []}, "not a record"),
    ],
)
def test_wrong_parameters_are_refused_before_they_wait(
    http: httpx.Client, parameters: dict[str, Any], message: str
) -> None:
    status, text = error(post(http, parameters))
    assert status == 400
    assert message in text


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the images that are decoded from files."""
    sizes, load = [], ImageFile.load

    def noting(image: ImageFile) -> Any:
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile, "load", noting)
    return sizes


def test_an_image_with_too_many_pixels_is_not_decoded(http: httpx.Client, loaded: list[tuple[int, int]]) -> None:
    large = blank(4200)
    for name, value in (("init_image", large), ("mask", large), ("ref_images", [large])):
        status, text = error(post(http, {"prompt": "x", name: value}))
        assert status == 400
        assert "has 4200x4200 pixels" in text
    assert loaded == []


def test_input_images_that_are_too_large_together_are_not_held_together(
    http: httpx.Client, loaded: list[tuple[int, int]]
) -> None:
    status, text = error(post(http, {"prompt": "x", "ref_images": [blank(4096)] * 6}))
    assert status == 400
    assert "the pixels of all input images take" in text
    assert len(loaded) == 6  # each by itself


WEIRD = [
    None,
    True,
    -1,
    10**400,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "x" * 9000,
    [],
    {},
    [[1]],
    {"a": {}},
    [None],
]


@pytest.mark.slow
def test_no_value_of_a_parameter_breaks_the_server(http: httpx.Client) -> None:
    for name in (*http.get("/api/parameters").json()["properties"], "params", "tiling", "cache", "hires", "slg"):
        for value in WEIRD:
            body = json.dumps({"parameters": {"prompt": "x", name: value}})
            answer = http.post("/api/jobs", content=body, headers={"Idempotency-Key": "k"})
            assert answer.status_code in (202, 400, 422, 429), (name, value, answer.text)
            if answer.status_code == 202:
                http.delete(answer.headers["location"])


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'{"kind": "video"}', 400, "invalid_request"),
        (b'{"promt": "x"}', 400, "invalid_request"),
        (b'{"model": "other", "parameters": {"prompt": "x"}}', 404, "unknown_model"),
        (b'{"kind": "upscale", "parameters": {}}', 404, "unknown_model"),
        (b'{"parameters": {"prompt": "x"}, "retry": 4}', 400, "invalid_request"),
        (b'{"parameters": {"prompt": "x"}, "timeout": 0}', 400, "invalid_request"),
        (b'{"parameters": {"prompt": "x", "cfg_scale": NaN}}', 400, "invalid_json"),
        (b'{"parameters": {"prompt": "x", "cfg_scale": -Infinity}}', 400, "invalid_json"),
        (b'{"parameters": {"prompt": "x", "cfg_scale": 1e999}}', 400, "invalid_json"),
        (b'{"parameters": {"prompt": "x", "\\uD800": 1}}', 400, "invalid_json"),
        (b'{"parameters": {"prompt": "\xed\xa0\x80"}}', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"parameters": {"prompt": [' + b"1," * 40_000 + b"1]}}", 400, "invalid_request"),
        (b"x" * 100_001, 413, "too_large"),
    ],
)
def test_wrong_bodies_are_refused(http: httpx.Client, body: bytes, status: int, kind: str) -> None:
    answer = http.post("/api/jobs", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


def test_json_of_many_values_is_refused_before_it_is_read(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_MOST_VALUES", 1000)
    for body in (b"[" + b"[]," * 1000 + b"1]", b'{"a": {' + b",".join([b'"b": {}'] * 1000) + b"}}"):
        answer = http.post("/api/jobs", content=body)
        assert answer.status_code == 400
        assert "has more than 1,000 values" in answer.json()["error"]["message"]


def test_an_error_that_nobody_expected(server: Running, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status in (
        (RuntimeError("/secret/path"), 500),
        (OSError(errno.ENOSPC, "no space", "/secret/path"), 507),
        (OSError(errno.EMFILE, "too many files", "/secret/path"), 503),
    ):
        monkeypatch.setattr(server.service, "upscalers", Mock(side_effect=error))
        answer = http.get("/api/upscalers")
        assert (answer.status_code, "secret" in answer.text) == (status, False)
        assert answer.json()["error"]["message"]


def test_a_large_body_is_refused_while_it_comes(http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 10_000

    answer = http.post("/api/jobs", content=endless())
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_large")


class Guarded:
    """A guard with room for bodies of 100 bytes, before an application that answers when it may."""

    def __init__(self) -> None:
        self.metrics, self.may_answer, self.has_read = Metrics(), asyncio.Event(), asyncio.Event()
        config = SimpleNamespace(request_bytes=100, queue_bytes=1)
        access = SimpleNamespace(client=lambda _: "a client", is_signed=lambda _: False)
        service: Any = SimpleNamespace(config=config, metrics=self.metrics)
        self.guard = _Guard(self.application, access, service)  # type: ignore[arg-type]

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        self.has_read.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, size: int, *, told: bool, method: str = "POST") -> int:
        """Send a body, in two halves, and return the status of the answer."""
        parts, statuses = [size // 2, size - size // 2], []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"x" * parts.pop(), "more_body": bool(parts)}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        headers = [(b"content-length", str(size).encode())] if told else []
        scope = {"type": "http", "method": method, "path": "/api/jobs", "headers": headers, "query_string": b""}
        await self.guard(scope, receive, send)
        return int(statuses[0])


@pytest.mark.parametrize("told", [True, False])
def test_the_bodies_of_all_requests_have_a_limit_together(told: bool) -> None:
    async def ask() -> None:
        server = Guarded()
        first = asyncio.create_task(server.ask(60, told=told))
        await server.has_read.wait()
        assert await asyncio.wait_for(server.ask(60, told=told), 10) == 503
        server.may_answer.set()
        assert await first == 200
        assert await server.ask(60, told=told) == 200
        assert await server.ask(101, told=told) == 413

    asyncio.run(ask())


def test_a_method_of_a_clients_own_is_not_counted_by_its_name() -> None:
    async def ask() -> str:
        server = Guarded()
        server.may_answer.set()
        for method in ("POST", "BREW", "X" * 1000):
            await server.ask(1, told=True, method=method)
        return server.metrics.text().decode()

    text = asyncio.run(ask())
    assert 'sdcffi_requests_total{method="POST",route="",status="200"} 1.0' in text
    assert 'sdcffi_requests_total{method="other",route="",status="200"} 2.0' in text
    assert "BREW" not in text


def test_an_unknown_address_is_answered_in_the_same_form(http: httpx.Client) -> None:
    assert http.get("/api/nothing").json()["error"]["type"] == "not_found"
    assert http.put("/api/jobs").json()["error"]["type"] == "method_not_allowed"
    told = http.post("/images/generations").json()["error"]["message"]
    assert told == "there is nothing at '/images/generations': see /api/docs; OpenAI's API is at /v1"
    assert error(http.get("/api/jobs", params={"limit": "x"}))[0] == 400
    for path in ("/api/jobs/0", "/api/jobs/0/events", "/api/images/0-0", "/api/images/..%2f..%2fsecret"):
        assert http.get(path).status_code == 404


def test_events_tell_phases_previews_and_the_end(server: Running) -> None:
    with server.client() as client:
        events = list(client.events(client.submit("a cat", seed=1, steps=8, previews=True)))
    names = [event.name for event in events]
    assert (names[0], names[-2:]) == ("queued", ["image", "finished"])
    assert names.index("started") < names.index("progress")
    phases = [event.data["phase"] for event in events if event.name == "progress"]
    assert {"sample", "decode"} <= set(phases)
    fractions = [event.data["fraction"] for event in events if event.name == "progress"]
    assert fractions == sorted(fractions)
    previews = [event for event in events if event.name == "preview"]
    assert previews
    assert all(event.preview is not None and event.preview.size == (8, 8) for event in previews)
    assert events[-1].job is not None
    assert events[-1].job.images[0]["id"] == events[-2].data["id"]


def test_who_comes_back_gets_what_he_missed(server: Running, http: httpx.Client) -> None:
    with server.client() as client:
        job = client.wait(client.submit("a cat", seed=1))
    path = f"/api/jobs/{job.id}/events"
    text = http.get(path).text
    numbers = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id:")]
    later = http.get(path, headers={"Last-Event-ID": numbers[-2]}).text
    assert [line for line in later.splitlines() if line.startswith("event:")] == ["event: finished"]
    assert http.get(path, headers={"Last-Event-ID": numbers[-1]}).status_code == 204
    assert "previews" not in text
    assert "event: preview" not in text


def test_a_running_job_is_cancelled(server: Running, http: httpx.Client) -> None:
    with server.client() as client:
        job = client.submit("a cat", **LONG)
        until_running(http, job.id)
        started = time.monotonic()
        assert client.cancel(job).state == "cancelled"
        assert time.monotonic() - started < 6
        assert client.cancel(job).state == "cancelled"
        assert [event.name for event in client.events(job)][-1] == "cancelled"
        with pytest.raises(CancelledError):
            client.wait(job)
        assert client.wait(client.submit("a cat", seed=1)).state == "finished"


def test_a_waiting_job_is_cancelled_and_knows_its_place(server: Running, http: httpx.Client) -> None:
    with server.client() as client:
        first = client.submit("a cat", **LONG)
        until_running(http, first.id)
        waiting = [client.submit("a cat") for _ in range(3)]
        assert [client.get(job).position for job in waiting] == [1, 2, 3]
        assert client.cancel(waiting[0]).state == "cancelled"
        assert [client.get(job).position for job in waiting] == [None, 1, 2]
        assert client.cancel(first).state == "cancelled"
        assert [client.wait(job).state for job in waiting[1:]] == ["finished"] * 2
        assert client.get(waiting[0]).started is None


@pytest.mark.parametrize("way", ["wait", "events"])
def test_a_job_is_cancelled_when_its_client_leaves(server: Running, http: httpx.Client, way: str) -> None:
    body = {"parameters": {"prompt": "a cat", **LONG}}
    with server.http() as leaving:
        if way == "wait":
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/api/jobs?wait=true", json=body, timeout=1)
        else:
            job_id = leaving.post("/api/jobs", json=body).json()["id"]
            with leaving.stream("GET", f"/api/jobs/{job_id}/events?cancel=true") as events:
                next(events.iter_lines())
    with server.client() as client:
        job = client.jobs()[0]
        with pytest.raises(CancelledError):
            client.wait(job)
        assert (client.get(job).ended or 0) - job.created < 8


def test_a_job_whose_client_of_events_leaves_goes_on(server: Running) -> None:
    with server.client() as client:
        job = client.submit("a cat", **{**TINY, "steps": 20})
        for _ in client.events(job):
            break
        assert client.wait(job).state == "finished"


def test_a_time_limit_counts_running_only(server: Running, http: httpx.Client) -> None:
    with server.client() as client:
        job = client.submit("a cat", timeout=0.5, **LONG)
        with pytest.raises(ServerError, match=r"longer than 0\.5 seconds") as caught:
            client.wait(job)
        assert (caught.value.status, caught.value.type) == (504, "GenerationTimeoutError")
        first = client.submit("a cat", **LONG)
        waiting = client.submit("a cat", timeout=20)
        until_running(http, first.id)
        client.cancel(first)
        assert client.wait(waiting).state == "finished"


def test_a_full_queue_answers_when_to_come_back(server: Running, http: httpx.Client) -> None:
    with server.client(patience=0) as client:
        jobs = [client.submit("a cat", **LONG)]
        until_running(http, jobs[0].id)
        jobs += [client.submit("a cat") for _ in range(4)]
        answer = post(http, {"prompt": "a cat"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        with pytest.raises(ServerError, match="4 of your jobs wait already"):
            client.submit("a cat")
        for job in jobs:
            client.cancel(job)
        assert client.wait(client.submit("a cat")).state == "finished"


def test_a_patient_client_gets_its_turn(server: Running, http: httpx.Client) -> None:
    with server.client(patience=60) as client:
        jobs = [client.submit(f"cat {number}") for number in range(12)]
        assert len({job.id for job in jobs}) == 12
        assert {client.wait(job).state for job in jobs} == {"finished"}


def test_a_key_makes_a_request_one_job(server: Running, http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"model": "demo", "parameters": {"prompt": "a cat", "init_image": encoded(png())}}
    answers = [http.post("/api/jobs", json=body, headers=headers).json()["id"] for _ in range(3)]
    assert len(set(answers)) == 1
    other = http.post("/api/jobs", json={"parameters": {"prompt": "a dog"}}, headers=headers)
    assert (other.status_code, other.json()["error"]["type"]) == (422, "key_reused")
    assert http.post("/api/jobs", json=body, headers={"Idempotency-Key": "two"}).json()["id"] != answers[0]
    assert error(http.post("/api/jobs", json=body, headers={"Idempotency-Key": "x" * 201}))[0] == 400


def test_a_warning_of_a_call_goes_to_its_client_alone(server: Running, recwarn: pytest.WarningsRecorder) -> None:
    with server.client() as client:
        jobs = [client.submit("a cat", width=60, seed=1), client.submit("a cat", seed=1)]
        warned, other = (client.wait(job) for job in jobs)
    assert any("64x64" in warning for warning in warned.warnings)
    assert other.warnings == []
    assert not [one for one in recwarn if "64x64" in str(one.message)]


def test_what_the_server_has_is_listed(http: httpx.Client) -> None:
    models = http.get("/api/models").json()
    assert models["default"] == "tiny"
    assert models["models"][0]["name"] == "tiny"
    assert models["models"][0]["family"] == "flux2"
    assert "lora" in http.get("/api/loras").json()["loras"]
    assert "euler" in http.get("/api/samplers").json()["samplers"]
    assert "karras" in http.get("/api/schedulers").json()["schedulers"]
    assert http.get("/api/upscalers").json() == {"upscalers": ["x2"]}
    assert http.get("/api/models/tiny").json()["capabilities"]["pixel_multiple"] == 16
    for path in ("models/x", "loras?model=x", "samplers?model=x", "parameters?model=x"):
        assert http.get(f"/api/{path}").status_code == 404


def test_the_schema_has_what_generate_takes(http: httpx.Client) -> None:
    schema = http.get("/api/parameters").json()
    properties = schema["properties"]
    assert {"prompt", "width", "loras", "init_image", "cache_mode", "hires_scale", "lora_tags"} <= properties.keys()
    assert not {"hires_model", "pm_id_embed", "model", "backend", "timeout"} & properties.keys()
    assert (properties["steps"]["default"], properties["steps"]["type"]) == (TINY["steps"], "integer")
    assert "euler" in properties["sampler"]["examples"]
    assert all(
        item.get("description")
        for name, item in properties.items()
        if name not in ("resize", "alpha", "canny", "strict", "lora_tags")
    )
    assert post(http, {"prompt": "x", "resize": "fit", "lora_tags": False}, "?wait=1").status_code == 200


def test_the_api_describes_itself_without_the_network(http: httpx.Client) -> None:
    described = http.get("/api/openapi.json").json()
    assert {"/api/jobs", "/api/jobs/{id}/events", "/api/images/{id}"} <= described["paths"].keys()
    assert "requestBody" in described["paths"]["/api/jobs"]["post"]
    page = http.get("/api/docs").text
    assert "POST /api/jobs" in page
    assert "<script" not in page
    assert "http" not in page.replace("https", "http").replace("Location", "").split("<style>")[0]


def test_health_and_metrics(server: Running, http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    client_wait(server, {"prompt": "a cat"})
    text = http.get("/metrics").text
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(counted['sdcffi_jobs_total{kind="generate",model="tiny",state="finished"}']) >= 1
    assert float(counted['sdcffi_model_loaded{model="tiny"}']) == 1
    assert float(counted["sdcffi_store_bytes"]) > 1000
    assert 'route="/api/jobs/{id}"' in text
    post(http, {})
    assert 'sdcffi_rejected_total{type="invalid_request"}' in http.get("/metrics").text


def test_the_log_has_a_line_for_each_request_and_no_secret(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sdcffi.access"), guarded.http() as http:
        headers = {"Authorization": f"Bearer {KEYS['alice']}"}
        http.get("/api/jobs?limit=1&signature=secret", headers=headers)
        http.get("/api/jobs")
        time.sleep(0.1)
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "sdcffi.access"]
    assert [(line["client"], line["path"], line["status"]) for line in lines] == [
        ("alice", "/api/jobs", 200),
        (None, "/api/jobs", 401),
    ]
    assert {"time", "address", "method", "seconds", "bytes"} <= lines[0].keys()
    assert "secret" not in caplog.text
    assert KEYS["alice"] not in caplog.text


def test_nothing_tells_a_path_of_the_server(server: Running, http: httpx.Client, tiny_model: TinyModel) -> None:
    job = client_wait(server, {"prompt": "a cat", "loras": ["lora"], "seed": 1})
    answers = [http.get(path).text for path in (f"/api/jobs/{job.id}", f"/api/jobs/{job.id}/events", "/api/models")]
    answers += [http.get(job.images[0]["url"]).content.decode("latin-1"), http.get(job.images[0]["record_url"]).text]
    answers += [http.get(path).text for path in ("/api/models/tiny", "/api/loras", "/api/parameters", "/metrics")]
    for wrong in (
        {"prompt": "<lora:missing:1>"},
        {"prompt": "<lora:diffusion:1> x"},
        {"prompt": "x", "loras": ["llm"]},
    ):
        answer = post(http, wrong, "?wait=true")
        assert answer.status_code == 400
        answers.append(answer.text)
    folder = str(tiny_model.lora.parent)
    for answer_text in answers:
        assert folder not in answer_text
        assert str(server.service.store.directory) not in answer_text


# Keys.


def test_a_server_with_keys_needs_one(guarded: Running) -> None:
    with guarded.http() as http:
        for path in ("/api/jobs", "/api/models", "/metrics", "/api/openapi.json", "/api/images/0-0"):
            answer = http.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
        for value in (
            "Bearer",
            "Bearer x",
            f"Bearer {KEYS['alice']}x",
            f"Token {KEYS['alice']}",
            "Basic ===",
            "Bearer é",
        ):
            assert http.get("/api/jobs", headers={"Authorization": value.encode()}).status_code == 401
        assert http.get("/api/jobs", headers={"Authorization": f"bearer {KEYS['alice']}"}).status_code == 200
        assert http.get("/api/jobs", auth=("anybody", KEYS["bob"])).status_code == 200
        assert http.get("/api/jobs", auth=("anybody", "wrong")).status_code == 401


@pytest.mark.parametrize("host", ["x/healthz?", "x/page/", "x/healthz#", "x/api/login?"])
def test_the_header_host_opens_no_door(guarded: Running, host: str) -> None:
    with guarded.http() as http:
        for path in ("/api/jobs", "/metrics"):
            assert http.get(path, headers={"Host": host}).status_code in (400, 401)


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": "[::1"}, {"Origin": "http://["}])
def test_headers_without_an_address_are_refused(server: Running, guarded: Running, headers: dict[str, str]) -> None:
    for running in (server, guarded):
        with running.http() as http:
            for path in ("/api/jobs", "/api/login", "/v1/images/generations"):
                answer = http.post(path, json={"key": KEYS["alice"]}, headers=headers)
                status, message = answer.status_code, answer.text
                assert (status, "has no valid address" in message) == (400, True)


@pytest.mark.parametrize("path", ["/page/../api/jobs", "/page/%2e%2e/api/jobs", "//api/jobs", "/healthz/../api/jobs"])
def test_other_spellings_of_a_path_open_no_door(guarded: Running, path: str) -> None:
    with guarded.http() as http:
        answer = http.request("GET", httpx.URL(guarded.url).copy_with(raw_path=path.encode()))
        assert answer.status_code in (401, 404)


def test_a_client_has_its_own_jobs(guarded: Running) -> None:
    with guarded.client(KEYS["alice"]) as alice, guarded.client(KEYS["bob"]) as bob:
        job = alice.wait(alice.submit("a cat", key="same"))
        assert alice.jobs()[0].id == job.id
        assert bob.jobs() == []
        for call in (bob.get, bob.cancel, bob.wait):
            with pytest.raises(ServerError, match="no such job"):
                call(job)
        with pytest.raises(ServerError, match="no such image"):
            bob.images(job)
        other = bob.submit("a cat", key="same")
        assert other.id != job.id
        bob.wait(other)
        signed = f"{job.images[0]['url']}?signature={guarded.service.signature(job.images[0]['id'])}"
        with guarded.http() as http:
            assert http.get(signed).content == alice.image_files(job)[0]
            assert http.get(signed[:-1] + ("0" if signed[-1] != "0" else "1")).status_code == 401
            assert http.get(signed.replace("?", "/record?")).status_code == 401
            assert http.delete(signed).status_code in (401, 405)


def test_who_has_no_key_yet_sends_little(guarded: Running) -> None:
    with guarded.http() as http:
        answer = http.post("/api/login", content=b'{"key": "' + b"x" * 4096 + b'"}')
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_large")


def test_a_page_has_a_cookie(guarded: Running) -> None:
    with guarded.http() as http:
        assert http.post("/api/login", json={"key": "wrong"}).status_code == 401
        answer = http.post("/api/login", json={"key": KEYS["alice"]})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert KEYS["alice"] not in cookie
        assert http.get("/api/jobs").status_code == 200
        assert http.post("/api/jobs", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
        assert post(http, {"prompt": "x"}).status_code == 202
        http.post("/api/logout")
        assert http.get("/api/jobs").status_code == 401


def test_pages_of_others_are_refused(server: Running, http: httpx.Client) -> None:
    body = json.dumps({"parameters": {"prompt": "x"}}).encode()
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = http.post("/api/jobs", content=body, headers={"Origin": origin, "Content-Type": "text/plain"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "foreign_origin")
    assert http.post("/api/jobs", content=body, headers={"Origin": server.url}).status_code == 202
    rebound = http.get("/api/jobs", headers={"Host": "evil.example:80"})
    assert (rebound.status_code, rebound.json()["error"]["type"]) == (421, "unknown_host")
    for host in ("localhost:1", "127.0.0.1", "192.168.1.5", "[::1]:8000"):
        assert http.get("/api/jobs", headers={"Host": host}).status_code == 200
    assert "access-control-allow-origin" not in http.get("/api/jobs", headers={"Origin": "https://x.example"}).headers


def test_pages_of_friends_may_call(guarded: Running) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with guarded.http() as http:
        answer = http.options("/api/jobs", headers={"Origin": "https://friend.example", **ask})
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        other = http.options("/api/jobs", headers={"Origin": "https://other.example", **ask})
        assert "access-control-allow-origin" not in other.headers
