"""A picture is drawn again from its file, bit for bit, or it is said what differs."""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file
from tiny_model import TinyModel
from upscaling_networks import random_weights

from sdcffi import (
    BackendUnavailableError,
    Cache,
    Engine,
    ImageParams,
    Record,
    Result,
    Tiling,
    UnsupportedParameterError,
    Upscaler,
    read_arguments,
    replay,
)
from sdcffi._records.finding import find_files
from sdcffi.parameter_files import as_arguments

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
START = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)


@pytest.fixture(scope="module")
def picture(shared: Engine, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second picture of a batch, with LoRA."""
    result = shared.generate("a cat", **DRAW, negative_prompt="a dog", batch_count=2, loras=[(tiny_model.lora, 0.7)])
    return result.save(tmp_path_factory.mktemp("pictures") / "cat.png")[1]


def rewritten(picture: Path, target: Path, **changes: Any) -> Path:
    """Copy a picture with another record in it."""
    data = Record.from_file(picture).to_dict() | changes
    info = PngInfo()
    info.add_text("sdcffi", json.dumps(data))
    with Image.open(picture) as image:
        image.save(target, pnginfo=info)
    return target


def test_a_picture_of_a_batch_with_lora_comes_out_bit_for_bit(
    isolated: bool, picture: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    again = replay(picture, models=tiny_model.lora.parent, isolated=isolated)
    assert again.differences == ()
    assert (again.max_difference, again.psnr) == (0, float("inf"))
    assert again.lines() == ["the image is the same, bit for bit"]
    assert (again.result.seeds, len(again.result.arrays)) == ([8], 1)
    with Image.open(again.save(tmp_path / "again.png")) as image:
        assert np.array_equal(np.asarray(image), again.array)
    assert Record.from_file(tmp_path / "again.png").seed == 8


CALLS: dict[str, dict[str, Any]] = {
    "text": {},
    "init": {"init_image": START, "strength": 0.6, "steps": 4},
    "mask": {"init_image": START, "mask_image": START[..., :1].copy(), "steps": 4},
    "reference": {"ref_images": [START]},
    "cache": {"cache": Cache(mode="easycache"), "steps": 6},
    "tiling": {"tiling": Tiling(rel_size_x=0.6, rel_size_y=0.6)},
    "sampler": {"sampler": "euler_a", "scheduler": "karras", "params": ImageParams(clip_skip=2)},
}


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "isolated"), [("f16", True), ("q8_0", False)])
@pytest.mark.parametrize("name", CALLS)
def test_each_picture_of_a_batch_comes_out_bit_for_bit(
    name: str, weights: str, isolated: bool, models: dict[str, TinyModel], tmp_path: Path
) -> None:
    model = models[weights]
    with Engine(**model.engine_arguments(), threads=1, backend="cpu", isolated=isolated) as engine:
        result = engine.generate("a cat", **{**DRAW, **CALLS[name]}, batch_count=2, loras=[model.lora])
        paths = result.save(tmp_path / "out.png")
    given = {key: value for key, value in CALLS[name].items() if key.endswith(("_image", "_images"))}
    for path, array in zip(paths, result.arrays, strict=True):
        again = replay(path, models=[model.lora.parent], isolated=isolated, **given)
        assert again.differences == ()
        assert np.array_equal(again.array, array)
    assert not np.array_equal(*result.arrays), "the second picture is the first"


def test_a_picture_drawn_from_another_needs_that_one(shared: Engine, tiny_model: TinyModel, tmp_path: Path) -> None:
    call = {**DRAW, "init_image": START, "strength": 0.6, "steps": 4, "batch_count": 2}
    path = shared.generate("a cat", **call).save(tmp_path / "out.png")[1]
    models = tiny_model.lora.parent
    with pytest.raises(
        ValueError, match=r"input images that the file does not contain.*give init_image \(64x64, sha256 of its pixels "
    ):
        replay(path, models=models)
    with pytest.raises(ValueError, match=r"the original image was init_image .*, not init_image"):
        replay(path, models=models, init_image=START[::-1].copy())
    with pytest.raises(ValueError, match="the image was generated without mask_image"):
        replay(path, models=models, init_image=START, mask_image=START[..., :1].copy())
    Image.fromarray(START).save(tmp_path / "start.png")
    again = replay(path, models=models, init_image=tmp_path / "start.png", isolated=False)
    assert (again.max_difference, again.differences) == (0, ())
    # What an autoencoder's noise is drawn from is the batch's first seed, so the pictures before are drawn too.
    assert again.result.seeds == [7, 8]


@pytest.mark.slow
def test_an_autoencoder_with_noise_ties_a_picture_to_its_batch(tmp_path: Path) -> None:
    """Stable Diffusion's autoencoder samples; here one with random weights, and a UNet of zeros."""
    layout = full_size.sd1()
    layout.write(tmp_path / "sd1.safetensors")
    write_autoencoder(layout, tmp_path / "vae.safetensors")
    call = {**DRAW, "init_image": START, "strength": 0.5}
    with Engine(tmp_path / "sd1.safetensors", vae=tmp_path / "vae.safetensors", threads=1, backend="cpu") as engine:
        result = engine.generate("a cat", **call, batch_count=2)
        alone = engine.generate("a cat", **{**call, "seed": 8})
    assert not np.array_equal(result.arrays[1], alone.arrays[0])
    path = result.save(tmp_path / "out.png", digests=False)[1]
    again = replay(path, models=tmp_path, init_image=START)
    assert (again.max_difference, again.result.seeds) == (0, [7, 8])


def write_autoencoder(layout: full_size.Layout, path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in layout.tensors.items():
        if name.startswith("first_stage_model."):
            if name.endswith("bias"):
                values = np.zeros(shape)
            else:
                values = (
                    np.ones(shape) if "norm" in name else random.standard_normal(shape) / math.prod(shape[1:]) ** 0.5
                )
            tensors[name.removeprefix("first_stage_model.")] = values.astype(np.float16)
    save_file(tensors, path)


def test_what_is_not_as_it_was_is_told(picture: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    files = Record.from_file(picture).to_dict()["files"]
    files[0]["sha256"] = "0" * 64
    changes = {"commit": "0ld", "build": "b", "version": "9", "hardware": "Z80", "files": files}
    other = rewritten(picture, tmp_path / "other.png", **changes)
    again = replay(other, models=tiny_model.lora.parent, threads=2, isolated=False)
    told = {difference.what: (difference.recorded, difference.now) for difference in again.differences}
    now = Record.from_file(picture)
    assert told == {
        "engine commit": ("0ld", now.commit),
        "native build": ("b", now.build),
        "sdcffi": ("9", now.version),
        "device": ("cpu (Z80)", f"cpu ({now.hardware})"),
        "threads": ("1", "2"),
        "llm_path llm.safetensors": tuple(
            f"{file.size} bytes, sha256 {digest[:12]}..."
            for file in now.files[:1]
            for digest in ("0" * 64, str(file.sha256))
        ),
    }
    assert f"engine commit: recorded 0ld, now {now.commit}" in again.lines()
    assert again.max_difference is not None


def test_the_recorded_device_is_asked_for_and_another_of_its_backend_where_it_is_not_here(
    picture: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    other = rewritten(picture, tmp_path / "other.png", device_id="cpu:z80")
    again = replay(other, models=tiny_model.lora.parent)
    (difference,) = again.differences
    assert (difference.what, difference.recorded.split()[0], difference.now.split()[0]) == ("device", "cpu:z80", "cpu")
    with pytest.raises(BackendUnavailableError, match="'cpu:z80'"):
        replay(other, models=tiny_model.lora.parent, backend="cpu:z80")
    record = {name: value for name, value in Record.from_file(picture).to_dict().items()}
    del record["device_id"]  # as older versions wrote it
    assert Record.from_dict(record).device_id is None


def test_another_engine_is_asked_for_the_defaults_of_then(picture: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    record = Record.from_file(picture).to_dict()
    assert "sample_method" not in record["params"]["sample_params"]
    record["resolved_params"]["sample_params"]["sample_method"] = "heun"  # as if that had been the default
    other = rewritten(picture, tmp_path / "a.png", commit="0ld", resolved_params=record["resolved_params"])
    again = replay(other, models=tiny_model.lora.parent, isolated=False)
    assert again.max_difference
    assert again.lines()[0].startswith(f"the image differs: by up to {again.max_difference} of 255, PSNR ")
    same = rewritten(picture, tmp_path / "b.png", resolved_params=record["resolved_params"])
    assert replay(same, models=tiny_model.lora.parent, isolated=False).max_difference == 0


def test_a_default_that_this_engine_lacks_is_told_and_left(
    picture: Path, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Engine.generate

    def old(self: Engine, prompt: str, *, params: ImageParams, **keywords: Any) -> Result:
        if params.control_strength is not None:
            raise UnsupportedParameterError("the built engine has no parameter control_strength")
        return generate(self, prompt, params=params, **keywords)

    monkeypatch.setattr(Engine, "generate", old)
    other = rewritten(picture, tmp_path / "other.png", commit="0ld")
    again = replay(other, models=tiny_model.lora.parent, isolated=False)
    assert again.max_difference == 0
    assert again.lines()[0] == "the image is the same, bit for bit; it was recorded with another revision of the engine"
    assert "no parameter control_strength" in again.lines()[1]


def test_a_name_of_another_revision_is_left_if_it_was_a_default_and_refused_if_it_was_asked_for(
    picture: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    record = Record.from_file(picture).to_dict()
    record["resolved_params"]["sample_params"]["scheduler"] = "of_tomorrow"
    other = rewritten(picture, tmp_path / "a.png", commit="n3w", resolved_params=record["resolved_params"])
    again = replay(other, models=tiny_model.lora.parent, isolated=False)
    assert again.max_difference == 0
    (told,) = (difference.now for difference in again.differences if difference.what == "parameters")
    assert re.search(
        r"scheduler must be one of discrete, .*, not 'of_tomorrow': the built engine .* has no other", told
    )
    record["params"]["sample_params"]["scheduler"] = "of_tomorrow"
    asked = rewritten(picture, tmp_path / "b.png", commit="n3w", params=record["params"])
    message = (
        r"another revision of the engine \(stable-diffusion\.cpp n3w\), and this one cannot do the same: .*scheduler"
    )
    with pytest.raises(UnsupportedParameterError, match=message):
        replay(asked, models=tiny_model.lora.parent, isolated=False)


def test_an_option_of_another_revision_is_refused_if_it_was_asked_for(
    picture: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    record = Record.from_file(picture).to_dict()
    other = rewritten(picture, tmp_path / "a.png", commit="n3w", context=record["context"] | {"prediction": "tomorrow"})
    with pytest.raises(
        UnsupportedParameterError, match=r"another revision of the engine .*prediction must be one of eps"
    ):
        replay(other, models=tiny_model.lora.parent, isolated=False)


def test_files_are_found_by_content_among_those_of_a_name(picture: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    record = Record.from_file(picture)
    wrong = tmp_path / "a" / tiny_model.lora.name
    wrong.parent.mkdir()
    changed = bytearray(tiny_model.lora.read_bytes())
    changed[-1] ^= 1
    wrong.write_bytes(changed)
    shutil.copytree(tiny_model.lora.parent, tmp_path / "z" / "deep")
    assert find_files(record, tmp_path)["loras[0].path"] == tmp_path / "z" / "deep" / tiny_model.lora.name
    (tmp_path / "z" / "deep" / tiny_model.lora.name).unlink()
    assert find_files(record, [tmp_path])["loras[0].path"] == wrong
    wrong.unlink()
    with pytest.raises(ValueError, match=r"not found: lora\.safetensors; looked in .*models="):
        replay(picture, models=tmp_path)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        replay(picture, models=tmp_path / "nowhere")


def test_files_in_the_current_directory_and_recorded_paths_are_found(
    shared: Engine, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shared.generate("a cat", **DRAW)
    expected = {f"{name}_path": path for name, path in tiny_model.engine_arguments().items()}
    assert find_files(result.record(digests=False, paths=True)) == expected
    monkeypatch.chdir(tiny_model.lora.parent)
    assert find_files(result.record(digests=False)) == expected


def test_the_pixels_of_a_lossy_file_are_not_compared(shared: Engine, tiny_model: TinyModel, tmp_path: Path) -> None:
    result = shared.generate("a cat", **DRAW)
    again = replay(result.save(tmp_path / "out.jpg")[0], models=tiny_model.lora.parent, isolated=False)
    assert (again.max_difference, again.psnr) == (None, None)
    assert again.lines() == ["the image was generated again; the file's pixels cannot be compared with it"]
    assert np.array_equal(again.array, result.arrays[0])


def test_the_record_tells_what_the_engine_chose(shared: Engine) -> None:
    asked = shared.generate("a cat", width=64, height=64, steps=1).record(digests=False)
    assert asked.params.sample_params is not None
    assert asked.params.sample_params.guidance is not None
    guidance = asked.params.sample_params.guidance
    assert (asked.params.sample_params.scheduler, guidance.distilled_guidance) == (None, None)
    sample = asked.whole.sample_params
    assert sample is not None
    assert sample.guidance is not None
    scheduler = shared.capabilities().default_scheduler
    assert (sample.sample_method, sample.scheduler, sample.guidance.distilled_guidance) == ("euler", scheduler, 3.5)
    assert asked.resolved_context.n_threads == 1
    assert (asked.commit, asked.backend) == (shared.commit, "cpu")
    chosen = shared.generate("a cat", **DRAW, sampler="lcm").record(digests=False)
    assert chosen.whole.sample_params is not None
    assert chosen.whole.sample_params.scheduler == "lcm"
    tiled = shared.generate("a cat", **DRAW, tiling=Tiling()).record(digests=False)
    assert tiled.whole.vae_tiling_params is not None
    assert (tiled.whole.vae_tiling_params.enabled, tiled.whole.vae_tiling_params.target_overlap) == (True, 0.5)
    assert asked.whole.vae_tiling_params is None


def test_results_with_their_origin_can_be_pickled(shared: Engine) -> None:
    result = shared.generate("a cat", **DRAW)
    assert pickle.loads(pickle.dumps(result)).record() == result.record()


def test_a_record_with_paths_makes_the_whole_batch_again(shared: Engine, tiny_model: TinyModel, tmp_path: Path) -> None:
    result = shared.generate("a <cat>", **DRAW, batch_count=2, loras=[tiny_model.lora])
    path = result.record(1, paths=True).to_file(tmp_path / "record.json")
    given = read_arguments(path)
    assert given.engine["backend"] == "cpu"
    assert given.engine["context"].diffusion_model_path == tiny_model.diffusion_model
    again = shared.generate(**given.generate)
    assert again.seeds == result.seeds
    assert all(np.array_equal(one, other) for one, other in zip(again.arrays, result.arrays, strict=True))


def test_a_record_whose_files_or_pictures_are_not_there_is_refused(
    shared: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = shared.generate("a cat", **DRAW).record()
    with pytest.raises(
        ValueError, match=r"not found: llm\.safetensors, dit\.safetensors, taef2\.safetensors; looked in"
    ):
        as_arguments(record.to_dict())
    data = record.to_dict() | {"images": [{"role": "init_image", "shape": [64, 64, 3], "sha256": "0"}]}
    with pytest.raises(ValueError, match=r"needs input images that it does not contain \(init_image\)"):
        as_arguments(data)
    assert Record.from_json(json.dumps(data)).images


@pytest.mark.slow
def test_an_enlarged_picture_is_drawn_and_enlarged_again(
    shared: Engine, tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "network.safetensors"
    save_file(random_weights(2), str(network))
    with Upscaler(network, threads=1, tile_size=16, backend="cpu") as upscaler:
        result = upscaler.upscale(shared.generate("a cat", **{**DRAW, "width": 32, "height": 32, "steps": 1}))
        assert upscaler.upscale(result, 1).origin is None
    result.save(tmp_path / "large.png")
    record = Record.from_file(tmp_path / "large.png")
    assert (record.width, record.upscale_factor, record.upscale_tile_size) == (64, 2, 16)
    assert "Size: 32x32" in record.infotext()
    assert "Postprocess upscale by: 2, Postprocess upscaler: network" in record.infotext()
    again = replay(tmp_path / "large.png", models=[tiny_model.diffusion_model.parent, tmp_path])
    assert (again.max_difference, again.differences) == (0, ())
    assert again.array.shape == (64, 64, 3)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch", "fit"])
def test_pictures_are_given_again_as_they_were_given_then(
    resize: Any, shared: Engine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    start = np.linspace(0, 255, 90 * 70 * 3).astype(np.uint8).reshape(90, 70, 3)
    call = {**DRAW, "steps": 1, "init_image": start, "mask_image": (5, 5, 50, 60), "resize": resize}
    (path,) = shared.generate("a cat", **call).save(tmp_path / "a.png")
    keywords = {"models": tiny_model.diffusion_model.parent, "isolated": False}
    again = replay(path, init_image=start, mask_image=(5, 5, 50, 60), **keywords)
    assert (again.max_difference, again.differences) == (0, ())
    with pytest.raises(ValueError, match="the original image was mask_image"):
        replay(path, init_image=start, mask_image=(5, 5, 50, 61), **keywords)
