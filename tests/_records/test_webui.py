"""The text that AUTOMATIC1111's web interface writes into images, read and generated again."""

from __future__ import annotations

import io
import re
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_model import TinyModel

from sdcffi import Engine, Guidance, Hires, ImageParams, Record, SampleParams, cli, read_arguments, replay
from sdcffi._records.webui import read_webui_text

WHOLE = """\
a photo of a cat, <lora:ink:0.8>
Steps: not the last line
Negative prompt: blurry, (bad:1.2)
second line
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 2789453, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE: vae-ft-mse.safetensors, Denoising strength: 0.45, \
Clip skip: 2, RNG: CPU, Hires upscale: 1.5, Hires steps: 10, Hires upscaler: Latent, \
Lora hashes: "ink: abcd, x: ef", ENSD: 31337, Version: v1.10.1, Civitai resources: [{"a": 1, "b": "c, d: e"}]"""


def test_all_of_a_text_is_read() -> None:
    text = read_webui_text(WHOLE, "a.png")
    assert text.params == ImageParams(
        prompt="a photo of a cat, <lora:ink:0.8>\nSteps: not the last line",
        negative_prompt="blurry, (bad:1.2)\nsecond line",
        seed=2789453,
        clip_skip=2,
        width=512,
        height=768,
        hires=Hires(upscaler="Latent", steps=10, denoising_strength=0.45, scale=1.5),
        sample_params=SampleParams(
            sample_method="DPM++ 2M", scheduler="Karras", sample_steps=25, guidance=Guidance(txt_cfg=6.5)
        ),
    )
    assert (text.rng, text.model, text.model_hash, text.vae, text.program) == (
        *("cpu", "v1-5-pruned-emaonly", "6ce0161689", "vae-ft-mse.safetensors", "v1.10.1"),
    )
    assert text.unused == {"ENSD": "31337"}


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("DPM++ 2M", "Automatic", "karras"),
        ("DPM++ 3M SDE", "Automatic", "exponential"),
        ("Euler a", "Automatic", "discrete"),
        ("Euler", "Beta", "Beta"),
        ("Euler", None, None),
    ],
)
def test_the_automatic_schedule_is_that_of_the_sampler(sampler: str, schedule: str | None, expected: str) -> None:
    line = f"Steps: 5, Sampler: {sampler}, CFG scale: 7" + (f", Schedule type: {schedule}" if schedule else "")
    sample = read_webui_text(f"a\n{line}", "a.png").params.sample_params
    assert sample is not None
    assert sample.scheduler == expected


def test_texts_of_relatives_are_read() -> None:
    forge = read_webui_text("a\nSteps: 4, Distilled CFG Scale: 3.5, Shift: 2, Seed: 1, Version: f2", "a.png").params
    assert forge.sample_params == SampleParams(
        sample_steps=4, flow_shift=2.0, guidance=Guidance(distilled_guidance=3.5)
    )
    sd_cli = read_webui_text(
        "a\nSteps: 20, CFG scale: 7.000000, Seed: 42, Size: 8x16, Sampler: euler karras\0", "a.png"
    )
    assert sd_cli.params.sample_params is not None
    assert (sd_cli.params.sample_params.sample_method, sd_cli.params.height) == ("euler karras", 16)
    image = read_webui_text("Steps: 4, Seed: 1, Denoising strength: 0.3", "a.png")
    assert (image.params.prompt, image.params.strength, image.params.hires) == ("", 0.3, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a cat", "a.png: the text has no line of parameters"),
        ("", "no line of parameters"),
        ("a\nSteps: many, Seed: 1, Size: 8x8", "a.png: Steps must be a number, not 'many'"),
        ("a\nSteps: 1, Seed: 1, Size: large", "a.png: Size must be WIDTHxHEIGHT, not 'large'"),
        ("a\nSteps: 1, Seed: 1, CFG scale: " + "9" * 5000 + "x", r"CFG scale must be a number, not '999.*\.\.\."),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_webui_text(text, "a.png")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("piece", ["a" * 1000, "a:", 'a:"', "a:[", ",", "a b c ", "Steps: 1, ", "\n"])
def test_a_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    begun = time.perf_counter()
    for text in (piece * (1_000_000 // len(piece)), "a\nSteps: 1, Seed: 1, X: " + piece * (1_000_000 // len(piece))):
        try:
            read_webui_text(text, "a.png")
        except ValueError:
            continue
    assert time.perf_counter() - begun < 5


# From images.

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 1.5, "seed": 7}
TEXT = "a cat\nNegative prompt: a dog\nSteps: 2, Sampler: Euler, CFG scale: 1.5, Seed: 7, Size: 64x64, Model: m"


def foreign(path: Path, image: Image.Image, text: str) -> Path:
    info = PngInfo()
    info.add_text("parameters", text)
    image.save(path, pnginfo=info)
    return path


@pytest.fixture(scope="module")
def files(tiny_model: TinyModel) -> dict[str, Any]:
    return {**tiny_model.engine_arguments(), "threads": 1, "backend": "cpu"}


@pytest.fixture(scope="module")
def drawn(shared: Engine) -> Image.Image:
    return shared.generate("a cat", negative_prompt="a dog", sampler="euler", **DRAW).images[0]


def test_an_image_of_another_program_is_generated_again(
    drawn: Image.Image, files: dict[str, Any], tmp_path: Path
) -> None:
    path = foreign(tmp_path / "a.png", drawn, f"{TEXT}, Variation seed: 3, Version: v1.10.1")
    again = replay(path, **files)
    assert again.max_difference == 0
    assert [(item.what, item.recorded) for item in again.differences] == [
        ("program", "v1.10.1"),
        ("Variation seed", "3"),
    ]
    assert again.recorded.params.prompt == "a cat"
    assert replay(path.read_bytes(), **files).max_difference == 0
    with path.open("rb") as file:
        assert replay(file, **files).max_difference == 0


def test_its_parameters_are_read_for_another_image(
    drawn: Image.Image, files: dict[str, Any], shared: Engine, tmp_path: Path
) -> None:
    path = foreign(tmp_path / "a.png", drawn, TEXT)
    arguments = read_arguments(path)
    assert shared.generate(**arguments.generate).arrays[0].tobytes() == drawn.tobytes()
    with pytest.warns(UserWarning, match="not used: Variation seed: the engine has nothing"):
        read_arguments(foreign(tmp_path / "b.png", drawn, f"{TEXT}, Variation seed: 3"))
    with pytest.raises(ValueError, match="parameters of an image, not of a video"):
        read_arguments(path, video=True)


def test_its_model_is_found_by_name_and_hash(drawn: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "models" / "below").mkdir(parents=True)
    path = foreign(tmp_path / "a.png", drawn, TEXT)
    with pytest.raises(ValueError, match=r"not found: m; looked in .*Name other directories with models="):
        replay(path, models=tmp_path / "models")
    (tmp_path / "models" / "below" / "m.safetensors").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"below/m\.safetensors"):  # it was found, and is refused
        replay(path, models=tmp_path / "models")
    with pytest.raises(ValueError, match="the image's text names no model: pass model="):
        replay(foreign(tmp_path / "b.png", drawn, TEXT.replace(", Model: m", "")))
    with pytest.raises(ValueError, match=r"from an input image.*use read_arguments\('.*c.png'\)"):
        replay(foreign(tmp_path / "c.png", drawn, f"{TEXT}, Denoising strength: 0.5"))


LARGE = f"{TEXT}, Hires upscale: 2, Denoising strength: 0.5, Hires upscaler"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("Denoising strength: 0.5", r"was generated from an input image, .*: pass init_image="),
        ("ENSD: 1, Mask blur: 4", "Mask blur: pass init_image=, mask_image= and mask_blur="),
        ('ControlNet 0: "Module: canny"', "ControlNet 0: pass control_net= to Engine, and control_image="),
        ("ENSD: 1, Eta noise: 2", "not used: ENSD, Eta noise: the engine has nothing of the kind"),
        (
            LARGE.removeprefix(TEXT + ", ") + ": R-ESRGAN 4x+",
            r"Hires upscaler: it is a network: .*Hires\(upscaler='Model'",
        ),
    ],
)
def test_what_a_text_does_not_have_is_asked_for(more: str, said: str, drawn: Image.Image, tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.png", drawn, f"{TEXT}, {more}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = read_arguments(path)
        assert read_arguments(path.read_bytes()) == arguments
        with path.open("rb") as file:
            assert read_arguments(file) == arguments
    assert [item for item in caught if re.search(said, str(item.message))], [str(item.message) for item in caught]


def test_the_plain_upscaler_is_lanczos_and_networks_are_asked_for(drawn: Image.Image, tmp_path: Path) -> None:
    plain = Hires(upscaler="Lanczos", scale=2, denoising_strength=0.5)
    assert read_webui_text(f"{LARGE}: None", "a.png").params.hires == plain
    with pytest.raises(ValueError, match=r"second pass with the network 'R-ESRGAN 4x\+'.* pass its file as Hires"):
        replay(foreign(tmp_path / "a.png", drawn, f"{LARGE}: R-ESRGAN 4x+"))


def test_the_command_takes_the_files_that_a_text_does_not_name(
    drawn: Image.Image, files: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from sdcli import flags

    path = foreign(tmp_path / "a.png", drawn, TEXT.replace(", Model: m", ""))
    assert cli.main(["replay", str(path)]) == 2
    assert "names no model: pass --model" in capfd.readouterr().err
    assert cli.main(["replay", str(path), *flags(**files)]) == 0


def test_the_commands_take_images(
    drawn: Image.Image, files: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from sdcli import flags

    path = foreign(tmp_path / "a.png", drawn, TEXT)
    words = ["generate", "--params", str(path), *flags(**files), "--output", str(tmp_path / "out.png")]
    assert cli.main(words) == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.tobytes() == drawn.tobytes()
    words[2] = str(tmp_path / "out.png")  # our own: its files are given, since they are not where it looks
    words[-1] = str(tmp_path / "again.png")
    assert cli.main(words) == 0
    with Image.open(tmp_path / "again.png") as image:
        assert image.tobytes() == drawn.tobytes()
    bare = tmp_path / "bare.png"
    drawn.save(bare)
    capfd.readouterr()
    assert cli.main(["generate", "--params", str(bare)]) == 2
    assert "has no sdcffi metadata" in capfd.readouterr().err


def test_an_image_that_needs_input_images_says_so(shared: Engine, drawn: Image.Image, tmp_path: Path) -> None:
    shared.generate("a cat", **DRAW, init_image=drawn, strength=0.5).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match=r"input images that it does not contain \(init_image\): give them besides"):
        arguments = read_arguments(tmp_path / "a.png")
    assert arguments.call_values["strength",] == 0.5
    assert not [path for path in arguments.context_values if path[-1].endswith("_path")], "files that are not here"


def test_records_are_read_from_bytes_and_open_files(shared: Engine) -> None:
    result = shared.generate("a cat", **DRAW)
    for name in ("png", "webp", "jpeg"):
        data = result.to_bytes(name)
        assert Record.from_file(data) == Record.from_file(io.BytesIO(data)) == result.record(0)
    with pytest.raises(ValueError, match="the image cannot be read as an image"):
        Record.from_file(b"none")
    with pytest.raises(TypeError, match=r"image must be .* an open file, not int"):
        Record.from_file(3)  # type: ignore[arg-type]
