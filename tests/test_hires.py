"""The second pass at a larger size draws as sd-cli's, by each way of enlarging, and is refused where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import THREADS, Pixels, SdCli, run
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import Engine, GenerationError, Hires, ImageParams
from sdcffi._checks.image import check_image
from sdcffi._models.files import Model

DRAW: dict[str, Any] = {"prompt": "a lovely cat", "steps": 2, "seed": 42, "cfg_scale": 1.0}
LATENT = ["", " (nearest)", " (nearest-exact)", " (antialiased)", " (bicubic)", " (bicubic antialiased)"]
UPSCALERS = [f"Latent{way}" for way in LATENT] + ["Lanczos", "Nearest", "Model"]
QUICK = {"Latent", "Lanczos"}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("networks") / "x4.safetensors", random_weights(4))


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(**tiny_model.engine_arguments(), threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


def by_sd_cli(sd_cli: SdCli, model: TinyModel, output: Path, size: int, hires: Hires) -> Pixels:
    """The same parameters as flags; a network is named by its directory and its file's name."""
    command = sd_cli.command(model, output, rng="cpu", width=size, height=size, **DRAW)
    flags = {name: value for name, value in hires.given().items() if name not in ("enabled", "upscaler", "model_path")}
    names = {"target_width": "width", "target_height": "height"}
    words = [word for name, value in flags.items() for word in (f"hires-{names.get(name, name)}", str(value))]
    command += [f"--{word.replace('_', '-')}" if word.startswith("hires") else word for word in words]
    upscaler = str(hires.upscaler)
    if hires.model_path is not None:
        path = Path(hires.model_path)
        command += ["--hires-upscalers-dir", str(path.parent)]
        upscaler = path.stem
    run([*command, "--hires", "--hires-upscaler", upscaler])
    return np.asarray(Image.open(output).convert("RGB"))


@pytest.mark.parametrize(
    ("upscaler", "size"),
    [
        *((upscaler, 32) for upscaler in UPSCALERS if upscaler in QUICK),
        *(pytest.param(upscaler, 64, marks=pytest.mark.slow) for upscaler in UPSCALERS),
    ],
)
def test_each_way_of_enlarging_draws_as_sd_cli(
    upscaler: str, size: int, engine: Engine, tiny_model: TinyModel, network: Path, sd_cli: SdCli, tmp_path: Path
) -> None:
    hires = Hires(upscaler=upscaler, model_path=network if upscaler == "Model" else None)
    ours = engine.generate(**DRAW, width=size, height=size, hires=hires).arrays[0]
    assert ours.shape == (2 * size, 2 * size, 3)
    assert ours.std() > 10
    assert np.array_equal(ours, by_sd_cli(sd_cli, tiny_model, tmp_path / "theirs.png", size, hires))


@pytest.mark.slow
@pytest.mark.parametrize(
    "hires",
    [
        Hires(upscaler="Nearest", target_width=48, target_height=64, steps=3, denoising_strength=0.4),
        Hires(upscaler="Latent", scale=1.5, denoising_strength=1.0),
    ],
    ids=["target", "scale"],
)
def test_its_numbers_act_as_in_sd_cli(
    hires: Hires, engine: Engine, tiny_model: TinyModel, sd_cli: SdCli, tmp_path: Path
) -> None:
    ours = engine.generate(**DRAW, width=32, height=32, hires=hires).arrays[0]
    assert ours.shape[:2] == ((64, 48) if hires.target_width else (48, 48))
    assert np.array_equal(ours, by_sd_cli(sd_cli, tiny_model, tmp_path / "theirs.png", 32, hires))


def test_tiles_of_its_network_act(engine: Engine, network: Path) -> None:
    lines: list[str] = []
    hires = Hires(upscaler="Model", model_path=network, upscale_tile_size=16)
    engine.generate(**DRAW, width=32, height=32, hires=hires, on_log=lambda line: lines.append(line.text))
    assert any("num tiles : 3, 3" in line for line in lines)


def test_the_way_named_none_draws_once(engine: Engine) -> None:
    once = engine.generate(**DRAW, width=32, height=32).arrays[0]
    assert np.array_equal(engine.generate(**DRAW, width=32, height=32, hires=Hires(upscaler="None")).arrays[0], once)


@pytest.mark.parametrize(
    ("hires", "said"),
    [
        (Hires(upscaler="Bicubic"), r"hires.upscaler must be one of None, Latent, Latent \(nearest\).*Model, not 'Bic"),
        (Hires(denoising_strength=0), "hires.denoising_strength must be above 0, not 0"),
        (Hires(scale=16), "hires.scale 16 gives 17600x512 pixels; use sides from 1 to 16384"),
        (Hires(scale=0.001), "hires.scale 0.001 gives 1x0 pixels"),
        (Hires(upscaler="Model"), "'Model' needs hires.model_path"),
    ],
)
def test_what_it_cannot_do_is_refused(hires: Hires, said: str, engine: Engine) -> None:
    with pytest.raises(ValueError, match=said):
        engine.generate(**DRAW, width=1100, height=32, hires=hires)


def test_a_file_that_is_no_network_is_refused(engine: Engine, tiny_model: TinyModel) -> None:
    hires = Hires(upscaler="Model", model_path=tiny_model.taesd)
    with pytest.raises(ValueError, match=r"hires.model: .*taef2.safetensors is no upscaling network"):
        engine.generate(**DRAW, hires=hires)


def test_a_schedule_of_one_step_that_is_no_number_is_an_error(engine: Engine) -> None:
    """It is the second pass that has one step, and refuses before it divides by zero."""
    hires = Hires(steps=1, denoising_strength=1.0)
    with pytest.raises(GenerationError, match="not finite"):
        engine.generate(**DRAW, width=32, height=32, scheduler="karras", hires=hires)


@pytest.mark.parametrize("upscaler", ["Lanczos", "Nearest", "Model"])
def test_pixels_are_not_enlarged_without_an_encoder(upscaler: str, network: Path) -> None:
    hires = Hires(upscaler=upscaler, model_path=network)
    with pytest.raises(ValueError, match=f"hires.upscaler '{upscaler}' needs an autoencoder with an encoder"):
        check_image(ImageParams(hires=hires), Model(encodes=False))
    check_image(ImageParams(hires=Hires(upscaler="Latent")), Model(encodes=False))
