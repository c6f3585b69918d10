"""What only models of Stable Diffusion 1's kind have: images are those of sd-cli, and show what was set.

The models are zeros but for one path through the network: see `sd1_model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
from parity import IMAGES, SMALL, BySdCli, Case, assert_same, case, check_case, generate, rows
from sdcli import THREADS

from sdcffi import Cache, Engine, Guidance, ImageParams, SampleParams
from sdcffi.images.compare import compare

pytestmark = pytest.mark.slow

LONG = {"steps": 12}
START = {"init_image": IMAGES["init"], "steps": 6}
LONG_PROMPT = ", ".join(f"{number} lovely cats" for number in range(40))  # 160 tokens, where CLIP reads 75 at once

CASES = {
    "clip_skip": case(clip_skip=2),
    "clip_skip of 1": case(clip_skip=1, equal="it is the model's own"),
    "long prompt": case(prompt=LONG_PROMPT),
    "weights in the prompt": case(prompt="a (lovely:1.6) [cat]"),
    "scheduler ays": case(scheduler="ays"),
    "no eta": case(eta=0.0),  # the sampler of this family is euler_a, whose own is 1
    "prediction": case(engine={"prediction": "v"}),
    "inpaint": case("--init-img {init} --mask {half}", beside=START, mask_image=IMAGES["half"], paste_back=False),
    "ucache": case(
        "--cache-mode ucache --cache-option threshold=2,start=0.1,end=0.9,decay=0.5,relative=0,reset=0",
        beside=LONG,
        cache=Cache(
            mode="ucache",
            reuse_threshold=2.0,
            start_percent=0.1,
            end_percent=0.9,
            error_decay_rate=0.5,
            use_relative_threshold=False,
            reset_error_on_compute=False,
        ),
    ),
    "direct convolution": case(engine={"diffusion_conv_direct": True}, equal="on the CPU each convolution is direct"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small model."""
    directory = tmp_path_factory.mktemp("sd1")
    return {
        "model": sd1_model.write(sd1_model.small().tensors, directory / "small.safetensors"),
        "taesd": sd1_model.write_taesd(directory / "taesd.safetensors"),
    }


@pytest.fixture(scope="module")
def engine(files: dict[str, Any]) -> Iterator[Engine]:
    with Engine(**files, threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


@pytest.mark.parametrize("row", rows(CASES, ()))
def test_a_combination_is_generated_as_by_sd_cli(
    row: Case, engine: Engine, files: dict[str, Any], by_sd_cli: BySdCli
) -> None:
    check_case(row, engine, files, by_sd_cli)


@pytest.mark.parametrize("steps", [8, 12])
def test_ucache_stays_within_35_decibels_by_default(steps: int, engine: Engine) -> None:
    call = {**SMALL, "steps": steps, "cfg_scale": 4.0, "sampler": "euler"}
    cached = engine.generate(**call, cache=Cache(mode="ucache"))
    assert cached.cached_steps[0]
    assert compare(engine.generate(**call).arrays[0], cached.arrays[0]).psnr > 35


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_embedding_stands_for_its_word_as_in_sd_cli(
    dtype: str, engine: Engine, files: dict[str, Any], by_sd_cli: BySdCli, tmp_path: Path
) -> None:
    directory = tmp_path / "embeddings"
    directory.mkdir()
    word = sd1_model.write_embedding(directory / "zyxwv.safetensors", dtype)
    call = {"prompt": "a zyxwv cat"}
    (ours,) = generate(files, call, embeddings={"zyxwv": word})
    assert_same(ours, by_sd_cli({**files, **call, "embd_dir": directory}))
    assert not np.array_equal(ours[0], engine.generate(**SMALL | call).arrays[0]), "the word stands for nothing"


def test_embeddings_of_single_and_half_precision_act_alike(files: dict[str, Any], tmp_path: Path) -> None:
    rounded = sd1_model.write_embedding(tmp_path / "half.safetensors", "float16")
    single = sd1_model.write_embedding(tmp_path / "single.safetensors", "float16", stored="float32")
    call = {"prompt": "a zyxwv cat"}
    assert_same(*(generate(files, call, embeddings={"zyxwv": word})[0] for word in (rounded, single)))


def test_a_control_net_acts_as_in_sd_cli(files: dict[str, Any], by_sd_cli: BySdCli, tmp_path: Path) -> None:
    whole = sd1_model.write(sd1_model.whole().tensors, tmp_path / "sd1.safetensors")
    control = sd1_model.write(sd1_model.control_net(), tmp_path / "control.safetensors")
    given = {"model": whole, "taesd": files["taesd"], "control_net": control}
    hint = {"control_image": IMAGES["other"]}
    without, usual, strong = generate(given, {}, hint, hint | {"control_strength": 2.0})
    assert not np.array_equal(usual[0], without[0])
    assert not np.array_equal(strong[0], usual[0])
    assert_same(strong, by_sd_cli(given, "--control-image {other} --control-strength 2"))


def test_an_inpainting_model_sees_image_and_mask_as_in_sd_cli(
    files: dict[str, Any], by_sd_cli: BySdCli, tmp_path: Path
) -> None:
    whole = sd1_model.write(sd1_model.whole(channels=9).tensors, tmp_path / "inpaint.safetensors")
    given = {"model": whole, "taesd": files["taesd"]}
    masked_image = {"init_image": IMAGES["init"], "mask_image": IMAGES["half"], "paste_back": False}
    call = {**masked_image, "strength": 1.0, "cfg_scale": 3.0}
    guided = {"params": ImageParams(sample_params=SampleParams(guidance=Guidance(img_cfg=1.5)))}
    ours, plain, another = generate(given, call | guided, call, call | {"init_image": IMAGES["other"]})
    assert not np.array_equal(ours[0], plain[0]), "img_cfg has no effect"
    masked = slice(40, 64)  # there only what the network is told of the image can show
    assert not np.array_equal(plain[0][:, masked], another[0][:, masked])
    flags = "--init-img {init} --mask {half} --strength 1 --img-cfg-scale 1.5"
    assert_same(ours, by_sd_cli({**given, "cfg_scale": 3.0}, flags))


def test_an_inpainting_model_is_guided_by_the_text_alone_and_generates_where_the_mask_is(
    files: dict[str, Any], tmp_path: Path
) -> None:
    """With one text on both sides guidance has nothing to push away from, whatever its scale."""
    whole = sd1_model.write(sd1_model.whole(channels=9).tensors, tmp_path / "inpaint.safetensors")
    given = {"model": whole, "taesd": files["taesd"]}
    masked = {"init_image": IMAGES["init"], "mask_image": IMAGES["half"], "paste_back": False, "steps": 1}
    call = masked | {"strength": 1.0, "negative_prompt": SMALL["prompt"]}
    top, nothing = np.zeros((2, 64, 64, 1), np.uint8)
    top[:8] = 255
    latents: list[np.ndarray[Any, Any]] = []  # as previews, a pixel for a cell

    def draw(**changes: Any) -> np.ndarray[Any, Any]:
        return engine.generate(**{**SMALL, **call, **changes}).arrays[0]

    with Engine(
        **given, threads=THREADS, backend="cpu", rng="cpu", on_preview=lambda p: latents.append(p.frames[0])
    ) as engine:
        unguided = draw()
        assert compare(unguided, draw(cfg_scale=7.0)).psnr > 60
        assert compare(unguided, draw(cfg_scale=7.0, negative_prompt="a dog")).psnr < 40, "guidance has no effect"
        latents.clear()
        draw(mask_image=nothing)
        draw(mask_image=top)
    changed = np.any(latents[0] != latents[1], axis=(1, 2))
    assert changed.tolist() == [True] + [False] * 7


def test_instruct_pix2pix_follows_its_image_as_in_sd_cli(
    files: dict[str, Any], by_sd_cli: BySdCli, tmp_path: Path
) -> None:
    whole = sd1_model.write(sd1_model.whole(channels=8).tensors, tmp_path / "pix2pix.safetensors")
    given = {"model": whole, "taesd": files["taesd"]}
    guidance = SampleParams(guidance=Guidance(img_cfg=1.5))
    call = {"ref_images": [IMAGES["init"]], "cfg_scale": 3.0, "params": ImageParams(auto_resize_ref_image=True)}
    edited = call | {"params": ImageParams(auto_resize_ref_image=True, sample_params=guidance)}
    ours, plain, another = generate(given, edited, call, call | {"ref_images": [IMAGES["other"]]})
    assert not np.array_equal(ours[0], plain[0]), "img_cfg has no effect"
    assert not np.array_equal(plain[0], another[0])
    assert_same(ours, by_sd_cli({**given, "cfg_scale": 3.0}, "--ref-image {init} --img-cfg-scale 1.5"))
