"""The page, in a real Chromium against a real server with the model in the package."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import pytest
from PIL import Image
from upscaling_networks import random_weights, write_network

pytest.importorskip("fastapi", reason="needs the server: pip install 'sdcffi[serve]'")
pytest.importorskip("playwright", reason="needs a driver for browsers: pip install 'sdcffi[test]'")
pytest.importorskip("axe_playwright_python", reason="needs the rules for WCAG: pip install 'sdcffi[test]'")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    Error,
    Page,
    Playwright,
    Route,
    expect,
    sync_playwright,
)

from sdcffi import demo_model

expect.set_options(timeout=30_000)  # machines that test are busy
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")

KEYS = {f"test {number}": f"a key of the tests, number {number}" for number in range(100)}
PAGE = Path(__file__).parents[2] / "sdcffi" / "serve" / "page"
PROMPT = "a red heart on a blue background"
SERVER = """
import sys, uvicorn
from sdcffi.serve import ServeConfig, app
config = ServeConfig.from_file(sys.argv[1])
uvicorn.run(app(config), port=config.port, log_level="warning")
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests."""
    folder = tmp_path_factory.mktemp("server")
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    network = write_network(folder / "double.safetensors", random_weights(2))
    files = {name: str(path) for name, path in demo_model().items()}
    settings: dict[str, Any] = {
        "port": port,
        "keys": KEYS,
        "store": str(folder / "store"),
        "most_steps": 4000,
        "upscalers": {"double": str(network)},
    }
    settings["models"] = {"demo": {**files, "width": 128, "height": 128, "steps": 12, "cfg_scale": 2.0}}
    (folder / "serve.json").write_text(json.dumps(settings), "utf-8")
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder / "serve.json")])
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}healthz", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.1)
        else:
            raise AssertionError("the server does not answer")
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def keys() -> Iterator[str]:
    """Those that no test has used yet."""
    return iter(KEYS.values())


@pytest.fixture
def key(keys: Iterator[str]) -> str:
    """A key of its own for each test, since a server shows a client all its images."""
    return next(keys)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
    yield browser
    browser.close()


def log_in(context: BrowserContext, address: str, key: str) -> APIResponse:
    """Give a context the cookie of a key, as the page's dialog does."""
    return context.request.post(f"{address}api/login", data={"key": key})


def cancel_all(context: BrowserContext, address: str) -> None:
    """Leave the server free for the next test, whatever became of this one."""
    for job in context.request.get(f"{address}api/jobs").json().get("jobs", ()):
        context.request.delete(f"{address}api/jobs/{job['id']}")


@dataclass
class Opened:
    """A page, what its console said, and what it asked of servers."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Browser, address: str, key: str) -> Iterator[Callable[..., Page]]:
    """Opens the page; at the end of the test nothing may be wrong in its console, nor may it have asked elsewhere."""
    opened: list[Opened] = []
    allowed: list[str] = []

    def open_one(*, logged_in: bool = True, expected: tuple[str, ...] = (), **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        if logged_in:
            assert log_in(context, address, key).ok
        page = context.new_page()
        page.set_default_timeout(60_000)
        one = Opened(page)
        opened.append(one)
        allowed.extend(expected)
        page.on("console", lambda line: one.complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        page.on("request", lambda request: one.requests.append(request.url))
        page.goto(address)
        expect(page.locator("#lora-add:visible, #login[open]")).to_have_count(
            1
        )  # the lists are there, or a key is needed
        return page

    yield open_one
    for one in opened:
        server = "/".join(one.page.url.split("/")[:3])
        elsewhere = [url for url in one.requests if not url.startswith((f"{server}/", "data:", f"blob:{server}/"))]
        wrong = [line for line in one.complaints if not any(part in line for part in allowed)]
        cancel_all(one.page.context, address)
        one.page.context.close()
        assert not elsewhere
        assert not wrong


def generate(page: Page, prompt: str = PROMPT, **values: Any) -> None:
    """Fill in the form, and generate until it is finished."""
    page.fill("#prompt", prompt)
    for name, value in values.items():
        page.fill(f"#{name}", str(value))
    count = page.locator("#gallery li").count()
    page.click("#generate")
    expect(page.locator("#gallery li")).to_have_count(count + int(values.get("batch_count", 1)), timeout=60_000)


def posted(page: Page, act: Callable[[], object]) -> dict[str, Any]:
    """The parameters of the job that an action submits."""
    with page.expect_response(
        lambda answer: answer.request.method == "POST" and answer.url.endswith("/jobs")
    ) as answer:
        act()
    assert answer.value.status == 202, answer.value.text()
    return dict(answer.value.request.post_data_json)


def image_of(data_url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))


def shown_parameters(page: Page) -> dict[str, str]:
    """What the viewer shows."""
    expect(page.locator("#viewer-list dt").first).to_be_visible()
    terms, details = (
        page.locator("#viewer-list dt").all_inner_texts(),
        page.locator("#viewer-list dd").all_inner_texts(),
    )
    return dict(zip(terms, details, strict=True))


def drop(page: Page, selector: str, path: Path) -> None:
    """Drop a file on an element, as a user does who drags it in from a folder."""
    transfer = page.evaluate_handle(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            return transfer;
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(selector, event, {"dataTransfer": transfer})


def saved(page: Page, path: Path) -> Path:
    """Download the image that the viewer shows."""
    with page.expect_download() as download:
        page.click("#viewer-download")
    download.value.save_as(path)
    return path


def test_it_generates_and_shows_previews_and_progress(open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.locator("#progress")).to_be_hidden()
    page.fill("#prompt", PROMPT)
    page.fill("#steps", "30")
    page.click("#generate")
    bar = page.get_by_role("progressbar", name="Progress")
    expect(bar).to_be_visible()
    expect(page.locator("#stage-image[src^='data:image/jpeg']")).to_be_visible()
    expect(page.locator("#stage-text")).to_have_text(re.compile(r"Step \d+ of 30 · \d+ %"))
    seen = [int(bar.get_attribute("aria-valuenow") or 0)]
    while bar.is_visible() and len(seen) < 5:
        now = int(bar.get_attribute("aria-valuenow") or 0)
        seen += [now] if now != seen[-1] else []
    assert seen == sorted(seen)
    assert len(seen) > 2
    expect(page.locator("#gallery img")).to_have_count(1, timeout=60_000)
    expect(page.locator("#stage-text")).to_have_text(re.compile(r"One image in [\d.]+ seconds"))
    expect(page.get_by_role("status").first).to_have_text("Finished: One image")
    assert (page.get_attribute("#stage-image", "src") or "").startswith(page.url + "api/images/")
    expect(page.locator("#stage-image")).to_have_js_property("naturalWidth", 128)
    assert re.fullmatch(f"{PROMPT}, seed \\d+", page.get_attribute("#gallery img", "alt") or "")
    expect(page.locator("#cancel")).to_be_hidden()


def test_every_field_reaches_the_server(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.click("#more summary")
    expect(page.locator("#sampler option[value=euler]")).to_be_attached()
    page.click("#lora-add")
    page.locator("#lora-rows select").select_option("night")
    page.locator("#lora-rows input").fill("0.6")
    page.uncheck("#random")
    for name, value in {"prompt": PROMPT, "negative_prompt": "red", "width": 128, "height": 64, "steps": 3}.items():
        page.fill(f"#{name}", str(value))
    for name, value in {"cfg_scale": 1.5, "batch_count": 2, "seed": 7}.items():
        page.fill(f"#{name}", str(value))
    page.select_option("#sampler", "euler")
    page.select_option("#scheduler", "discrete")
    page.fill("#others", '{"clip_skip": 1}')
    job = posted(page, lambda: page.click("#generate"))
    assert job == {
        "kind": "generate",
        "model": "demo",
        "previews": True,
        "parameters": {
            **{"prompt": PROMPT, "negative_prompt": "red", "width": 128, "height": 64, "steps": 3, "cfg_scale": 1.5},
            **{"batch_count": 2, "seed": 7, "sampler": "euler", "scheduler": "discrete", "clip_skip": 1},
            "loras": [{"name": "night", "strength": 0.6}],
        },
    }
    expect(page.locator("#gallery img")).to_have_count(2, timeout=60_000)
    alts = page.locator("#gallery img").evaluate_all("images => images.map((image) => image.alt)")
    assert alts == [f"{PROMPT}, seed 7", f"{PROMPT}, seed 8"]
    page.reload()
    expect(page.locator("#gallery img")).to_have_count(2)  # the server keeps them
    assert [page.input_value(f"#{name}") for name in ("prompt", "steps", "seed", "sampler")] == [
        PROMPT,
        "3",
        "7",
        "euler",
    ]
    assert page.input_value("#lora-rows select") == "night"


@pytest.mark.parametrize("how", ["button", "escape"])
def test_a_running_job_is_cancelled(open_page: Callable[..., Page], how: str) -> None:
    page = open_page()
    page.fill("#prompt", PROMPT)
    page.fill("#steps", "3000")
    page.click("#generate")
    expect(page.locator("#stage-text")).to_have_text(re.compile(r"Step [1-9]"))
    if how == "button":
        page.click("#cancel")
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#stage-text")).to_have_text("Cancelled")
    expect(page.locator("#progress")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") in ("generate", "steps")
    generate(page, steps=2)  # the server goes on


def test_an_image_that_is_dragged_in_is_read(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    page.click("#lora-add")
    page.locator("#lora-rows select").select_option("outline")
    generate(page, negative_prompt="blue", steps=3, cfg_scale=1.5, batch_count=2)
    page.locator("#gallery button").first.click()  # the second image of the batch
    shown = shown_parameters(page)
    seed = int(shown["Seed"])
    assert shown["LoRAs"] == "outline 1 (24 of 24 tensors)"
    path = saved(page, tmp_path / "image.png")
    page.keyboard.press("Escape")

    other = open_page()
    drop(other, "#stage-frame", path)
    expect(other.locator("#viewer-title")).to_have_text("image.png")
    shown = shown_parameters(other)
    assert {name: shown[name] for name in ("Prompt", "Negative prompt", "Steps", "Guidance")} == {
        **{"Prompt": PROMPT, "Negative prompt": "blue", "Steps": "3", "Guidance": "1.5"},
    }
    assert shown["LoRAs"] == "outline 1"
    assert shown["Size"] == "128x128"
    other.click("#viewer-reuse")
    values = {name: other.input_value(f"#{name}") for name in ("prompt", "negative_prompt", "steps", "cfg_scale")}
    assert values == {"prompt": PROMPT, "negative_prompt": "blue", "steps": "3", "cfg_scale": "1.5"}
    assert other.input_value("#lora-rows select") == "outline"
    assert not other.is_checked("#random")
    assert int(other.input_value("#seed")) == seed
    generate(other, batch_count=1)
    other.locator("#gallery button").first.click()
    shown_parameters(other)
    again = saved(other, tmp_path / "again.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(again)))


def test_an_image_without_a_record_is_said_to_have_none(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(expected=("404", "400", "422"))
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    drop(page, "#stage-frame", tmp_path / "red.png")
    expect(page.locator("#viewer-note")).to_have_text(re.compile("no sdcffi metadata|no record|no parameters"))
    expect(page.locator("#viewer-reuse")).to_be_disabled()
    page.click("#viewer-input")
    expect(page.locator("#input-about")).to_contain_text("40x30")


def test_the_part_that_is_painted_is_generated_anew(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[:, 64:] = 255, 160, 0
    Image.fromarray(pixels).save(tmp_path / "two.png")
    drop(page, "#input-none", tmp_path / "two.png")
    expect(page.locator("#input-about")).to_have_text("128x128, used at 128x128")
    page.click("#mask-open")
    box = page.locator("#mask-canvas").bounding_box()
    assert box is not None
    x, y, side = box["x"], box["y"], box["width"]

    def stroke(height: float) -> None:
        page.mouse.move(x + 0.1 * side, y + height * side)
        page.mouse.down()
        page.mouse.move(x + 0.45 * side, y + height * side, steps=5)
        page.mouse.up()

    stroke(0.5)
    stroke(0.9)
    page.keyboard.press("Control+z")
    page.get_by_role("button", name="Done").click()
    page.fill("#prompt", "a yellow circle on a black background")
    page.fill("#steps", "3")
    job = posted(page, lambda: page.click("#generate"))["parameters"]
    mask = np.asarray(image_of(job["mask_image"]).convert("L"))
    assert mask.shape == (128, 128)
    assert (mask[64, 13:58] == 255).all()
    assert (mask[80:] == 0).all()  # undone
    assert (mask[:, 80:] == 0).all()
    assert 8 <= (mask[:, 30] == 255).sum() <= 14  # the brush is a tenth of the side
    assert np.array_equal(np.asarray(image_of(job["init_image"]).convert("RGB")), pixels)
    assert (job["width"], job["height"], job["strength"]) == (128, 128, 0.75)
    expect(page.locator("#gallery img")).to_have_count(1, timeout=60_000)
    page.locator("#gallery button").first.click()
    shown_parameters(page)
    result = np.asarray(Image.open(saved(page, tmp_path / "result.png")).convert("RGB")).astype(int)
    assert np.array_equal(result[100:, 64:], pixels[100:, 64:])  # far from the mask nothing changes
    assert np.abs(result[60:68, 20:50] - pixels[60:68, 20:50]).max() > 0


def test_the_mask_is_painted_by_keys(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    page.set_input_files("#input-file", tmp_path / "red.png")
    page.click("#mask-open")
    page.focus("#mask-canvas")
    for key in ("]", "]", "[", "]"):
        page.keyboard.press(key)
    expect(page.locator("#brush-value")).to_have_text("30")
    page.keyboard.press("ArrowUp")
    page.keyboard.down(" ")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.keyboard.up(" ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    page.fill("#prompt", PROMPT)
    mask = np.asarray(image_of(posted(page, lambda: page.click("#generate"))["parameters"]["mask_image"]).convert("L"))
    assert (mask[61, 60:88] == 255).all()
    assert (mask[:, :50] == 0).all()
    assert (mask[90:] == 0).all()


def test_an_image_of_the_gallery_is_the_next_input_and_is_upscaled(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page()
    generate(page, steps=2)
    page.click("#stage-show")
    shown_parameters(page)
    path = saved(page, tmp_path / "image.png")
    page.click("#viewer-input")
    job = posted(page, lambda: page.click("#generate"))["parameters"]
    sent = image_of(job["init_image"]).convert("RGB")
    assert np.array_equal(np.asarray(sent), np.asarray(Image.open(path).convert("RGB")))
    expect(page.locator("#gallery img")).to_have_count(2, timeout=60_000)
    page.locator("#gallery button").last.click()
    page.click("#viewer-upscale")
    expect(page.locator("#gallery img")).to_have_count(3, timeout=60_000)
    expect(page.locator("#stage-image")).to_have_js_property("naturalWidth", 256)


def test_what_is_removed_stays_away(open_page: Callable[..., Page]) -> None:
    page = open_page()
    generate(page, steps=1, batch_count=2)
    page.locator("#gallery button").first.click()
    page.click("#viewer-remove")
    expect(page.locator("#gallery img")).to_have_count(1)
    page.reload()
    expect(page.locator("#gallery img")).to_have_count(1)


def test_a_job_is_followed_after_a_reload(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.fill("#prompt", PROMPT)
    page.fill("#steps", "40")
    page.click("#generate")
    expect(page.locator("#stage-text")).to_have_text(re.compile("Step"))
    page.reload()
    expect(page.locator("#stage-text")).to_have_text(re.compile("Step"))
    held: list[Route] = []
    page.route("**/api/jobs/*", lambda route: held.append(route))
    page.click("#cancel")  # too late, as the answer comes once it has finished
    expect(page.locator("#gallery img")).to_have_count(1, timeout=60_000)
    with page.expect_response("**/api/jobs/*") as answer:
        held.pop().continue_()
    assert answer.value.json()["state"] == "finished"
    page.unroute("**/api/jobs/*")
    generate(page, steps=1)
    expect(page.locator("#gallery img")).to_have_count(2)  # whose end was told twice is shown once


def test_a_job_outlives_bad_answers(open_page: Callable[..., Page]) -> None:
    page = open_page(expected=("429", "502", "503", "404", "ERR_FAILED"))
    bad: list[Callable[[Route], None]] = [lambda route: route.fulfill(status=502), lambda route: route.abort()]
    bad.append(lambda route: route.fulfill(status=429))
    page.route("**/api/jobs/*", lambda route: bad.pop()(route) if bad else route.continue_())
    page.route("**/api/jobs/*/events", lambda route: route.fulfill(status=503))  # then the page asks for the job
    page.evaluate("() => { const later = setTimeout; window.setTimeout = (call, wait) => later(call, wait / 20); }")
    generate(page, steps=2)
    assert not bad
    expect(page.get_by_role("alert").first).to_be_hidden()
    page.unroute("**/api/jobs/*")
    page.route("**/api/jobs/*", lambda route: route.fulfill(status=404, json={"error": {"message": "there is no job"}}))
    page.click("#generate")
    expect(page.get_by_role("alert").first).to_have_text("There is no job.")
    expect(page.locator("#cancel")).to_be_hidden()


def test_jobs_wait_for_each_other_and_are_cancelled_one_by_one(open_page: Callable[..., Page]) -> None:
    page = open_page()
    prompts = [f"a red heart, number {number}" for number in range(9)]  # more than a browser opens connections
    page.fill("#steps", "2000")
    for prompt in prompts:
        page.fill("#prompt", prompt)
        posted(page, lambda: page.click("#generate"))
    expect(page.locator("#queue span")).to_have_text(prompts[1:])
    page.get_by_role("button", name=f"Cancel: {prompts[5]}").click()
    expect(page.locator("#queue span")).to_have_text([*prompts[1:5], *prompts[6:]])
    page.click("#cancel")  # the one that runs
    expect(page.locator("#queue span")).to_have_text([*prompts[2:5], *prompts[6:]])
    expect(page.locator("#stage-text")).to_have_text(re.compile("Step"), timeout=60_000)
    for _ in range(7):
        count = page.locator("#queue li").count()
        page.click("#cancel")
        expect(page.locator("#queue li")).to_have_count(max(0, count - 1))
    expect(page.locator("#cancel")).to_be_hidden()
    generate(page, steps=1)


def test_errors_are_in_words(open_page: Callable[..., Page]) -> None:
    page = open_page(expected=("400", "429", "ERR_INTERNET_DISCONNECTED"))
    problem = page.get_by_role("alert").first
    page.click("#generate")
    expect(problem).to_have_text("Prompt: write what to generate.")
    assert page.evaluate("document.activeElement.id") == "prompt"
    assert page.get_attribute("#prompt", "aria-invalid") == "true"
    page.fill("#prompt", PROMPT)
    page.click("#more summary")
    page.fill("#others", "{")
    page.click("#generate")
    expect(problem).to_contain_text("Other parameters must be JSON")
    page.fill("#others", "")
    page.fill("#steps", "5000")
    page.click("#generate")
    expect(problem).to_contain_text("at most 4,000")
    page.fill("#steps", "2")
    page.route(
        "**/api/jobs",
        lambda route: route.fulfill(
            status=429,
            headers={"Retry-After": "7"},
            json={"error": {"type": "queue_full", "message": "8 jobs wait: try again later"}},
        ),
    )
    page.click("#generate")
    expect(problem).to_have_text("8 jobs wait: try again later (in about 7 seconds).")
    page.unroute("**/api/jobs")
    page.context.set_offline(True)
    page.click("#generate")
    expect(problem).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    generate(page, steps=2)
    expect(problem).to_be_hidden()


def test_a_key_is_asked_for(open_page: Callable[..., Page], key: str) -> None:
    page = open_page(logged_in=False, expected=("401", "403"))
    dialog = page.get_by_role("dialog", name="Log in")
    expect(dialog).to_be_visible()
    page.fill("#key", "a wrong key")
    page.keyboard.press("Enter")
    expect(page.locator("#login-problem")).not_to_be_empty()
    page.fill("#key", key)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#model")).to_have_value("demo")
    generate(page, steps=2)
    expect(page.locator("#stage-image")).to_have_js_property("naturalWidth", 128)
    assert key not in page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    page.reload()
    expect(page.locator("#gallery img")).to_have_count(1)  # the cookie is kept
    page.get_by_role("button", name="Log out").click()
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="Not now").click()
    expect(page.get_by_role("button", name="Log out")).to_be_hidden()
    expect(page.get_by_role("alert").first).to_have_text("This server needs a key. Log in to use it.")
    page.get_by_role("button", name="Log in").click()
    expect(dialog).to_be_visible()


def test_it_fits_a_phone(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, device_scale_factor=2)
    wide = "document.documentElement.scrollWidth"
    page.click("#more summary")
    page.click("#lora-add")
    page.fill("#prompt", "a" * 300)
    assert page.evaluate(wide) == 360
    page.fill("#prompt", PROMPT)
    page.fill("#steps", "3")
    page.tap("#generate")
    expect(page.locator("#stage")).to_be_in_viewport()
    expect(page.locator("#generate")).to_be_in_viewport()
    expect(page.locator("#gallery img")).to_have_count(1, timeout=60_000)
    page.locator("#gallery button").tap()
    shown_parameters(page)
    assert page.evaluate(wide) == 360
    assert page.locator("#viewer").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    page.tap("#viewer-input")
    page.tap("#mask-open")
    box = page.locator("#mask-canvas").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_role("button", name="Done").tap()
    expect(page.locator("#input-about")).to_contain_text("only the painted part changes")
    small = page.locator("button:visible, select:visible, summary:visible").evaluate_all(
        "all => all.filter((one) => one.getBoundingClientRect().height < 28).map((one) => one.outerHTML)"
    )
    assert not small  # targets for fingers
    assert page.evaluate(wide) == 360


def brightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_dark_and_light_by_preference_and_by_choice(open_page: Callable[..., Page]) -> None:
    page = open_page(color_scheme="dark")
    assert brightness(page) < 60
    page.emulate_media(color_scheme="light")
    assert brightness(page) > 200
    page.select_option("#theme", "dark")
    assert brightness(page) < 60
    page.reload()
    assert brightness(page) < 60  # it is kept
    page.select_option("#theme", "")
    assert brightness(page) > 200


def test_reduced_motion_moves_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page(reduced_motion="reduce")
    moving = "all => all.filter((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0).length"
    assert page.locator("*").evaluate_all(moving) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.locator("*").evaluate_all(moving) > 0


def test_the_keyboard_alone_is_enough(open_page: Callable[..., Page]) -> None:
    page = open_page()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id"))

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            style = page.evaluate(
                "(one => [one.outlineStyle, parseFloat(one.outlineWidth)])(getComputedStyle("
                "document.activeElement.closest('label.button') ?? document.activeElement))"
            )
            assert style[0] != "none", focused()  # what has the focus is seen
            assert style[1] >= 1, focused()
            if focused() == wanted:
                return
        raise AssertionError(f"Tab does not reach {wanted}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the images"
    tab_to("prompt")
    page.keyboard.type(PROMPT)
    tab_to("steps")
    page.keyboard.type("3000")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#stage-text")).to_have_text(re.compile(r"Step [1-9]"))
    page.keyboard.press("Escape")
    expect(page.locator("#stage-text")).to_have_text("Cancelled")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    expect(page.locator("#gallery img")).to_have_count(1, timeout=60_000)
    for wanted in ("random", "lora-add", "input-file", "generate", "stage-show", "open-file"):
        tab_to(wanted)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Image")).to_be_visible()
    shown_parameters(page)
    tab_to("viewer-reuse")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_hidden()
    assert focused() == "prompt"
    assert not page.is_checked("#random")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(open_page: Callable[..., Page], scheme: str, tmp_path: Path) -> None:
    """Names, roles, contrast (AA) and order, by axe-core's rules for WCAG 2.2."""
    axe = Axe()
    page = open_page(color_scheme=scheme, reduced_motion="reduce")

    def check(where: str) -> None:
        found = axe.run(
            page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
        )
        violations = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found.response["violations"]]
        assert not violations, where

    check("at first")
    page.click("#more summary")
    page.click("#lora-add")
    page.fill("#prompt", PROMPT)
    page.fill("#steps", "400")
    page.click("#generate")
    expect(page.locator("#stage-text")).to_have_text(re.compile(r"Step [1-9]"))
    check("while it generates")
    page.keyboard.press("Escape")
    expect(page.locator("#progress")).to_be_hidden()
    page.fill("#prompt", "")
    page.click("#generate")
    check("with an error")
    generate(page, steps=2)
    page.click("#stage-show")
    shown_parameters(page)
    check("in the viewer")
    page.click("#viewer-input")
    page.click("#mask-open")
    check("with the mask")


def test_the_policy_lets_in_no_foreign_script(open_page: Callable[..., Page]) -> None:
    page = open_page(expected=("Content Security Policy", "TrustedHTML", "TrustedScript", "violates the following"))
    headers = page.reload()
    assert headers is not None
    meta = page.get_attribute("meta[http-equiv='Content-Security-Policy']", "content") or ""
    for policy in (meta, headers.headers["content-security-policy"]):
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    for way in (
        """() => document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.foreign = 1'>")""",
        """() => document.body.append(Object.assign(document.createElement("script"), {text: "window.foreign = 1"}))""",
        """() => { document.body.setAttribute("onclick", "window.foreign = 1"); document.body.click(); }""",
        """() => import("data:text/javascript,window.foreign = 1")""",
    ):
        with contextlib.suppress(Error):
            page.evaluate(way)
        assert page.evaluate("window.foreign") is None


def test_the_files_have_no_inline_code_and_no_foreign_address() -> None:
    page = (PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)
    for path in PAGE.iterdir():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text("utf-8")))
        assert not addresses - {"http://www.w3.org"}, path.name
