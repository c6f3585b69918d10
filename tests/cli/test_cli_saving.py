"""Nothing that was generated is lost: what cannot be saved is refused before the work, or saved elsewhere after it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import THREADS
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

import sdcffi
from sdcffi import Engine, Record, Result, SDError, Upscaler, UpscaleResult, cli
from sdcffi._batches import jobs
from sdcffi._process.handle import Handle
from sdcffi.cli import _saving

Capture = pytest.CaptureFixture[str]
Run = Callable[..., int]


@pytest.fixture
def here(models: dict[str, TinyModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with parameters, two prompts, a network of factor 2, and places where nothing fits."""
    monkeypatch.chdir(tmp_path)
    table: dict[str, Any] = {"threads": THREADS, "backend": "cpu", "cfg_scale": 1.0, "seed": 7}
    table |= {"width": 32, "height": 32, "steps": 1}
    table |= {name: str(path) for name, path in models["q8_0"].engine_arguments().items()}
    Path("m.json").write_text(json.dumps(table))
    Path("p.txt").write_text("a cat\na dog\n")
    write_network(tmp_path / "x2.safetensors", random_weights(2))
    Path("folder.png").mkdir()
    Path("out").mkdir()
    return tmp_path


@pytest.fixture
def generate(here: Path) -> Run:
    return lambda *words: cli.main(["generate", "--params", "m.json", "-p", "a cat", *words])


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does something each time that images were generated, before they are saved."""

    def after(action: Callable[[], object]) -> None:
        original = Engine.generate

        def generate(self: Engine, *arguments: Any, **keywords: Any) -> Result:
            result = original(self, *arguments, **keywords)
            action()
            return result

        monkeypatch.setattr(Engine, "generate", generate)

    return after


def pixels_of(path: str | Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


REFUSED = [
    (["-o", "folder.png"], "folder.png is a directory"),
    (["-o", "out"], "out is a directory: name a file in it"),
    (["-o", "out/"], "out is a directory: name a file in it"),
    (["-o", "out.pdf"], "out.pdf does not have the ending of an image file; use one of"),
    (["-o", "out.ico"], "out.ico does not have the ending of an image file"),
    (["-o", "a\0b.png"], "NUL"),
    (["-o", "nowhere/out.png"], "directory nowhere does not exist"),
    (["-o", "p.txt/out.png"], "directory p.txt does not exist"),
    (["-o", "/sys/out.png"], "/sys/out.png cannot be written"),
    (["-o", "x" * 300 + ".png"], "File name too long"),
    (["-b", "2", "-o", "b.png"], "b_1.png is a directory"),
    (["--save-params", "out.png"], "--save-params must end in .json"),
    (["--save-params", "m.gguf"], "--save-params must end in .json"),
    (["--save-params", "nowhere/p.json"], "directory nowhere does not exist"),
    (["--save-params", "/sys/p.json"], "/sys/p.json cannot be written"),
    (["--save-params", "folder.json"], "folder.json is a directory"),
    (["--preview", "proj", "--preview-path", "./out.png"], "--preview-path and --output are both"),
    (["--preview", "proj", "--preview-path", "/sys/p.png"], "/sys/p.png cannot be written"),
    (["--prompts", "p.txt", "-o", "/sys/out.png"], "/sys/out_0001.png cannot be written"),
    (["--prompts", "same.jsonl"], "lines 1 and 3 have the same output"),
    (["--prompts", "inner.jsonl"], "lines 1 and 2 have the same output"),
    (["--prompts", "many.jsonl"], "line 1: batch_count must be from 1 to 10000, not 1000000000"),
    (["--prompts", "odd.jsonl"], "line 1: output must be a string, not 5"),
    (["--prompts", "p.txt", "--preview", "vae", "--preview-path", "out_0002.png"], "--preview-path and --output"),
    (["--overwrite"], "--overwrite is for --prompts"),
    (["--upscale-repeats", "2"], "--upscale-repeats needs --upscale-model"),
    (["--prompts", "table.json"], ".json is not read"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda value: "" if isinstance(value, str) else value[-1][:20])
def test_what_could_not_be_saved_is_refused_before_anything_is_loaded(
    words: list[str], said: str, generate: Run, here: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handle, "_open", lambda *_: pytest.fail("the model was loaded"))
    Path("b_1.png").mkdir()
    Path("folder.json").mkdir()
    tables = {
        "same": [{"output": "out/a.png"}, {}, {"output": "out/../out/a.png"}],
        "inner": [{"output": "a_1.png"}, {"output": "a.png", "batch_count": 2}],
        "many": [{"batch_count": 10**9}],
        "odd": [{"output": 5}],
    }
    for name, lines in tables.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"prompt": "a", **line}) + "\n" for line in lines))
    before = sorted(os.walk(here))
    assert generate("-o", "out.png", *words) in (1, 2)
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert sorted(os.walk(here)) == before


def rescued(message: str) -> list[Path]:
    """The files that a message names."""
    return [Path(name) for name in re.findall(r"saved as (.+?\.\w+)(?= instead|$|\n|; )", message)]


def test_images_whose_folder_is_gone_are_saved_elsewhere_and_the_error_says_where(
    generate: Run, after: Any, here: Path, capfd: Capture
) -> None:
    assert generate("-o", "whole.png") == 0
    capfd.readouterr()
    after(lambda: shutil.rmtree("out"))
    assert generate("-o", "out/a.png", "--save-params", "out/p.json") == 1
    out, err = capfd.readouterr()
    assert out == ""
    image, parameters = rescued(err)
    assert image.name == "a.png"
    assert np.array_equal(pixels_of(image), pixels_of("whole.png"))
    assert Record.from_file(image).seed == 7
    assert json.loads(parameters.read_text())["seed"] == 7


def test_parameters_are_saved_though_the_image_was_not(generate: Run, after: Any, here: Path, capfd: Capture) -> None:
    after(lambda: shutil.rmtree("out"))
    assert generate("-o", "out/a.png", "--save-params", "p.json") == 1
    assert json.loads(Path("p.json").read_text())["prompt"] == "a cat"
    assert len(rescued(capfd.readouterr().err)) == 1


def test_where_the_current_directory_fails_too_another_place_is_found(
    generate: Run, after: Any, here: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_saving, "_places", lambda: iter([Path("/sys"), tmp_path]))
    after(lambda: shutil.rmtree("out"))
    assert generate("-o", "out/a.png") == 1
    assert rescued(capfd.readouterr().err)[0].parent.parent == tmp_path
    monkeypatch.setattr(_saving, "_places", lambda: iter([Path("/sys")]))
    Path("out").mkdir()
    assert generate("-o", "out/a.png") == 1
    assert "nor could the result be saved in /sys" in capfd.readouterr().err


@pytest.mark.parametrize("broken", ["format", "record"])
def test_an_image_is_saved_as_png_or_without_its_record_where_that_is_what_fails(
    broken: str, generate: Run, here: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.init()  # else the writer that is broken would be registered later
    if broken == "record":
        monkeypatch.setattr(Result, "record", lambda *_, **__: 1 / 0)
    else:
        Image.init()  # registers the formats, which would undo the change
        monkeypatch.setitem(Image.SAVE, "JPEG", lambda *_: 1 / 0)
    assert generate("-o", "a.jpg") == 1
    (path,) = rescued(capfd.readouterr().err)
    assert path.name == "a.png"
    assert pixels_of(path).shape == (32, 32, 3)


def test_ctrl_c_while_digests_are_read_saves_the_image_without_them(
    generate: Run, here: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("sdcffi._records.origin.sha256", interrupt)
    assert generate("-o", "a.png") == 130
    assert {file.sha256 for file in Record.from_file("a.png").files} == {None}


def test_ctrl_c_while_the_model_is_freed_saves_the_image(
    generate: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "__exit__", interrupt)
    assert generate("-o", "a.png") == 130
    assert Record.from_file("a.png").seed == 7


@pytest.mark.parametrize(("error", "status"), [(SDError("no memory"), 1), (KeyboardInterrupt(), 130)])
def test_images_that_could_not_be_enlarged_are_saved_as_they_are(
    error: BaseException, status: int, generate: Run, here: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Upscaler, "upscale", fail)
    assert generate("-o", "a.png", "--upscale-model", "x2.safetensors") == status
    assert "a_not_enlarged.png" in capfd.readouterr().err
    assert pixels_of("a_not_enlarged.png").shape == (32, 32, 3)
    assert not Path("a.png").exists()
    assert generate("--prompts", "p.txt", "-o", "b.png", "--upscale-model", "x2.safetensors") == status
    assert pixels_of("b_0001_not_enlarged.png").shape == (32, 32, 3)


def test_upscale_and_video_and_replay_check_their_outputs_and_save_elsewhere(
    generate: Run, here: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate("-o", "a.png") == 0
    with monkeypatch.context() as patched:
        patched.setattr(Handle, "_open", lambda *_: pytest.fail("the model was loaded"))
        for command in (
            ["upscale", "a.png", "-m", "x2.safetensors", "-o", "/sys/b.png"],
            ["video", "--params", "m.json", "-p", "a", "-o", "/sys/b.webp"],
            ["replay", "a.png", "-o", "/sys/b.png"],
        ):
            capfd.readouterr()
            assert cli.main(command) == 1
            assert "/sys/b." in capfd.readouterr().err
        for words, said in {
            ("-o", "b.gif", "--lossless"): "--lossless",
            ("-o", "folder.png/b.mp4", "--fps", "0"): "fps",
            ("-o", "out"): "is a directory",
        }.items():
            assert cli.main(["video", "--params", "m.json", "-p", "a", *words]) == 2
            assert said.replace("--lossless", "lossless") in capfd.readouterr().err
        patched.setitem(sys.modules, "av", None)
        assert cli.main(["video", "--params", "m.json", "-p", "a", "-o", "b.mp4"]) == 1
        assert "PyAV" in capfd.readouterr().err
    original = UpscaleResult.save

    def save(self: UpscaleResult, path: Any) -> Path:
        shutil.rmtree("out", ignore_errors=True)
        return original(self, path)

    monkeypatch.setattr(UpscaleResult, "save", save)
    words = ["upscale", "a.png", "-m", "x2.safetensors", "-o", "out/b.png", "-t", str(THREADS), "--backend", "cpu"]
    assert cli.main(words) == 1
    assert pixels_of(rescued(capfd.readouterr().err)[0]).shape == (64, 64, 3)


def test_a_batch_generates_what_differs_and_says_so(generate: Run, here: Path, capfd: Capture) -> None:
    assert generate("--prompts", "p.txt", "-o", "out/p.png") == 0
    Path("p.txt").write_text("a cat\na bird\na dog\n")
    capfd.readouterr()
    assert generate("--prompts", "p.txt", "-o", "out/p.png") == 0
    out, err = capfd.readouterr()
    assert out == "out/p_0002.png (seed 7)\nout/p_0003.png (seed 7)\n"
    assert "1 of 3 lines are finished already" in err
    assert "line 2 is generated again: out/p_0002.png differs in prompt" in err
    assert [Record.from_file(f"out/p_000{line}.png").params.prompt for line in (1, 2, 3)] == [
        "a cat",
        "a bird",
        "a dog",
    ]
    Path("out/p_0001.png").write_bytes(b"")
    Image.new("RGB", (8, 8)).save("out/p_0002.png")
    assert generate("--prompts", "p.txt", "-o", "out/p.png", "--steps", "2") == 0
    out, err = capfd.readouterr()
    assert out == "out/p_0001.png (seed 7)\nout/p_0003.png (seed 7)\n"
    assert "out/p_0001.png is damaged" in err
    assert "out/p_0003.png differs in steps" in err
    assert "1 of 3 lines are skipped, because their files have no record" in err
    assert pixels_of("out/p_0002.png").shape == (8, 8, 3)
    assert generate("--prompts", "p.txt", "-o", "out/p.png", "--overwrite") == 0
    assert capfd.readouterr().out.count("\n") == 3
    assert Record.from_file("out/p_0002.png").params.prompt == "a bird"
    assert sorted(os.listdir("out")) == ["p_0001.png", "p_0002.png", "p_0003.png"]


def test_a_failure_counts_all_lines(generate: Run, here: Path, capfd: Capture) -> None:
    assert generate("--prompts", "p.txt", "-o", "out/p.png") == 0
    Path("p.txt").write_text("a cat\na dog\na bird <lora:nowhere:1>\n")
    assert generate("--prompts", "p.txt", "-o", "out/p.png") == 1
    err = capfd.readouterr().err
    assert "1 of 3 lines of p.txt failed: correct what their errors say, then run the same command again" in err


def test_two_lines_have_one_output_also_through_a_link(here: Path, capfd: Capture) -> None:
    Path("out/link.png").symlink_to("a.png")
    Path("p.jsonl").write_text('{"prompt": "a", "output": "out/a.png"}\n{"prompt": "b", "output": "out/link.png"}')
    assert cli.main(["generate", "--params", "m.json", "--prompts", "p.jsonl"]) == 2
    assert "lines 1 and 2 have the same output" in capfd.readouterr().err


def test_a_line_that_cannot_be_saved_does_not_end_the_batch(
    generate: Run, after: Any, here: Path, capfd: Capture
) -> None:
    calls = []

    def once() -> None:
        calls.append(1)
        if len(calls) == 1:
            shutil.rmtree("out")
            Path("out").touch()

    after(once)
    lines = [{"prompt": "a", "output": "out/a.png"}, {"prompt": "b", "output": "b.png"}]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert generate("--prompts", "p.jsonl", "--json") == 1
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[0])["path"] == "b.png"
    assert "sdcffi: error: line 1: " in err
    assert rescued(err)[0].name == "a.png"
    assert "1 of 2 lines" in err


def test_a_line_that_another_run_generates_is_left_to_it(
    generate: Run, here: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate("--prompts", "p.txt", "-o", "there.png") == 0
    capfd.readouterr()
    waits = []
    claimed, other_run = jobs.claimed, ExitStack()
    assert other_run.enter_context(claimed(Path("p_0001.png"), wait=False))

    def claim(output: Path, wait: bool) -> Any:
        waits.append(wait)
        if wait:
            shutil.copy("there_0001.png", output)
            other_run.close()
        return claimed(output, wait)

    monkeypatch.setattr(jobs, "claimed", claim)
    assert generate("--prompts", "p.txt", "-o", "p.png") == 0
    out, err = capfd.readouterr()
    assert waits == [False, False, True]
    assert out == "p_0002.png (seed 7)\n"
    assert "line 1 was generated by another run" in err
    assert not list(here.glob(".sdcffi*"))


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>/dev/full", ">/dev/full"])
def test_the_image_is_saved_where_the_standard_streams_are_closed_or_full(closed: str, here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sdcffi.__file__).parent.parent)}
    line = f'"$0" -m sdcffi generate -v --params m.json -p "a cat" -o out.png {closed}'
    done = subprocess.run(["bash", "-c", line, sys.executable], env=environment, capture_output=True, text=True)
    assert pixels_of("out.png").shape == (32, 32, 3)
    assert done.returncode == (1 if closed == ">/dev/full" else 0), done.stderr
    assert "Traceback" not in done.stderr
    if closed == ">/dev/full":
        assert "No space left on device" in done.stderr


def test_json_of_an_error_that_cannot_be_printed_is_left_out(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sdcffi.__file__).parent.parent)}
    line = '"$0" -m sdcffi generate -m missing -p a --json >/dev/full'
    done = subprocess.run(["bash", "-c", line, sys.executable], env=environment, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert "'missing' does not exist" in done.stderr
