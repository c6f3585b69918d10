"""The second pass at a larger size: by a network as sd-cli's, and refused where it cannot.

That all other ways of enlarging, and its numbers, act as in sd-cli is in test_parity.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_defaults import IMAGE
from parity import BySdCli, assert_same
from sdcli import THREADS
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import Engine, Hires, ImageParams, Progress
from sdcffi._checks.image import check_image
from sdcffi._models.files import Model

DRAW: dict[str, Any] = {"prompt": "a lovely cat", "steps": 2, "seed": 42, "cfg_scale": 1.0}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("networks") / "x4.safetensors", random_weights(4))


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(**tiny_model.engine_arguments(), threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


def test_a_network_enlarges_as_in_sd_cli(
    engine: Engine, tiny_model: TinyModel, network: Path, by_sd_cli: BySdCli
) -> None:
    size = {"width": 32, "height": 32}
    ours = engine.generate(**DRAW, **size, hires=Hires(upscaler="Model", model_path=network)).arrays
    assert ours[0].shape == (64, 64, 3)
    files = {**tiny_model.engine_arguments(), "hires_upscalers_dir": network.parent, "hires_upscaler": network.stem}
    assert_same(ours, by_sd_cli({**files, **DRAW, **size}, "--hires"))


def test_tiles_of_its_network_act(engine: Engine, network: Path) -> None:
    lines: list[str] = []
    hires = Hires(upscaler="Model", model_path=network, upscale_tile_size=16)
    engine.generate(**DRAW, width=32, height=32, hires=hires, on_log=lambda line: lines.append(line.text))
    assert any("num tiles : 3, 3" in line for line in lines)


@pytest.mark.parametrize(
    ("steps", "strength"), [(4, 0.5), (2, 0.25), (3, 0.3), (3, 0.7), (5, 1.0), (1, 0.5), (None, 0.5)]
)
def test_the_second_pass_has_as_many_steps_as_asked(engine: Engine, steps: int | None, strength: float) -> None:
    seen: list[Progress] = []
    hires = Hires(scale=1.5, steps=steps, denoising_strength=strength)
    engine.generate(**DRAW, width=32, height=32, hires=hires, on_progress=seen.append)
    last = [item for item in seen if item.phase == "sample"][-1]
    assert last.step == last.steps == (steps or DRAW["steps"])


@pytest.mark.parametrize(
    ("hires", "said"),
    [
        (Hires(upscaler="Bicubic"), r"hires.upscaler must be one of None, Latent, Latent \(nearest\).*Model, not 'Bic"),
        (Hires(denoising_strength=0), "hires.denoising_strength must be above 0, not 0"),
        (Hires(scale=16), "hires.scale 16 gives 17600x512 pixels; use sides from 1 to 16384"),
        (Hires(scale=0.001), "hires.scale 0.001 gives 1x0 pixels"),
    ],
)
def test_what_it_cannot_do_is_refused(hires: Hires, said: str, engine: Engine) -> None:
    with pytest.raises(ValueError, match=said):
        engine.generate(**DRAW, width=1100, height=32, hires=hires)


def test_a_file_that_is_no_network_is_refused(engine: Engine, tiny_model: TinyModel) -> None:
    hires = Hires(upscaler="Model", model_path=tiny_model.taesd)
    with pytest.raises(ValueError, match=r"hires.model: .*taef2.safetensors is not an upscaling network"):
        engine.generate(**DRAW, hires=hires)


def test_a_schedule_of_one_step_is_divided_by_no_zero(engine: Engine) -> None:
    """It is the second pass that has one step."""
    hires = Hires(steps=1, denoising_strength=1.0)
    image = engine.generate(**DRAW, width=32, height=32, scheduler="karras", hires=hires).arrays[0]
    assert image.std() > 1


@pytest.mark.parametrize("upscaler", ["Lanczos", "Nearest", "Model"])
def test_pixels_are_not_enlarged_without_an_encoder(upscaler: str, network: Path) -> None:
    hires = Hires(upscaler=upscaler, model_path=network)
    with pytest.raises(ValueError, match=f"hires.upscaler '{upscaler}' needs an autoencoder with an encoder"):
        check_image(ImageParams(hires=hires), Model(encodes=False), IMAGE)
    check_image(ImageParams(hires=Hires(upscaler="Latent")), Model(encodes=False), IMAGE)
