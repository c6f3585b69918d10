"""What only models of Stable Diffusion 1's kind have: pictures are those of sd-cli, and show what was set.

The models are zeros but for one path through the network: see `sd1_model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
from parity import PICTURES, Case, assert_acts, assert_same, case, rows, split, write_pictures
from sdcli import THREADS, Pixels, SdCli

from sdcffi import Cache, ContextParams, Engine, Guidance, ImageParams, SampleParams

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"prompt": "a lovely cat", "width": 64, "height": 64, "steps": 4, "seed": 42, "cfg_scale": 1.0}
LONG = {"steps": 12}
START = {"init_image": PICTURES["init"], "steps": 6}
LONG_PROMPT = ", ".join(f"{number} lovely cats" for number in range(40))  # 160 tokens, where CLIP reads 75 at once

CASES = {
    "clip_skip": case(clip_skip=2),
    "clip_skip of 1": case(clip_skip=1, equal="it is the model's own"),
    "long prompt": case(prompt=LONG_PROMPT),
    "weights in the prompt": case(prompt="a (lovely:1.6) [cat]"),
    "negative prompt": case(beside={"cfg_scale": 3.0}, negative_prompt="a dog"),
    "scheduler ays": case(scheduler="ays"),
    "sampler": case(sampler="dpm++2m"),
    "no eta": case(eta=0.0),  # the sampler of this family is euler_a, whose own is 1
    "prediction": case(engine={"prediction": "v"}),
    "image to image": case("--init-img {init}", beside={"steps": 6}, init_image=PICTURES["init"]),
    "inpaint": case("--init-img {init} --mask {half}", beside=START, mask_image=PICTURES["half"]),
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
    "spectrum": case(
        "--cache-mode spectrum --cache-option w=0.7,warmup=2",
        beside=LONG,
        cache=Cache(mode="spectrum", spectrum_w=0.7, spectrum_warmup_steps=2),
    ),
    "flash attention": case(engine={"fa": True}),
    "direct convolution": case(
        "--diffusion-conv-direct",
        engine={"context": ContextParams(diffusion_conv_direct=True)},
        equal="on the CPU each convolution is direct",
    ),
    "circular": case("--circular", engine={"context": ContextParams(circular_x=True, circular_y=True)}),
    "type": case(engine={"type": "q8_0"}),
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def draw(files: dict[str, Any], engine: dict[str, Any], *calls: dict[str, Any]) -> list[list[Pixels]]:
    """Make calls on an engine of their own, which gives its memory back before sd-cli takes as much."""
    with Engine(**files, threads=THREADS, backend="cpu", rng="cpu", **engine) as opened:
        return [[array.copy() for array in opened.generate(**{**SMALL, **call}).arrays] for call in calls]


@pytest.mark.parametrize("row", rows(CASES, ()))
def test_a_combination_draws_as_sd_cli(
    row: Case, engine: Engine, files: dict[str, Any], pictures: dict[str, Path], sd_cli: SdCli, tmp_path: Path
) -> None:
    keywords = {**SMALL, **row.beside, **row.generate}
    ours = draw(files, dict(row.engine), keywords)[0] if row.engine else engine.generate(**keywords).arrays
    given = {**files, "rng": "cpu", **SMALL, **row.parameters()}
    assert_same(ours, sd_cli.pictures(given, tmp_path, *split(row.flags, **pictures)))
    assert_acts(row, ours, engine.generate(**{**SMALL, **row.beside}).arrays)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_embedding_stands_for_its_word_as_in_sd_cli(
    dtype: str, engine: Engine, files: dict[str, Any], sd_cli: SdCli, tmp_path: Path
) -> None:
    directory = tmp_path / "embeddings"
    directory.mkdir()
    word = sd1_model.write_embedding(directory / "zyxwv.safetensors", dtype)
    given = {**SMALL, "prompt": "a zyxwv cat"}
    ours = draw(files, {"embeddings": {"zyxwv": word}}, given)[0]
    assert_same(ours, sd_cli.pictures({**files, "rng": "cpu", **given, "embd_dir": directory}, tmp_path))
    assert not np.array_equal(ours[0], engine.generate(**given).arrays[0]), "the word stands for nothing"


def test_embeddings_of_single_and_half_precision_draw_alike(files: dict[str, Any], tmp_path: Path) -> None:
    rounded = sd1_model.write_embedding(tmp_path / "half.safetensors", "float16")
    single = sd1_model.write_embedding(tmp_path / "single.safetensors", "float16", stored="float32")
    pictures = [
        draw(files, {"embeddings": {"zyxwv": word}}, {"prompt": "a zyxwv cat"})[0] for word in (rounded, single)
    ]
    assert_same(*pictures)


def test_a_control_net_acts_as_in_sd_cli(
    files: dict[str, Any], pictures: dict[str, Path], sd_cli: SdCli, tmp_path: Path
) -> None:
    whole = sd1_model.write(sd1_model.whole().tensors, tmp_path / "sd1.safetensors")
    control = sd1_model.write(sd1_model.control_net(), tmp_path / "control.safetensors")
    given = {"model": whole, "taesd": files["taesd"], "control_net": control}
    hint = {"control_image": PICTURES["other"]}
    without, usual, strong = draw(given, {}, {}, hint, hint | {"control_strength": 2.0})
    assert not np.array_equal(usual[0], without[0])
    assert not np.array_equal(strong[0], usual[0])
    flags = split("--control-image {other} --control-strength 2", **pictures)
    assert_same(strong, sd_cli.pictures({**given, "rng": "cpu", **SMALL}, tmp_path, *flags))


def test_an_inpainting_model_sees_picture_and_mask_as_in_sd_cli(
    files: dict[str, Any], pictures: dict[str, Path], sd_cli: SdCli, tmp_path: Path
) -> None:
    whole = sd1_model.write(sd1_model.whole(channels=9).tensors, tmp_path / "inpaint.safetensors")
    given = {"model": whole, "taesd": files["taesd"]}
    call = {"init_image": PICTURES["init"], "mask_image": PICTURES["half"], "strength": 1.0, "cfg_scale": 3.0}
    image = {"params": ImageParams(sample_params=SampleParams(guidance=Guidance(img_cfg=1.5)))}
    other = call | {"init_image": PICTURES["other"]}
    ours, plain, another = draw(given, {}, call | image, call, other)
    assert not np.array_equal(ours[0], plain[0]), "img_cfg has no effect"
    drawn_anew = slice(40, 64)  # there only what the network is told of the picture can show
    assert not np.array_equal(plain[0][:, drawn_anew], another[0][:, drawn_anew])
    flags = split("--init-img {init} --mask {half} --strength 1 --img-cfg-scale 1.5", **pictures)
    assert_same(ours, sd_cli.pictures({**given, "rng": "cpu", **SMALL, "cfg_scale": 3.0}, tmp_path, *flags))


def test_instruct_pix2pix_follows_its_picture_as_in_sd_cli(
    files: dict[str, Any], pictures: dict[str, Path], sd_cli: SdCli, tmp_path: Path
) -> None:
    whole = sd1_model.write(sd1_model.whole(channels=8).tensors, tmp_path / "pix2pix.safetensors")
    given = {"model": whole, "taesd": files["taesd"]}
    guidance = SampleParams(guidance=Guidance(img_cfg=1.5))
    call = {"ref_images": [PICTURES["init"]], "cfg_scale": 3.0, "params": ImageParams(auto_resize_ref_image=True)}
    edited = call | {"params": ImageParams(auto_resize_ref_image=True, sample_params=guidance)}
    ours, plain, another = draw(given, {}, edited, call, call | {"ref_images": [PICTURES["other"]]})
    assert not np.array_equal(ours[0], plain[0]), "img_cfg has no effect"
    assert not np.array_equal(plain[0], another[0])
    flags = split("--ref-image {init} --img-cfg-scale 1.5", **pictures)
    assert_same(ours, sd_cli.pictures({**given, "rng": "cpu", **SMALL, "cfg_scale": 3.0}, tmp_path, *flags))
