"""What only models of Stable Diffusion XL's kind have: images are those of sd-cli, and show what was set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
import sdxl_model
from parity import IMAGES, BySdCli, assert_same, generate
from safetensors.numpy import load_file, save_file
from sdcli import THREADS, Pixels

from sdcffi import Engine, ImageParams, PhotoMaker, SampleParams
from sdcffi.images.compare import compare

pytestmark = pytest.mark.slow

PROMPT = "a man img, smiling"


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
    """Every image of one engine, in this order."""

    def person(name: str, strength: float) -> dict[str, Any]:
        return {"params": ImageParams(pm_params=PhotoMaker(id_images=[IMAGES[name]], style_strength=strength))}

    calls: dict[str, dict[str, Any]] = {
        "person": person("init", 50.0),
        "another": person("other", 50.0),
        "stronger": person("init", 20.0),
        "nobody": {},
        "person again": person("init", 50.0),
        "shifted": {"params": ImageParams(sample_params=SampleParams(shifted_timestep=250))},
        "clip_skip": {"clip_skip": 1},
    }
    images = generate(files, *({"prompt": PROMPT, **call} for call in calls.values()))
    return dict(zip(calls, images, strict=True))


@pytest.mark.parametrize("one", ["another", "stronger", "nobody"])
def test_person_and_strength_of_photomaker_act(one: str, drawn: dict[str, list[Pixels]]) -> None:
    assert not np.array_equal(drawn["person"][0], drawn[one][0])


@pytest.mark.parametrize("one", ["shifted", "clip_skip"])
def test_parameters_act(one: str, drawn: dict[str, list[Pixels]]) -> None:
    assert not np.array_equal(drawn["nobody"][0], drawn[one][0])


def test_a_call_draws_with_its_own_person_whatever_was_drawn_before(drawn: dict[str, list[Pixels]]) -> None:
    assert_same(drawn["person again"], drawn["person"])


@pytest.mark.parametrize("mode", ["immediately", "at_runtime"])
def test_the_adapter_in_photomakers_file_is_applied_and_not_reported(
    mode: str, files: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    adapter = {
        "lora_unet_out_2.lora_down.weight": rng.standard_normal((4, 320, 3, 3)).astype(np.float32) / 8,
        "lora_unet_out_2.lora_up.weight": rng.standard_normal((4, 4, 1, 1)).astype(np.float32) / 8,
    }
    save_file(adapter, tmp_path / "adapter.safetensors")
    save_file({**load_file(files["photo_maker"]), **adapter}, tmp_path / "photomaker.safetensors")
    person = ImageParams(pm_params=PhotoMaker(id_images=[IMAGES["init"]], style_strength=50.0))
    call: dict[str, Any] = {
        "prompt": PROMPT,
        "params": person,
        "seed": 42,
        "width": 64,
        "height": 64,
        "steps": 2,
        "cfg_scale": 1.0,
    }

    def image(photo_maker: Path, loras: list[Path]) -> Pixels:
        opened: dict[str, Any] = {**files, "photo_maker": photo_maker, "lora_apply_mode": mode}
        with Engine(**opened, threads=THREADS, backend="cpu") as engine:
            result = engine.generate(**{**call, "loras": loras})
        assert [report.path for report in result.loras] == [str(lora) for lora in loras]
        return result.arrays[0].copy()

    own = image(tmp_path / "photomaker.safetensors", [])
    assert compare(own, image(files["photo_maker"], [tmp_path / "adapter.safetensors"])).psnr > 50
    assert compare(own, image(files["photo_maker"], [])).psnr < 30


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("person", "--pm-id-images-dir {directory} --pm-style-strength 50"),
        ("stronger", "--pm-id-images-dir {directory} --pm-style-strength 20"),
        ("shifted", "--timestep-shift 250"),
        ("clip_skip", "--clip-skip 1"),
    ],
)
def test_a_combination_is_generated_as_by_sd_cli(
    name: str,
    flags: str,
    drawn: dict[str, list[Pixels]],
    files: dict[str, Path],
    images: dict[str, Path],
    by_sd_cli: BySdCli,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "person"
    directory.mkdir()
    shutil.copy(images["init"], directory)
    assert_same(drawn[name], by_sd_cli({**files, "prompt": PROMPT}, flags, directory=directory))
