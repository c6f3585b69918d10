"""Whether an image in a file is the one that is asked for: every change of what is asked is noticed, and no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import THREADS
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import Engine, Guidance, ImageParams, Lora, SampleParams, Tiling, Upscaler
from sdcffi.engine.resuming import Request, Unrecorded, _is_equal

CALL = ImageParams(
    width=32, height=32, seed=5, sample_params=SampleParams(sample_steps=1, guidance=Guidance(txt_cfg=1.0))
)
Compare = Callable[..., "str | None"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input images, a network, and a directory of LoRAs."""
    folder = tmp_path_factory.mktemp("resuming")
    pixels = np.random.default_rng(1).integers(0, 256, (48, 96, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "wide.png")
    Image.fromarray(255 - pixels).save(folder / "other.png")
    write_network(folder / "x2.safetensors", random_weights(2))
    return folder


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel, folder: Path) -> Any:
    (folder / "loras").mkdir()
    shutil.copy(tiny_model.lora, folder / "loras/ink.safetensors")
    keywords = {**tiny_model.engine_arguments(), "lora_dir": folder / "loras"}
    with Engine(**keywords, threads=THREADS, backend="cpu") as engine:
        yield engine, keywords


def context(keywords: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Keywords of `Request`, as the command line has them."""
    from sdcffi.parameter_files import as_arguments

    table = {name: value if isinstance(value, int) else str(value) for name, value in {**keywords, **changes}.items()}
    return as_arguments(table).engine


def call(prompt: str = "a cat", params: ImageParams = CALL, **others: Any) -> dict[str, Any]:
    return {"prompt": prompt, "params": params, **others}


def test_a_change_of_what_is_asked_for_is_noticed(engine: Any, folder: Path) -> None:
    made, keywords = engine
    path = made.generate(**call("a cat <lora:ink:0.5>"), batch_count=2).save(folder / "a.png")
    request = Request(context(keywords))
    two = replace(CALL, batch_count=2)
    asked = call("a cat <lora:ink:0.5>", two)
    assert [request.difference(file, index, asked) for index, file in enumerate(path)] == [None, None]

    def differs(prompt: str = "a cat <lora:ink:0.5>", params: ImageParams = two, **others: Any) -> str | None:
        found = request.difference(path[1], 1, call(prompt, params, **others))
        return found and found.removeprefix("differs in ")

    steps = replace(CALL.sample_params or SampleParams(), sample_steps=2)
    assert differs("a dog <lora:ink:0.5>") == "prompt"
    assert differs("A cat <lora:ink:0.5>") == "prompt"
    assert differs("a cat <lora:ink:0.6>") == "loras"
    assert differs("a cat ") == "loras"
    assert differs("a cat <lora:ink:0.5>", lora_tags=False) in ("prompt", "loras")
    assert differs(params=replace(two, seed=6)) == "seed"
    assert differs(params=replace(two, seed=None)) is None
    assert differs(params=replace(two, seed=-1)) is None
    assert differs(params=replace(two, batch_count=1)) == "batch_count"
    assert differs(params=replace(two, width=48)) == "width"
    assert differs(params=replace(two, width=None)) == "width"
    assert differs(params=replace(two, sample_params=steps)) == "steps"
    assert differs(params=replace(two, negative_prompt="x")) == "negative_prompt"
    assert differs(params=replace(two, vae_tiling_params=Tiling())) == "vae_tiling"
    assert differs(params=replace(two, loras=[Lora(folder / "loras/ink.safetensors", 0.5)])) == "loras"
    assert differs(params=replace(two, init_image=str(folder / "wide.png"))) == "init_image"
    assert request.difference(path[1], 0, asked) == "differs in place in a batch"
    # The engine's own choice, now asked for, is no change.
    explicit = replace(steps, sample_steps=1, sample_method="EULER", scheduler="discrete")
    assert differs(params=replace(two, sample_params=explicit)) in (None, "scheduler")
    assert differs(params=replace(two, strength=0.75)) is None


def test_a_change_of_the_model_is_noticed_and_a_change_of_how_it_runs_is_not(
    engine: Any, folder: Path, models: dict[str, TinyModel]
) -> None:
    made, keywords = engine
    (path,) = made.generate(**call()).save(folder / "m.png")

    def differs(**changes: Any) -> str | None:
        return Request(context(keywords, **changes)).difference(path, 0, call())

    assert differs() is None
    assert differs(threads=1 if THREADS > 1 else 2) is None
    assert differs(diffusion_fa=True, mmap=True) is None
    assert differs(type="q8_0") == "differs in type"
    assert differs(circular=True) == "differs in circular_x"
    other = models["q8_0"].diffusion_model
    assert differs(tensor_type_rules="single=q4_0") == "differs in tensor_type_rules"
    assert differs(diffusion_model=other) == "differs in diffusion_model"
    same_name = folder / "changed" / Path(keywords["diffusion_model"]).name
    same_name.parent.mkdir()
    shutil.copy(keywords["diffusion_model"], same_name)
    assert differs(diffusion_model=same_name) is None
    content = bytearray(same_name.read_bytes())
    content[-1] ^= 1
    same_name.write_bytes(content)
    assert differs(diffusion_model=same_name) == f"differs in {same_name.name}"


def test_only_names_may_be_written_in_another_way() -> None:
    assert _is_equal("DPM++ 2M", "dpm++2m", "sample_method")
    assert _is_equal("F16", "f16", "wtype")
    assert not _is_equal("[single]=q4_0", "single=q4_0", "tensor_type_rules")
    assert not _is_equal("1,1,0", "110", "scm_mask")


def test_input_images_are_compared_by_their_pixels(engine: Any, folder: Path) -> None:
    made, keywords = engine
    request = Request(context(keywords))
    for rule, size in {"crop": (32, 32), "fit": (40, 40)}.items():
        sized = replace(CALL, width=size[0], height=size[1])
        params = replace(sized, init_image=str(folder / "wide.png"), mask_image=(30, 0, 60, 20), strength=0.5)
        (path,) = made.generate(**call(params=params, resize=rule)).save(folder / f"i_{rule}.png")

        def differs(rule: str = rule, path: Path = path, params: ImageParams = params, **changes: Any) -> str | None:
            return request.difference(path, 0, call(params=replace(params, **changes), resize=rule))

        assert differs() is None
        assert differs(init_image=str(folder / "other.png")) == "differs in init_image"
        assert differs(mask_image=(30, 0, 60, 24)) == "differs in mask_image"
        assert differs("stretch") == "differs in init_image"
        assert differs(mask_blur=9.0) == "differs in mask_blur"
        assert differs(mask_blur=4.0, paste_back=True) is None
        assert differs(width=64, height=64) in (
            "differs in width",
            "differs in size",
        )
        assert "cannot be compared" in str(differs(init_image=str(folder / "nowhere.png")))


def test_upscaling_is_part_of_what_is_asked_for(engine: Any, folder: Path) -> None:
    made, keywords = engine
    small = made.generate(**call())
    network = folder / "x2.safetensors"
    with Upscaler(network, backend="cpu", threads=THREADS, tile_size=64) as upscaler:
        (path,) = upscaler.upscale(small, 2).save(folder / "u.png")
    (plain,) = small.save(folder / "p.png")
    write_network(folder / "changed.safetensors", random_weights(2, seed=9))
    wanted = {
        (network, 1, 64): None,
        (network, 2, 64): "differs in upscale_repeats",
        (network, 1, 32): "differs in upscale_tile_size",
        (folder / "changed.safetensors", 1, 64): "differs in changed.safetensors",
        (None, 1, 64): "differs in upscale_model",
    }
    for (used, repeats, tile), said in wanted.items():
        assert Request(context(keywords), used, repeats, tile).difference(path, 0, call()) == said
    assert Request(context(keywords), network, 1, 64).difference(plain, 0, call()) == wanted[None, 1, 64]


def test_files_that_are_damaged_or_of_others_are_told_apart(engine: Any, folder: Path) -> None:
    made, keywords = engine
    request = Request(context(keywords))
    (path,) = made.generate(**call()).save(folder / "d.png")
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-40], b"<html>"):
        path.write_bytes(content)
        assert request.difference(path, 0, call()) == "is damaged"
    with pytest.raises(Unrecorded):
        request.difference(folder / "wide.png", 0, call())
