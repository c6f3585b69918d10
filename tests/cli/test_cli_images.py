"""The command line with pictures: given ones, previews, enlarging, drawing again, videos, and bars on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import THREADS
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network
from wan_model import write_autoencoder, write_wan

import sdcffi
from sdcffi import Record, cli

Capture = pytest.CaptureFixture[str]
Run = Callable[..., int]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of the test, with a picture, a transparent one, a network of factor 2 and prompts."""
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((48, 96, 4), np.uint8)
    pixels[:, :48] = 255
    Image.fromarray(pixels).save("clear.png")
    Image.fromarray(pixels).convert("RGB").save("init.png")
    write_network(tmp_path / "x2.safetensors", random_weights(2))
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    return tmp_path


@pytest.fixture
def arguments(models: dict[str, TinyModel], here: Path) -> list[str]:
    """What every drawing needs, in a file of parameters."""
    table: dict[str, Any] = {"prompt": "a cat", "threads": THREADS, "backend": "cpu", "cfg_scale": 1.0, "seed": 7}
    table |= {"width": 64, "height": 64, "steps": 2}
    table |= {name: str(path) for name, path in models["q8_0"].engine_arguments().items()}
    (here / "m.json").write_text(json.dumps(table))
    return ["--params", "m.json"]


@pytest.fixture
def generate(arguments: list[str]) -> Run:
    return lambda *more: cli.main(["generate", *arguments, "-o", "out.png", *more])


def pixels_of(path: str | Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def size_of(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_box_is_drawn_anew_in_a_picture_brought_to_size_and_replay_asks_for_it(
    generate: Run, models: dict[str, TinyModel], here: Path, capfd: Capture
) -> None:
    given = ["--init-image", "init.png", "--resize", "crop", "--strength", "0.9"]
    assert generate(*given, "--mask", "30,10,60,40", "--save-params", "saved.json") == 0
    first = pixels_of("out.png")
    assert cli.main(["generate", "--params", "saved.json", "-o", "again.png"]) == 0
    assert np.array_equal(first, pixels_of("again.png"))
    assert cli.main(["generate", "--params", "saved.json", "-o", "other.png", "--mask", "60,10,90,40"]) == 0
    assert not np.array_equal(first, pixels_of("other.png"))
    capfd.readouterr()
    folder = str(models["q8_0"].diffusion_model.parent)
    assert cli.main(["replay", "out.png", "--models", folder]) == 2
    assert "give init_image (64x64" in capfd.readouterr().err


def test_what_is_not_given_suits_the_model_or_is_the_engine_s(generate: Run, here: Path) -> None:
    table = json.loads((here / "m.json").read_text())
    (here / "m.json").write_text(json.dumps({name: value for name, value in table.items() if name != "cfg_scale"}))
    assert generate("--steps", "1") == 0
    assert (Record.from_file("out.png").defaults or {}).keys() == {"cfg_scale"}
    assert generate("--steps", "1", "--defaults", "engine") == 0
    assert Record.from_file("out.png").defaults is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-i", "init.png"], "pass --resize 'fit', 'crop', 'pad' or 'stretch'"),
        (
            ["-i", "clear.png", "--resize", "crop"],
            "pass --alpha 'white' (or another background colour), or --alpha 'ig",
        ),
        (["-i", "init.png", "--resize", "pad", "--mask", "9,9,3,20"], "must be a box inside the image"),
        (["--mask", "1,1,9,9"], "mask_image needs init_image"),
        (["-i", "m.json"], "init_image cannot be read as an image: Pillow does not know its format"),
        (["--resize", "sideways"], "invalid choice: 'sideways'"),
        (["--preview", "all"], "invalid choice: 'all'"),
        (["--preview", "proj", "--preview-path", "p.xyz"], "p.xyz does not have the ending of an image file"),
        (["--upscale-model", "nowhere.pth"], "upscale_model: 'nowhere.pth' does not exist"),
        (["--upscale-model", "init.png"], "init.png cannot be read"),
        (["--upscale-repeats", "0"], "upscale_repeats must be from 1 to 3, not 0"),
        (["--save-params", "nowhere/p.json"], "directory nowhere does not exist"),
        (["--prompts", "p.txt", "--save-params", "p.json"], "--save-params cannot be used with --prompts"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "_".join(value),
)
def test_what_cannot_be_done_is_one_line_in_words_of_flags(
    more: list[str], said: str, generate: Run, here: Path, capfd: Capture
) -> None:
    assert generate(*more) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (here / "out.png").exists()


def test_previews_and_enlarged_pictures_are_written(generate: Run, here: Path, capfd: Capture) -> None:
    more = ["--preview", "proj", "--preview-path", "so_far.png", "--upscale-model", "x2.safetensors", "-b", "2"]
    assert generate(*more, "--no-metadata", "-W", "32", "-H", "16", "--steps", "1") == 0
    assert capfd.readouterr() == ("out_0.png (seed 7)\nout_1.png (seed 8)\n", "")
    assert size_of("out_0.png") == size_of("out_1.png") == (64, 32)
    with Image.open("out_0.png") as image:
        assert not image.info
    assert size_of("so_far.png") == (4, 2)


def test_the_pictures_of_a_batch_are_enlarged(generate: Run, here: Path, capfd: Capture) -> None:
    assert (
        generate("--prompts", "p.txt", "--steps", "1", "-W", "32", "-H", "16", "--upscale-model", "x2.safetensors") == 0
    )
    assert capfd.readouterr() == ("out_0001.png (seed 7)\nout_0002.png (seed 7)\n", "")
    assert size_of("out_0002.png") == (64, 32)


def test_replay_tells_by_its_status_whether_the_pixels_are_the_same(
    generate: Run, models: dict[str, TinyModel], here: Path, capfd: Capture
) -> None:
    model = models["q8_0"]
    assert generate("--cache-mode", "easycache", "--vae-tiling") == 0
    capfd.readouterr()
    folder = str(model.diffusion_model.parent)
    assert cli.main(["replay", "out.png", "--models", folder, "-o", "again.png"]) == 0
    assert capfd.readouterr() == ("the image is the same, bit for bit\nagain.png\n", "")
    assert np.array_equal(pixels_of("out.png"), pixels_of("again.png"))
    (here / model.diffusion_model.name).write_bytes(models["q4_0"].diffusion_model.read_bytes())
    for path in (model.llm, model.taesd):
        (here / path.name).write_bytes(path.read_bytes())
    assert cli.main(["replay", "out.png", "-t", str(THREADS + 1), "--json"]) == 1
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert err == ""
    assert told["max_difference"] > 0
    assert [item["what"].split()[0] for item in told["differences"]] == ["threads", "diffusion_model_path"]


def test_replay_names_what_it_lacks(generate: Run, here: Path, capfd: Capture) -> None:
    assert generate("--steps", "1") == 0
    assert cli.main(["replay", "out.png"]) == 2
    err = capfd.readouterr().err
    assert "not found: " in err
    assert err.endswith("Name other directories with --models\n")
    assert cli.main(["replay", "out.png", "-o", ""]) == 2
    assert "is a directory: name a file in it" in capfd.readouterr().err
    assert cli.main(["replay", "init.png"]) == 2
    assert "init.png has no sdcffi metadata" in capfd.readouterr().err


@pytest.mark.parametrize(("factor", "size"), [([], (192, 96)), (["--factor", "1.5"], (144, 72))])
def test_upscale_enlarges_by_the_networks_factor_or_another(
    factor: list[str], size: tuple[int, int], here: Path, capfd: Capture
) -> None:
    command = ["upscale", "init.png", "-m", "x2.safetensors", "-o", "large.png", "-t", str(THREADS), *factor]
    assert cli.main([*command, "--backend", "cpu"]) == 0
    assert capfd.readouterr() == (f"large.png ({size[0]}x{size[1]})\n", "")
    assert size_of("large.png") == size


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["upscale", "clear.png", "-m", "x2.safetensors"], "input has transparent pixels"),
        (["upscale", "nowhere.png", "-m", "x2.safetensors"], "nowhere.png does not exist"),
        (["upscale", "init.png", "-m", "x2.safetensors", "--factor", "0.5"], "factor must be at least 1, not 0.5"),
        (["video", "--params", "m.json"], "FLUX.2 generates images only: use sdcffi generate"),
        (["video", "--params", "m.json", "--fps", "0"], "fps must be above 0, not 0"),
        (["video", "--diffusion-model", "x"], "there is no prompt: give --prompt"),
        (["convert", "x2.safetensors", "nowhere/x.gguf", "--type", "q8_0"], "directory nowhere does not exist"),
        (["models", "inspect", "init.png"], "init.png cannot be read"),
        (["lora", "grid", "--lora", "a.gguf", "--seeds", "1,-1"], "seeds must be at least 0, not -1"),
        (["lora", "grid", "--lora", "a.gguf", "--scales", "much"], "scales must be different floats"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "_".join(value),
)
def test_a_command_that_cannot_work_says_why_in_one_line(
    command: list[str], said: str, arguments: list[str], capfd: Capture
) -> None:
    assert cli.main(command) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_messages_of_several_lines_become_one(here: Path, capfd: Capture) -> None:
    assert cli.main(["info", "--library", "nowhere"]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "nowhere does not exist; " in err


def on_a_terminal(arguments: list[str]) -> tuple[int, str]:
    """Run the program with a terminal of 100 columns; give its status and what the terminal got."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(Path(sdcffi.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-m", "sdcffi", *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        got = b""
        try:
            while part := os.read(ours, 65536):
                got += part
        except OSError:  # Linux says so when the other end is closed
            pass
    os.close(ours)
    return process.returncode, got.decode()


def left_on(text: str) -> list[str]:
    """Lines that stay on the terminal: what a carriage return goes back over is overwritten."""
    lines = (line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n"))
    return [line for line in lines if line]


def test_a_terminal_shows_phases_and_keeps_the_result_only(arguments: list[str], here: Path) -> None:
    status, text = on_a_terminal(["generate", *arguments, "-b", "2", "-o", "out.png"])
    assert status == 0, text
    for phase in ("load:", "encode ...", "sample, image 1 of 2:", "sample, image 2 of 2:", "decode, image 2 of 2 ..."):
        assert phase in text
    assert left_on(text) == ["out_0.png (seed 7)", "out_1.png (seed 8)"]


def test_a_terminal_shows_one_bar_over_a_batch(arguments: list[str], here: Path) -> None:
    status, text = on_a_terminal(["generate", *arguments, "--prompts", "p.txt", "-o", "out.png"])
    assert status == 0, text
    assert "1/2 [" in text
    assert "sample 0/2" in text
    assert left_on(text) == ["out_0001.png (seed 7)", "out_0002.png (seed 7)"]


@pytest.mark.slow
def test_video_writes_frames_or_one_file(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr("sdcffi._models.files._missing", lambda *_: [])  # the text encoder would be of 5.7e9 weights
    model = {"taesd": write_autoencoder(here / "taehv.gguf"), "diffusion-model": write_wan(here / "t2v.gguf")}
    flags = [word for slot, path in model.items() for word in (f"--{slot}", str(path))]
    flags += ["-W", "32", "-H", "64", "--video-frames", "5", "--steps", "1", "--cfg-scale", "1", "-s", "7"]
    command = ["video", "-p", "a cat", *flags, "-t", str(THREADS), "--backend", "cpu", "-o"]
    assert cli.main([*command, "cat.webp", "--lossless"]) == 0
    assert capfd.readouterr().out == "cat.webp (seed 7)\n"
    with Image.open("cat.webp") as film:
        assert (film.size, film.n_frames) == ((32, 64), 5)  # type: ignore[attr-defined]
    assert cli.main([*command, "cat_{index}.png", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (len(told["paths"]), told["frames"], told["seed"]) == (5, 5, 7)
    assert np.array_equal(pixels_of(told["paths"][0]), pixels_of("cat.webp"))
