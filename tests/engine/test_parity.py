"""Images are those of upstream's sd-cli, built from the same patched source: not one sample may differ.

One table of combinations, on the tiny FLUX.2-shaped model; `test_sd1.py` has what it lacks. The engine and sd-cli
generate each, and it has to differ from the image without what it is about. Both sides keep their native defaults for
all that a combination does not name, and so does the table where sd-cli has a default of its own: a mask that is white,
reference images that are scaled, and the layers 7, 8 and 9 for skip-layer guidance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import has_field
from parity import IMAGES, SMALL, BySdCli, Case, assert_same, case, check_case, generate, rows
from safetensors.numpy import load_file, save_file
from sdcli import THREADS, SdCli
from tiny_model import TinyModel

from sdcffi import Cache, ContextParams, Engine, Hires, ImageParams, SampleParams, SkipLayerGuidance, Tiling
from sdcffi._bindings.library import load


def names(enum: str) -> list[str]:
    """The names of an enumeration in the header that was built."""
    library = load()
    return list(library.enum(library.ffi.typeof(f"enum {enum}")))


def sample(**values: Any) -> ImageParams:
    return ImageParams(sample_params=SampleParams(**values))


def context(**values: Any) -> dict[str, Any]:
    return {"context": ContextParams(**values)}


def references(*images: str, scaled: bool = True, **values: Any) -> dict[str, Any]:
    params = ImageParams(auto_resize_ref_image=scaled, **values)
    return {"ref_images": [IMAGES[name] for name in images], "params": params}


OWN_SCHEDULERS = {
    "discrete": "it is the model's own",
    "flux2": "it is the model's own",
    "simple": "its table of 10,000 levels has those of 4 steps",
}
# What the engine chooses for FLUX.2, by the revision.
NOT_OF_FLOW = {"ays", "gits", "tcd", "euler_cfg_pp", "euler_a_cfg_pp", "dpm++2m_sde_bt"}  # refused for this model
OWN_PREDICTION = "flux2_flow" if "flux2_flow" in names("prediction_t") else "flux_flow"
ONE_OPERATION = "on the CPU attention is one operation anyway"

LITTLE = {"width": 32, "height": 32, "steps": 4}  # enough for what the picture's size does not matter to
LARGE = {"width": 128, "height": 128}  # 8 x 8 latent pixels; a tile has at least 4 x 4
LONG = {"width": 32, "height": 32, "steps": 12}  # caches begin after some steps
START = {"init_image": IMAGES["init"], "steps": 6}
QUARTERS = Tiling(tile_size_x=4, tile_size_y=4)
BLOCKS = {"residual_diff_threshold": 5.0, "max_warmup_steps": 2}
BLOCKS_FLAGS = "--cache-option threshold=5,warmup=2"
SCM = "1,1,1,1,0,1,0,0,1,1,0,1"
# Samplers by the eta that the engine takes where none is set.
ETA_OF_1 = ("euler_a", "dpm++2s_a", "er_sde", "dpm++_sde", "dpm++2m_sde", "dpm++3m_sde")
ETA_OF_0 = ("ddim_trailing", "res_multistep", "res_2s")
OWN_SCHEDULE = ("lcm", "ddim_trailing")
SAME_WEIGHTS = "the same numbers from another place"

CASES = {
    # prompt, guidance, seed, size
    "prompt": case(prompt="a dog in a hat"),
    "other letters": case(prompt="eine Katze, 猫"),
    "brackets in the prompt": case(prompt="a (lovely) [cat]"),
    "negative prompt": case(beside={"cfg_scale": 3.0}, negative_prompt="a dog"),
    "cfg_scale": case(cfg_scale=3.0),
    "cfg_scale below 1": case(cfg_scale=0.5),
    "seed": case(seed=2**40 + 7),
    "largest seed": case(seed=2**63 - 1),
    "one step": case(steps=1),
    "portrait": case(width=48, height=80),
    "landscape": case(width=112, height=32),
    "batch": case(beside=LITTLE, batch_count=3),
    # pictures in
    "image to image": case("--init-img {init}", beside={"steps": 6}, init_image=IMAGES["init"]),
    "weak": case("--init-img {init}", beside=START, strength=0.2),
    "not at all": case("--init-img {init}", beside=START, strength=0.0),
    "whole": case("--init-img {init}", beside=START, strength=1.0),
    "inpaint": case("--init-img {init} --mask {half}", beside=START, mask_image=IMAGES["half"], paste_back=False),
    "inpaint, whole": case(
        "--init-img {init} --mask {half}", beside=START, mask_image=IMAGES["half"], strength=1.0, paste_back=False
    ),
    "inpaint, soft mask": case(
        "--init-img {init} --mask {soft}",
        beside=START | {"mask_image": IMAGES["half"], "paste_back": False},
        mask_image=IMAGES["soft"],
    ),
    "reference": case("--ref-image {init}", **references("init")),
    "two references": case(
        "--ref-image {init} --ref-image {other}", beside=references("init"), **references("init", "other")
    ),
    "numbered references": case(
        "--ref-image {init} --ref-image {other} --increase-ref-index",
        beside=references("init", "other"),
        **references("init", "other", increase_ref_index=True),
        equal="FLUX.2 always numbers them",
    ),
    "scaled reference": case("--ref-image {wide}", beside=references("init"), **references("wide")),
    "reference as it is": case(
        "--ref-image {wide} --disable-auto-resize-ref-image",
        beside=references("wide"),
        **references("wide", scaled=False),
    ),
    "image and reference": case("--init-img {init} --ref-image {other}", beside=START, **references("other")),
    # sampling
    **{
        f"sampler {name}": case(beside=LITTLE, sampler=name, equal="it is the model's own" if name == "euler" else "")
        for name in names("sample_method_t")
        if name not in NOT_OF_FLOW
    },
    **{
        f"scheduler {name}": case(beside=LITTLE, scheduler=name, equal=OWN_SCHEDULERS.get(name, ""))
        for name in names("scheduler_t")
        if name not in NOT_OF_FLOW
    },
    **{
        f"eta of {name}": case(
            beside=LITTLE | {"sampler": name},
            eta=0.4,
            equal="it asks only whether there is one" if name == "er_sde" else "",
        )
        for name in [*ETA_OF_1, *ETA_OF_0]
    },
    **{f"no eta, {name}": case(beside=LITTLE | {"sampler": name}, eta=0.0) for name in ETA_OF_1},
    **{f"no eta, {name}": case(beside=LITTLE | {"sampler": name}, eta=0.0, equal="its own") for name in ETA_OF_0},
    "custom sigmas": case("--sigmas 1,0.7,0.2,0", params=sample(custom_sigmas=[1, 0.7, 0.2, 0])),
    "skip-layer guidance": case(
        "--skip-layers [0,3] --slg-scale 4 --skip-layer-start 0 --skip-layer-end 1",
        slg=SkipLayerGuidance(layers=[0, 3], layer_start=0.0, layer_end=1.0, scale=4.0),
    ),
    "skip-layer guidance in some steps": case(
        "--skip-layers [1] --slg-scale 4 --skip-layer-start 0.3 --skip-layer-end 0.6",
        beside={"steps": 6, "slg": SkipLayerGuidance(layers=[1], layer_start=0.0, layer_end=1.0, scale=4.0)},
        slg=SkipLayerGuidance(layers=[1], layer_start=0.3, layer_end=0.6, scale=4.0),
    ),
    "flow shift": case(
        "--flow-shift 7",
        engine={"prediction": "sd3_flow"},
        beside={"params": sample(flow_shift=3.0)},
        params=sample(flow_shift=7.0),
    ),
    "flow shift of FLUX.2": case("--flow-shift 7", params=sample(flow_shift=7.0)),
    "timestep shift": case("--timestep-shift 250", params=sample(shifted_timestep=250), equal="for XL only"),
    "distilled guidance": case(guidance=9.0, equal="the model has no input for it"),
    "clip skip": case(clip_skip=2, equal="the model has no CLIP"),
    **{f"prediction {name}": case(engine={"prediction": name}) for name in ("eps", "v", "edm_v", "sd3_flow")},
    **{
        f"prediction {name}": case(engine={"prediction": name}, equal="it is the model's own")
        for name in sorted({"flux_flow", OWN_PREDICTION})
    },
    # random numbers
    **{f"rng {name}": case(beside=LITTLE, engine={"rng": name}) for name in ("std_default", "cuda")},
    "sampler_rng": case(beside=LITTLE | {"sampler": "euler_a"}, engine={"sampler_rng": "cuda"}),
    # tiles
    "tiles": case("--vae-tiling", beside=LARGE, tiling=Tiling(), equal="a tile is 32 latent pixels wide"),
    "tile size": case("--vae-tiling --vae-tile-size 4x6", beside=LARGE, tiling=Tiling(tile_size_x=4, tile_size_y=6)),
    "overlap": case(
        "--vae-tiling --vae-tile-size 4x4 --vae-tile-overlap 0.1",
        beside=LARGE | {"tiling": QUARTERS},
        tiling=Tiling(tile_size_x=4, tile_size_y=4, target_overlap=0.1),
    ),
    "tile as a part": case(
        "--vae-tiling --vae-relative-tile-size 0.5x0.75", beside=LARGE, tiling=Tiling(rel_size_x=0.5, rel_size_y=0.75)
    ),
    "number of tiles": case(
        "--vae-tiling --vae-relative-tile-size 2x1.5", beside=LARGE, tiling=Tiling(rel_size_x=2, rel_size_y=1.5)
    ),
    "tiled encoding": case(
        "--vae-tiling --vae-tile-size 4x4 --init-img {large}",
        beside={**LARGE, "init_image": IMAGES["large"], "strength": 0.0},
        tiling=QUARTERS,
    ),
    # caches
    "easycache": case(
        "--cache-mode easycache --cache-option threshold=2",
        beside=LONG,
        cache=Cache(mode="easycache", reuse_threshold=2.0),
    ),
    "easycache, start and end": case(
        "--cache-mode easycache --cache-option threshold=2,start=0.3,end=0.8",
        beside=LONG | {"cache": Cache(mode="easycache", reuse_threshold=2.0)},
        cache=Cache(mode="easycache", reuse_threshold=2.0, start_percent=0.3, end_percent=0.8),
    ),
    "dbcache": case("--cache-mode dbcache " + BLOCKS_FLAGS, beside=LONG, cache=Cache(mode="dbcache", **BLOCKS)),
    "taylorseer": case(
        "--cache-mode taylorseer --cache-option warmup=2",
        beside=LONG,
        cache=Cache(mode="taylorseer", max_warmup_steps=2),
    ),
    "cache-dit": case("--cache-mode cache-dit " + BLOCKS_FLAGS, beside=LONG, cache=Cache(mode="cache_dit", **BLOCKS)),
    "cache-dit, threshold and warm-up": case(
        "--cache-mode cache-dit --cache-option threshold=0.4,warmup=4",
        beside=LONG | {"cache": Cache(mode="cache_dit", **BLOCKS)},
        cache=Cache(mode="cache_dit", residual_diff_threshold=0.4, max_warmup_steps=4),
    ),
    "cache-dit, mask": case(
        f"--cache-mode cache-dit {BLOCKS_FLAGS} --scm-mask {SCM} --scm-policy static",
        beside=LONG | {"cache": Cache(mode="cache_dit", **BLOCKS)},
        cache=Cache(mode="cache_dit", scm_mask=SCM, scm_policy_dynamic=False, **BLOCKS),
    ),
    "spectrum": case("--cache-mode spectrum", beside=LONG, cache=Cache(mode="spectrum")),
    "spectrum, parameters": case(
        "--cache-mode spectrum --cache-option w=0.7,m=2,lam=0.5,window=3,flex=0.25,warmup=2,stop=0.7",
        beside=LONG | {"cache": Cache(mode="spectrum")},
        cache=Cache(
            mode="spectrum",
            spectrum_w=0.7,
            spectrum_m=2,
            spectrum_lam=0.5,
            spectrum_window_size=3,
            spectrum_flex_window=0.25,
            spectrum_warmup_steps=2,
            spectrum_stop_percent=0.7,
        ),
    ),
    # a second pass
    "hires": case("--hires", beside=LITTLE, hires=Hires()),
    "hires, parameters": case(
        "--hires --hires-width 48 --hires-height 80 --hires-steps 2 --hires-denoising-strength 0.4",
        beside=LITTLE,
        hires=Hires(target_width=48, target_height=80, steps=2, denoising_strength=0.4),
    ),
    "hires, scale": case("--hires --hires-scale 1.5", beside=LITTLE | {"hires": Hires()}, hires=Hires(scale=1.5)),
    **{
        f"hires, {name}": case(
            f"--hires --hires-scale 1.5 --hires-upscaler '{name}'",
            beside=LITTLE | {"hires": Hires(upscaler="Nearest" if name == "Latent" else "Latent", scale=1.5)},
            hires=Hires(upscaler=name, scale=1.5),
            equal="when it enlarges" if name == "Latent (antialiased)" else "",
        )
        for name in names("sd_hires_upscaler_t")
        if name not in ("None", "Model")  # a model needs a file
    },
    **{
        f"hires, schedule of {name}": case(
            "--hires", beside=LITTLE | {"hires": Hires(), "scheduler": "discrete"}, sampler=name, hires=Hires()
        )
        for name in OWN_SCHEDULE
    },
    # the engine
    "flash attention": case(engine={"fa": True}, equal=ONE_OPERATION),
    "flash attention in the transformer": case(engine={"diffusion_fa": True}, equal=ONE_OPERATION),
    "direct convolution": case(engine={"vae_conv_direct": True}, equal="on the CPU each convolution is direct"),
    "direct convolution in the transformer": case(
        engine={"diffusion_conv_direct": True}, equal="it has no convolution"
    ),
    "circular": case(engine={"circular": True}),
    "circular in x": case("--circularx", engine=context(circular_x=True)),
    "circular in y": case("--circulary", engine=context(circular_y=True)),
    "circular tiles": case(
        "--vae-tiling --vae-tile-size 4x4", beside=LARGE | {"tiling": QUARTERS}, engine={"circular": True}
    ),
    **{f"type {name}": case(engine={"type": name}) for name in ("q8_0", "q4_0", "q4_K", "q5_K", "bf16")},
    "tensor_type_rules": case(engine={"tensor_type_rules": "double_blocks=q4_0,llm=q8_0"}),
    "mmap": case(engine={"mmap": True}, equal=SAME_WEIGHTS),
    "offload_to_cpu": case(engine={"offload_to_cpu": True}, equal=SAME_WEIGHTS),
    "parts on the CPU": case(
        engine={"clip_on_cpu": True, "vae_on_cpu": True, "control_net_on_cpu": True}, equal=SAME_WEIGHTS
    ),
    "max_vram": case(engine={"max_vram": 1.0}, equal=SAME_WEIGHTS),
    "two threads": case(engine={"threads": 2}, equal="each number is computed by one of them"),
}
QUICK = (
    "negative prompt",
    "batch",
    "largest seed",
    "image to image",
    "inpaint",
    "two references",
    "sampler euler_a",
    "sampler dpm++2m",
    "scheduler karras",
    "cache-dit",
    "hires",
    "hires, Lanczos",
    "circular",
)


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(**tiny_model.engine_arguments(), threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


@pytest.mark.parametrize("row", rows(CASES, QUICK))
def test_a_combination_is_generated_as_by_sd_cli(
    row: Case, engine: Engine, tiny_model: TinyModel, by_sd_cli: BySdCli
) -> None:
    check_case(row, engine, tiny_model.engine_arguments(), by_sd_cli)


def test_defaults_are_those_of_sd_cli(tiny_model: TinyModel, sd_cli: SdCli, tmp_path: Path) -> None:
    files = tiny_model.engine_arguments()
    small: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 3, "seed": 42}  # not cfg_scale, ...
    with Engine(**files, threads=THREADS, backend="cpu") as engine:
        assert_same(engine.generate(**small).arrays, sd_cli.generate({**files, **small}, tmp_path))


@pytest.mark.slow
def test_distilled_guidance_acts_as_in_sd_cli(tiny_model: TinyModel, by_sd_cli: BySdCli, tmp_path: Path) -> None:
    files = with_guidance_input(tiny_model, tmp_path).engine_arguments()
    ours, plain = generate(files, {"guidance": 9.0}, {})
    assert_same(ours, by_sd_cli({**files, "guidance": 9.0}))
    assert not np.array_equal(ours[0], plain[0])


def with_guidance_input(model: TinyModel, directory: Path) -> TinyModel:
    """The model with the layers that read the guidance value, as FLUX.2 dev has them."""
    tensors = load_file(model.diffusion_model)
    for layer in ("in_layer", "out_layer"):
        name = f"model.diffusion_model.time_in.{layer}.weight"
        tensors[name.replace("time_in", "guidance_in")] = tensors[name][::-1].copy()
    save_file(tensors, directory / "distilled.safetensors")
    return replace(model, diffusion_model=directory / "distilled.safetensors")


@pytest.mark.parametrize(
    "prompt",
    [
        "a <lora:lora:0.8> lovely cat",
        pytest.param("a lovely cat<lora:lora:0.5><lora:lora:0.25>", marks=pytest.mark.slow),
        pytest.param("a lovely <lora:lora:-1>cat", marks=pytest.mark.slow),
    ],
)
def test_lora_tags_act_as_in_sd_cli(prompt: str, engine: Engine, tiny_model: TinyModel, by_sd_cli: BySdCli) -> None:
    files, folder = tiny_model.engine_arguments(), tiny_model.lora.parent
    (ours,) = generate(files, {"prompt": prompt}, lora_dir=folder)
    early = {"eager_load": True} if has_field("sd_ctx_params_t", "eager_load") else {}  # or sd-cli merges none
    assert_same(ours, by_sd_cli({**files, **early, "prompt": prompt, "lora_model_dir": folder}))
    assert not np.array_equal(ours[0], engine.generate(**SMALL).arrays[0])


def test_images_of_a_batch_are_those_of_their_seeds_alone(engine: Engine) -> None:
    batch = engine.generate(**SMALL | LITTLE, batch_count=2)
    assert batch.seeds == [SMALL["seed"], SMALL["seed"] + 1]
    for image, seed in zip(batch.arrays, batch.seeds, strict=True):
        assert np.array_equal(image, engine.generate(**SMALL | LITTLE | {"seed": seed}).arrays[0])
