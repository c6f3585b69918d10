"""`sdcffi grid`: a contact sheet over one or two parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops
from sdcli import THREADS, flags
from tiny_model import TinyModel

from sdcffi import Engine, SDError, cli
from sdcffi.cli._sheets import generate_sheet
from sdcffi.cli.grid import Axis, parse_axis
from sdcffi.images.contact_sheet import contact_sheet

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("steps=4, 8,12", Axis("steps", (4, 8, 12))),
        ("cfg-scale=1,2.5", Axis("cfg_scale", (1.0, 2.5))),
        ("--seed=1,2", Axis("seed", (1, 2))),
        ("sampler=Euler a,dpm++2m", Axis("sampler", ("Euler a", "dpm++2m"))),
        ("prompt=a cat, red|a dog", Axis("prompt", ("a cat, red", "a dog"))),
        ("lora=none,ink:0.5", Axis("loras", ("none", "ink:0.5"))),
        ("vae_tiling=on,off", Axis("vae_tiling", (True, False))),
    ],
)
def test_an_axis_has_values_of_its_parameters_type(text: str, axis: Axis) -> None:
    assert parse_axis(text, "--x") == axis


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps", "--x must have the form NAME=VALUE"),
        ("steps=", "steps must have values that are of type int, not ''"),
        ("steps=4,x", "steps must have values that are of type int, not 'x'"),
        ("steps=4,4", "steps must have different values"),
        ("vae_tiling=maybe", "values that are on or off"),
        ("cfg=1,2", "'cfg' is not a parameter of an image; use cfg_scale"),
        ("num_inference_steps=1,2", "use steps"),
        ("model=a,b", "'model' is not a parameter of an image; use one of"),
        ("batch_count=1,2", "not a parameter"),
        ("sigmas=1,0", "sigmas is a list"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_axis(text, "--x")


PLACES = [(1, "a"), (2, "a"), (1, "b"), (2, "b")]


def picture(place: Any) -> Image.Image:
    if place == (2, "b"):
        raise ValueError("too far")
    return Image.new("RGB", (20, 10), (place[0], 0, ord(place[1])))


def interrupted(place: Any) -> Image.Image:
    if place == (1, "b"):
        raise KeyboardInterrupt
    return picture(place)


def written(generate: Any, path: Path) -> Any:
    labels = ["a", "b"], ["1", "2"]
    return generate_sheet(generate, PLACES, [PLACES[:2], PLACES[2:]], labels, path, title="title")


@pytest.mark.parametrize(
    ("generate", "error", "done", "said"),
    [
        (picture, SDError, 3, "error: (2, 'b'): too far"),
        (interrupted, KeyboardInterrupt, 2, "interrupted after 2 of 4 images, which are in"),
    ],
)
def test_a_sheet_is_written_with_what_was_generated(
    generate: Any, error: type[BaseException], done: int, said: str, tmp_path: Path, capfd: Capture
) -> None:
    with pytest.raises(error):
        written(generate, tmp_path / "g.png")
    assert said in capfd.readouterr().err
    images = [picture(place) for place in PLACES[:done]] + [Image.new("RGB", (20, 10), (224, 224, 224))] * (4 - done)
    expected = contact_sheet([images[:2], images[2:]], ["a", "b"], ["1", "2"], "title")
    assert Image.open(tmp_path / "g.png").tobytes() == expected.tobytes()


def test_without_any_image_there_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(SDError, match="every image of the grid failed"):
        generate_sheet(picture, [(2, "b")], [[(2, "b")]], (["b"], ["2"]), tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_the_command_writes_the_engines_images(tiny_model: TinyModel, tmp_path: Path, capfd: Capture) -> None:
    arguments = {**tiny_model.engine_arguments(), "threads": THREADS, "backend": "cpu"}
    draw: dict[str, Any] = {"width": 64, "height": 64, "cfg_scale": 1.0}
    words = ["grid", *flags(**arguments, **draw), "--prompt", "a cat", "--output", str(tmp_path / "g.png")]
    loras = ["--lora-dir", str(tiny_model.lora.parent), "--y", f"lora=none,{tiny_model.lora.stem}:0.5"]
    assert cli.main([*words, "--x", "steps=1,2", *loras]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'g.png'}\n"
    with Engine(**arguments) as engine:
        rows = [
            [engine.generate("a cat", seed=1, steps=steps, loras=items, **draw).images[0] for steps in (1, 2)]
            for items in ([], [(tiny_model.lora, 0.5)])
        ]
    labels = ["loras none", f"loras {tiny_model.lora.stem}:0.5"]
    expected = contact_sheet(rows, labels, ["steps 1", "steps 2"], "a cat")
    assert not ImageChops.difference(Image.open(tmp_path / "g.png"), expected).getbbox()
    assert np.asarray(rows[0][0]).tobytes() != np.asarray(rows[0][1]).tobytes()


def test_a_failed_image_does_not_lose_the_others(tiny_model: TinyModel, tmp_path: Path, capfd: Capture) -> None:
    draw = {"width": 64, "height": 64, "steps": 1, "threads": 1}
    words = ["grid", *flags(**tiny_model.engine_arguments(), **draw), "-p", "a cat", "-o", str(tmp_path / "g.png")]
    assert cli.main([*words, "--x", "cfg_scale=1,1e9"]) == 1
    err = capfd.readouterr().err
    assert "1000000000.0: cfg_scale must be from -1000 to 1000" in err
    assert "1 of 2 images failed and are empty in" in err
    assert (tmp_path / "g.png").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--x", "sampler=eulr", "-p", "a"], "--x: sampler must be one of euler,"),
        (["--x", "steps=1,2", "--y", "steps=3", "-p", "a"], "--x and --y are both steps"),
        (["--x", "steps=1,2"], "there is no prompt"),
        (["--x", "steps=1,2", "-p", "a", "--seed", "-1"], "seed must be at least 0, not -1"),
        (["--x", "steps=1,2", "-p", "a", "--output", "g.txt"], "does not have the ending of an image file"),
        (["--x", f"steps={','.join(map(str, range(1, 402)))}", "-p", "a"], "at most 400 images, not 401"),
    ],
)
def test_the_command_refuses_before_the_first_image(
    words: list[str], said: str, tiny_model: TinyModel, capfd: Capture
) -> None:
    assert cli.main(["grid", *flags(**tiny_model.engine_arguments()), *words]) == 2
    assert said in capfd.readouterr().err
