"""What only models of Stable Diffusion XL's kind have: pictures are those of sd-cli, and show what was set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
import sdxl_model
from parity import PICTURES, assert_same, split, write_pictures
from sdcli import THREADS, Pixels, SdCli

from sdcffi import Engine, ImageParams, PhotoMaker, SampleParams

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"prompt": "a man img, smiling", "width": 64, "height": 64, "steps": 4, "seed": 42}
SMALL["cfg_scale"] = 1.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sdxl")
    return {
        "model": sd1_model.write(sdxl_model.vega().tensors, directory / "vega.safetensors", sdxl_model.LAST),
        "taesd": sd1_model.write_taesd(directory / "taesd.safetensors"),
        "photo_maker": sd1_model.write(sdxl_model.photo_maker(), directory / "photomaker.safetensors"),
    }


@pytest.fixture(scope="module")
def drawn(files: dict[str, Path]) -> dict[str, list[Pixels]]:
    """Every picture of one engine, in this order; it has given its memory back before sd-cli takes as much."""

    def person(name: str, strength: float) -> dict[str, Any]:
        return {"params": ImageParams(pm_params=PhotoMaker(id_images=[PICTURES[name]], style_strength=strength))}

    calls: dict[str, dict[str, Any]] = {
        "person": person("init", 50.0),
        "another": person("other", 50.0),
        "stronger": person("init", 20.0),
        "nobody": {},
        "person again": person("init", 50.0),
        "shifted": {"params": ImageParams(sample_params=SampleParams(shifted_timestep=250))},
        "clip_skip": {"clip_skip": 1},
    }
    with Engine(**files, threads=THREADS, backend="cpu", rng="cpu") as engine:  # type: ignore[arg-type]
        return {
            name: [array.copy() for array in engine.generate(**{**SMALL, **call}).arrays]
            for name, call in calls.items()
        }


@pytest.mark.parametrize("one", ["another", "stronger", "nobody"])
def test_person_and_strength_of_photomaker_act(one: str, drawn: dict[str, list[Pixels]]) -> None:
    assert not np.array_equal(drawn["person"][0], drawn[one][0])


@pytest.mark.parametrize("one", ["shifted", "clip_skip"])
def test_parameters_act(one: str, drawn: dict[str, list[Pixels]]) -> None:
    assert not np.array_equal(drawn["nobody"][0], drawn[one][0])


def test_a_call_draws_with_its_own_person_whatever_was_drawn_before(drawn: dict[str, list[Pixels]]) -> None:
    assert_same(drawn["person again"], drawn["person"])


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("person", "--pm-id-images-dir {directory} --pm-style-strength 50"),
        ("stronger", "--pm-id-images-dir {directory} --pm-style-strength 20"),
        ("shifted", "--timestep-shift 250"),
        ("clip_skip", "--clip-skip 1"),
    ],
)
def test_a_combination_draws_as_sd_cli(
    name: str, flags: str, drawn: dict[str, list[Pixels]], files: dict[str, Path], sd_cli: SdCli, tmp_path: Path
) -> None:
    directory = tmp_path / "person"
    directory.mkdir()
    write_pictures(tmp_path)["init"].rename(directory / "person.png")
    theirs = sd_cli.pictures({**files, "rng": "cpu", **SMALL}, tmp_path, *split(flags, directory=directory))
    assert_same(drawn[name], theirs)
