"""The model that is part of the package draws what it is told: judged from the pixels, by what knows no model.

Each scene is held out: its combination of shape, colour and ground was not among the training pictures. Prompts and
seeds are fixed, so on one kind of processor a test always has the same outcome; how often the model is right over many
of them stands in its card.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sdcli import Pixels
from train_demo.drawings import Ground, Scene, render, single
from train_demo.evaluate import held_out
from train_demo.measure import has_style, judge, keeps_colours

import sdcffi
from sdcffi import Engine, cli
from sdcffi.demo import LORAS, PROMPTS, SETTINGS, demo_model, run
from sdcffi.images.compare import compare

Capture = pytest.CaptureFixture[str]

README_PICTURE = Path(__file__).parent / "data" / "demo.png"


def on(ground: str, colour: str, shape: str, **words: str) -> Scene:
    return single(shape, colour, Ground("plain", (ground,)), **words)


SCENES = {
    "a green circle on a blue background": on("blue", "green", "circle"),
    "a blue square on a yellow background": on("yellow", "blue", "square"),
    "a yellow star on a blue background": on("blue", "yellow", "star"),
    "an orange ring on a brown background": on("brown", "orange", "ring"),
    "a white diamond on a purple background": on("purple", "white", "diamond"),
}
FIRST, FIRST_SCENE = next(iter(SCENES.items()))


@pytest.fixture(scope="module")
def drawing() -> Iterator[Engine]:
    with Engine(**demo_model(), backend="cpu", threads=2) as engine:
        yield engine


def draw(engine: Engine, prompt: str, **keywords: Any) -> Pixels:
    return engine.generate(prompt, **{**SETTINGS, "seed": 42, **keywords}).arrays[0].copy()


@pytest.fixture(scope="module")
def first(drawing: Engine) -> Pixels:
    """The first scene, drawn without anything else."""
    return draw(drawing, FIRST)


def test_the_scenes_were_not_trained_on() -> None:
    assert all(scene.held_out for scene in SCENES.values())


@pytest.mark.parametrize("prompt", SCENES)
def test_what_is_drawn_is_what_was_said(prompt: str, drawing: Engine) -> None:
    verdict = judge(draw(drawing, prompt), SCENES[prompt])
    assert verdict.right, verdict


@pytest.mark.slow
def test_without_arguments_it_is_as_often_right_as_with_those_it_was_measured_with(drawing: Engine) -> None:
    tasks = held_out(200, np.random.default_rng(11))
    right = {"open": 0, "said": 0}
    for task in tasks:
        for name, settings in {"open": {}, "said": SETTINGS}.items():
            pixels = drawing.generate(task.prompt, seed=task.seed, **settings).arrays[0]
            right[name] += judge(pixels, task.scene).right
    assert right["open"] >= right["said"] > 150


@pytest.mark.parametrize(
    ("style", "mode"),
    [
        *((style, "at_runtime") for style in LORAS),
        ("sticker", "immediately"),
        *(pytest.param(style, "immediately", marks=pytest.mark.slow) for style in ("outline", "night")),
    ],
)
def test_a_lora_changes_the_style_and_keeps_the_colours(style: str, mode: str, first: Pixels) -> None:
    assert not has_style(first, FIRST_SCENE, style)
    with Engine(**demo_model(), backend="cpu", threads=2, lora_apply_mode=mode) as engine:
        result = engine.generate(FIRST, **SETTINGS, seed=42, loras=[style])
    assert result.loras[0].applied == result.loras[0].total > 0
    assert has_style(result.arrays[0], FIRST_SCENE, style)
    assert keeps_colours(result.arrays[0], FIRST_SCENE, style)


def test_a_broken_text_encoder_shows(tmp_path: Path) -> None:
    tensors = load_file(demo_model()["llm"])
    tensors["model.norm.weight"] = np.zeros_like(tensors["model.norm.weight"])
    save_file(tensors, tmp_path / "llm.safetensors")
    with Engine(**{**demo_model(), "llm": tmp_path / "llm.safetensors"}, backend="cpu", threads=2) as engine:
        verdicts = [judge(draw(engine, prompt), scene) for prompt, scene in SCENES.items()]
    assert not any(verdict.right for verdict in verdicts)


def test_another_weight_type_draws_the_same(first: Pixels) -> None:
    with Engine(**demo_model(), type="f16", backend="cpu", threads=2) as engine:
        half = draw(engine, FIRST)
    assert judge(half, FIRST_SCENE).right
    assert compare(half, first).psnr > 30


def test_a_picture_is_changed_as_the_words_say(drawing: Engine) -> None:
    before = on("yellow", "red", "square")
    after = draw(drawing, "a blue square on a yellow background", init_image=render(before), strength=0.75)
    assert judge(after, on("yellow", "blue", "square")).right


def test_only_the_masked_part_is_drawn_anew(drawing: Engine) -> None:
    before = render(on("white", "red", "circle", column="left"))
    after = draw(
        drawing,
        "a red circle and a blue square on white",
        init_image=before,
        mask_image=(80, 32, 128, 96),
        strength=1.0,
    )
    assert compare(before[:, :64], after[:, :64]).psnr > 25
    assert compare(before[32:96, 80:], after[32:96, 80:]).psnr < 15


@pytest.mark.slow
def test_the_demo_draws_the_sheet_of_the_readme(tmp_path: Path, capfd: Capture) -> None:
    target = tmp_path / "sheet.png"
    assert cli.main(["demo", "--output", str(target), "--backend", "cpu"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert all(words in out for words in (str(target), "s each", "sdcffi.Engine(**sdcffi.demo_model())", PROMPTS[0]))
    assert compare(np.asarray(Image.open(target)), np.asarray(Image.open(README_PICTURE))).psnr > 30


def test_a_sheet_that_cannot_be_saved_is_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdcffi.demo.LORAS", ())
    Path("out").mkdir()

    def sheet(*arguments: Any, **keywords: Any) -> Image.Image:
        Path("out").rmdir()
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("sdcffi.demo.contact_sheet", sheet)
    assert cli.main(["demo", "-o", "out/demo.png", "-p", FIRST, "--backend", "cpu"]) == 1
    (saved,) = tmp_path.glob("sdcffi-*/demo.png")
    assert f"the result was saved as {saved}" in capfd.readouterr().err
    assert cli.main(["demo", "-o", "out/demo.png"]) == 2


@pytest.mark.slow
def test_the_report_s_lines_of_python_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(tmp_path, prompts=[FIRST], backend="cpu")
    assert report.sheet == tmp_path / "sdcffi-demo.png"
    assert len(report.seconds) == 1 + len(LORAS)
    lines = str(report).partition("from Python:\n")[2]
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(line[4:] for line in lines.splitlines()), "report", "exec"), {})
    assert judge(np.asarray(Image.open("image.png")), FIRST_SCENE).right


def test_no_prompt_and_no_picture_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        run(tmp_path, prompts=[])
    with pytest.raises(ValueError, match="does not have the ending of an image file"):
        run(tmp_path / "sheet.txt")


def test_a_missing_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcffi.demo._WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="install it again"):
        sdcffi.demo_model()


def test_an_image_of_the_demonstration_model_is_replayed_without_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Engine("catalogue:demo", backend="cpu", threads=2) as engine:
        engine.generate("a heart", seed=1, steps=1, loras=["catalogue:outline"]).save("heart.png")
    assert sdcffi.replay("heart.png").max_difference == 0
