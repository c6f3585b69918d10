"""Each bad parameter is refused in Python, with its value and the legal set, before anything native is loaded."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_defaults import IMAGE
from header_files import Shapes, write
from model_headers import ALONE, CLIP, CLIP_G, CONTROL, FLUX2, LLM, SD1, VAE, read, unet

from sdcffi import Engine, Lora, Upscaler
from sdcffi._bindings.requests import Opening
from sdcffi._checks.context import check_context, resolve_seed
from sdcffi._checks.image import check_image
from sdcffi._models.files import Model
from sdcffi._models.loras import as_loras
from sdcffi.engine.conversion import convert
from sdcffi.parameter_files import read_arguments
from sdcffi.params.context import ContextParams, Embedding
from sdcffi.params.image import Hires, ImageParams, PhotoMaker
from sdcffi.params.sampling import Cache, Guidance, SampleParams, SkipLayerGuidance, Tiling

UNKNOWN = Model()
SD3: Shapes = {"joint_blocks.0.x_block.attn.qkv.weight": (2, 2)}
WAN: Shapes = {"blocks.0.cross_attn.norm_k.weight": (2,)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    files: dict[str, dict[str, Shapes]] = {
        "sd1": {"model": SD1},
        "sd2": {"model": {**unet(1024), **CLIP, **VAE}},
        "sdxl": {"model": {**unet(2048), **CLIP, **CLIP_G, **VAE}},
        "edit": {"model": {**unet(768, channels=8), **CLIP, **VAE}},
        "control": {"model": SD1, "control_net": CONTROL},
        "flux2": {"diffusion_model": FLUX2, "llm": LLM, "vae": ALONE},
        "sd3": {"diffusion_model": SD3, "clip_l": CLIP, "vae": ALONE},
        "wan": {"diffusion_model": WAN, "t5xxl": LLM, "vae": ALONE},
    }
    known = {name: read(tmp_path_factory.mktemp(name), **slots) for name, slots in files.items()}
    return {**known, "unknown": UNKNOWN, "decoder": replace(known["sd1"], encodes=False)}


def picture(width: int = 512, height: int = 512, channels: int = 3, dtype: type[np.generic] = np.uint8) -> Any:
    return np.zeros((height, width, channels), dtype)


def sampled(**fields: Any) -> ImageParams:
    return ImageParams(sample_params=SampleParams(**fields))


def guided(**fields: Any) -> ImageParams:
    return sampled(guidance=Guidance(**fields))


SQUARE = ImageParams(width=512, height=512)
CALLS: list[tuple[str, ImageParams, type[Exception], str]] = [
    ("unknown", ImageParams(width=0), ValueError, "width must be from 1 to 16384, not 0"),
    ("unknown", ImageParams(width=-64), ValueError, "width must be from 1 to 16384, not -64"),
    ("unknown", ImageParams(height=2_000_000), ValueError, "height must be from 1 to 16384, not 2000000"),
    ("unknown", sampled(sample_steps=0), ValueError, "steps must be from 1 to 10000, not 0"),
    ("unknown", sampled(sample_steps=-1), ValueError, "steps must be from 1 to 10000, not -1"),
    ("unknown", sampled(sample_steps=10_001), ValueError, "steps must be from 1 to 10000"),
    ("unknown", sampled(sample_steps=1, scheduler="gits"), ValueError, "its table begins at 2 steps"),
    ("sd2", sampled(scheduler="ays"), ValueError, "no table for Stable Diffusion 2"),
    ("unknown", sampled(eta=1.5, sample_method="ddim_trailing"), ValueError, "(with the sampler ddim_trailing)"),
    ("unknown", sampled(guidance_rescale=1.5), ValueError, "guidance_rescale must be from 0 to 1, not 1.5"),
    ("flux2", sampled(scheduler="ays"), ValueError, "no table for FLUX.2"),
    ("unknown", sampled(eta=math.nan, sample_method="tcd"), ValueError, "eta must be finite, not nan"),
    ("unknown", sampled(eta=1.5, sample_method="tcd"), ValueError, "eta must be from 0 to 1 (with the sampler tcd)"),
    ("unknown", sampled(eta=-0.1), ValueError, "eta must be from 0 to 1000, not -0.1"),
    ("unknown", sampled(flow_shift=math.inf), ValueError, "flow_shift must be finite, not inf"),
    ("unknown", sampled(shifted_timestep=1001), ValueError, "shifted_timestep must be from 0 to 1000, not 1001"),
    ("unknown", sampled(custom_sigmas=[1.0]), ValueError, "custom_sigmas must have from 2 to 10001 values, not 1"),
    ("unknown", sampled(custom_sigmas=[]), ValueError, "values, not 0"),
    ("unknown", sampled(custom_sigmas=[1.0, math.nan, 0.0]), ValueError, "custom_sigmas[1] must be finite, not nan"),
    ("unknown", sampled(custom_sigmas=[1.0, 0.0, 0.0]), ValueError, "custom_sigmas[1] must be above 0"),
    ("unknown", sampled(custom_sigmas=[0.5, 1.0]), ValueError, "custom_sigmas must decrease, but [1] is 1.0 after 0.5"),
    ("unknown", sampled(custom_sigmas=[1e-45, 1e-46]), ValueError, "custom_sigmas[0] must be above 0, and at least 1e"),
    ("unknown", sampled(custom_sigmas=[1.0, 1e-9, 0]), ValueError, "custom_sigmas[1] must be above 0, and at least"),
    ("unknown", sampled(custom_sigmas=[1.0, 1 - 1e-9, 0]), ValueError, "decrease in the engine's single precision"),
    ("unknown", sampled(custom_sigmas="21"), TypeError, "custom_sigmas must be a sequence"),
    ("unknown", guided(txt_cfg=math.nan), ValueError, "cfg_scale must be finite, not nan"),
    ("unknown", guided(txt_cfg=math.inf), ValueError, "cfg_scale must be finite, not inf"),
    ("unknown", guided(txt_cfg=1e30), ValueError, "cfg_scale must be from -1000 to 1000, not 1e+30"),
    ("unknown", guided(img_cfg=math.nan), ValueError, "guidance.img_cfg must be finite"),
    ("unknown", guided(distilled_guidance=-1), ValueError, "guidance must be from 0 to 1000, not -1"),
    ("unknown", guided(slg=SkipLayerGuidance(layer_start=2)), ValueError, "slg.layer_start must be from 0 to 1, not 2"),
    ("unknown", guided(slg=SkipLayerGuidance(layers=[-1])), ValueError, "slg.layers[0] must be from 0 to 999, not -1"),
    ("unknown", guided(slg=SkipLayerGuidance(scale=math.nan)), ValueError, "slg.scale must be finite"),
    ("unknown", ImageParams(batch_count=0), ValueError, "batch_count must be from 1 to 10000, not 0"),
    ("unknown", ImageParams(batch_count=-1), ValueError, "batch_count must be from 1"),
    ("unknown", ImageParams(clip_skip=101), ValueError, "clip_skip must be from -1 to 100, not 101"),
    ("sd1", ImageParams(clip_skip=14), ValueError, "from -1 to 13 (Stable Diffusion 1's CLIP has 12 layers), not 14"),
    ("sd2", ImageParams(clip_skip=26), ValueError, "from -1 to 25 (Stable Diffusion 2's CLIP has 24 layers), not 26"),
    ("sdxl", ImageParams(clip_skip=14), ValueError, "to 13 (Stable Diffusion XL's CLIP has 12 layers), not 14"),
    ("sd3", ImageParams(clip_skip=14), ValueError, "to 13 (Stable Diffusion 3's CLIP has 12 layers), not 14"),
    ("unknown", ImageParams(strength=-0.5), ValueError, "strength must be from 0 to 1, not -0.5"),
    ("unknown", ImageParams(strength=math.nan), ValueError, "strength must be finite, not nan"),
    ("unknown", ImageParams(strength=1.01), ValueError, "strength must be from 0 to 1, not 1.01"),
    ("unknown", ImageParams(control_strength=-1), ValueError, "control_strength must be from 0"),
    ("unknown", ImageParams(prompt="a\0b"), ValueError, "prompt must not contain a NUL character, as at index 1"),
    ("unknown", ImageParams(negative_prompt="\ud800"), ValueError, "negative_prompt cannot be encoded as UTF-8"),
    ("unknown", ImageParams(prompt="a" * 50_001), ValueError, "prompt must have at most 50000 bytes in UTF-8"),
    ("unknown", ImageParams(prompt="(cat:.)"), ValueError, "prompt: '.' in '(cat:.)' is not a weight"),
    ("unknown", ImageParams(prompt="(a:+.)"), ValueError, "'+.' in '(a:+.)' is not a weight"),
    ("unknown", ImageParams(prompt="((a)(b:1.2.3))"), ValueError, "'1.2.3' in '((a)(b:1.2.3)' is not a weight"),
    ("unknown", ImageParams(prompt=f"(a:{'9' * 41})"), ValueError, "does not fit a float"),
    ("unknown", ImageParams(prompt=f"(a:0.{'0' * 50}1)"), ValueError, "does not fit a float"),
    ("unknown", ImageParams(mask_image=picture(channels=1)), ValueError, "mask_image needs init_image"),
    ("unknown", SQUARE.updated(ImageParams(init_image=picture(256))), ValueError, "init_image is 256x512 pixels"),
    ("control", SQUARE.updated(ImageParams(control_image=picture(256))), ValueError, "control_image is 256x512 pixels"),
    (
        "unknown",
        ImageParams(init_image=picture(), mask_image=picture(64, 64, 1)),
        ValueError,
        "mask_image is 64x64 pixels, init_image is 512x512",
    ),
    ("sd1", ImageParams(control_image=picture()), ValueError, "control_image needs a ControlNet: pass control_net="),
    ("decoder", ImageParams(init_image=picture()), ValueError, "init_image needs an autoencoder with an encoder"),
    ("unknown", ImageParams(ref_images=[picture(4, 4)]), ValueError, "ref_images[0] must have sides of at least 64"),
    ("unknown", ImageParams(ref_images=[picture(72, 64)]), ValueError, "ref_images[0] must have sides that are"),
    (
        "unknown",
        ImageParams(ref_images=[picture(64, 16384)], auto_resize_ref_image=True, width=64, height=64),
        ValueError,
        "too narrow to be scaled",
    ),
    ("unknown", ImageParams(ref_images=picture()[0, 0, 0]), TypeError, "ref_images must be a sequence"),
    ("sd1", ImageParams(ref_images=[picture()]), ValueError, "Stable Diffusion 1 takes no ref_images: use"),
    ("wan", ImageParams(), ValueError, "Wan generates videos only: use"),
    ("sd1", ImageParams(pm_params=PhotoMaker(id_images=[picture()])), ValueError, "pass photo_maker= to Engine"),
    ("unknown", ImageParams(pm_params=PhotoMaker(style_strength=101)), ValueError, "style_strength must be from 0 to"),
    *(
        ("unknown", ImageParams(prompt=prompt, pm_params=PhotoMaker(id_images=[picture()])), ValueError, "exactly once")
        for prompt in ("a man", "img", "(a man:1.2) img", "a man img and a woman img")
    ),
    ("unknown", ImageParams(vae_tiling_params=Tiling(target_overlap=math.nan)), ValueError, "overlap must be finite"),
    ("unknown", ImageParams(vae_tiling_params=Tiling(target_overlap=0.6)), ValueError, "from 0 to 0.5, not 0.6"),
    ("unknown", ImageParams(vae_tiling_params=Tiling(tile_size_x=-1)), ValueError, "tiling.tile_size_x must be from 0"),
    ("unknown", ImageParams(vae_tiling_params=Tiling(tile_size_y=3)), ValueError, "tile_size_y must be 0 (the"),
    ("unknown", ImageParams(vae_tiling_params=Tiling(rel_size_x=-1)), ValueError, "rel_size_x must be from 0"),
    ("flux2", ImageParams(cache=Cache(mode="ucache")), ValueError, "'ucache' has no effect on FLUX.2; use spectrum,"),
    ("sd1", ImageParams(cache=Cache(mode="dbcache")), ValueError, "has no effect on Stable Diffusion 1; use ucache"),
    ("unknown", ImageParams(cache=Cache(mode="ucache", start_percent=1)), ValueError, "end_percent must be above"),
    ("unknown", ImageParams(cache=Cache(mode="spectrum", spectrum_w=2)), ValueError, "spectrum_w must be from 0 to 1"),
    ("unknown", ImageParams(cache=Cache(mode="ucache", reuse_threshold=math.nan)), ValueError, "must be finite"),
    ("unknown", ImageParams(cache=Cache(mode="cache_dit", scm_mask="1,x")), ValueError, "must be like '1,1,0,1'"),
    ("unknown", ImageParams(cache=Cache(mode="taylorseer", taylorseer_skip_interval=0)), ValueError, "from 1 to 100"),
    ("unknown", ImageParams(hires=Hires(denoising_strength=math.nan)), ValueError, "denoising_strength must be finite"),
    ("unknown", ImageParams(hires=Hires(denoising_strength=2)), ValueError, "denoising_strength must be from 0 to 1"),
    ("unknown", ImageParams(hires=Hires(scale=-1)), ValueError, "hires.scale must be from 0 to 16, not -1"),
    ("unknown", ImageParams(hires=Hires(scale=0)), ValueError, "hires.scale must be above 0, not 0, unless"),
    ("unknown", ImageParams(hires=Hires(target_width=-8)), ValueError, "hires.target_width must be from 0"),
    ("unknown", ImageParams(hires=Hires(upscaler="None")), ValueError, "hires.upscaler must not be 'None'"),
    ("unknown", ImageParams(hires=Hires(upscaler="Model")), ValueError, "'Model' needs hires.model_path"),
    ("unknown", ImageParams(hires=Hires(model_path="none.gguf")), ValueError, "hires.model: 'none.gguf' does not"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "params", "error", "said"), CALLS, ids=[f"{row[0]}: {row[3]}" for row in CALLS])
def test_a_bad_call_is_refused(
    model: str, params: ImageParams, error: type[Exception], said: str, models: dict[str, Model]
) -> None:
    with pytest.raises(error) as caught:
        check_image(params, models[model], IMAGE)
    assert said in str(caught.value)


class Raising:
    """A number that cannot say which, as a tensor on another device; also no path, and not one of several."""

    def __fspath__(self) -> str:
        raise ZeroDivisionError("the path")

    def __iter__(self) -> Iterator[Any]:
        raise ZeroDivisionError("the items")

    def __index__(self) -> int:
        raise ZeroDivisionError("the index")

    def __float__(self) -> float:
        raise ZeroDivisionError("the float")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ImageParams(width=True), "width must be an integer, not True"),
        (lambda: ImageParams(width=64.0), "width must be an integer, not 64.0"),  # type: ignore[arg-type]
        (lambda: ImageParams(height="64"), "height must be an integer, not '64'"),  # type: ignore[arg-type]
        (lambda: ImageParams(height=np.ones(1, int)), "height must be an integer, not array([1])"),  # type: ignore[arg-type]
        (lambda: ImageParams(batch_count="9" * 10**6), "an integer, not '9999"),  # type: ignore[arg-type]
        (lambda: ImageParams(strength=np.ones(2)), "strength must be a number, not an array of shape (2,)"),  # type: ignore[arg-type]
        (lambda: ImageParams(paste_back=1), "paste_back must be True or False, not 1"),  # type: ignore[arg-type]
        (lambda: sampled(eta="1"), "eta must be a number, not '1'"),
        (lambda: SampleParams(sample_steps="x"), "steps must be an integer, not 'x'"),  # type: ignore[arg-type]
        (lambda: Guidance(txt_cfg=[]), "cfg_scale must be a number, not []"),  # type: ignore[arg-type]
        (lambda: guided(txt_cfg=False), "cfg_scale must be a number, not False"),
        (lambda: SkipLayerGuidance(scale="1"), "slg.scale must be a number, not '1'"),  # type: ignore[arg-type]
        (lambda: Tiling(enabled=None), "tiling.enabled must be True or False, not None"),  # type: ignore[arg-type]
        (lambda: Hires(steps=2.0), "hires.steps must be an integer, not 2.0"),  # type: ignore[arg-type]
        (lambda: Cache(mode="ucache", reuse_threshold=b"1"), "cache.reuse_threshold must be a number, not b'1'"),  # type: ignore[arg-type]
        (lambda: PhotoMaker(style_strength={}), "pm_params.style_strength must be a number, not {}"),  # type: ignore[arg-type]
        (lambda: ContextParams(flash_attn="yes"), "fa must be True or False, not 'yes'"),  # type: ignore[arg-type]
        (lambda: ContextParams(n_threads=1.5), "threads must be an integer, not 1.5"),  # type: ignore[arg-type]
        (lambda: sampled(sample_method=[]), "sampler must be a string, not []"),
        (lambda: sampled(scheduler={}), "scheduler must be a string, not {}"),
        (lambda: ImageParams(prompt=3), "prompt must be a string, not 3"),  # type: ignore[arg-type]
        (lambda: ImageParams(negative_prompt=1), "negative_prompt must be a string, not 1"),  # type: ignore[arg-type]
        (lambda: Cache(mode=1), "cache.mode must be a string, not 1"),  # type: ignore[arg-type]
        (lambda: Hires(upscaler=1), "hires.upscaler must be a string, not 1"),  # type: ignore[arg-type]
        (lambda: Hires(model_path=5), "hires.model_path must be a path, not 5"),  # type: ignore[arg-type]
        *(
            (lambda name=name: ContextParams(**{name: print}), f"{said} must be a string, not <built-in")
            for name, said in [
                ("rng_type", "rng"),
                ("sampler_rng_type", "sampler_rng"),
                ("prediction", "prediction"),
                ("lora_apply_mode", "lora_apply_mode"),
                ("tensor_type_rules", "tensor_type_rules"),
            ]
        ),
        (lambda: ContextParams(vae_path=b"a"), "vae must be a path, not b'a'; a path of bytes is text by os.fsdecode("),  # type: ignore[arg-type]
        (lambda: Lora("a", name=1), "loras.name must be a string, not 1"),  # type: ignore[arg-type]
        (lambda: check_image(sampled(custom_sigmas=[None, 0]), UNKNOWN, IMAGE), "custom_sigmas[0] must be a number"),
        (lambda: as_loras([5]), "loras must have Lora, path or (path, multiplier), not 5"),  # type: ignore[list-item]
        (lambda: Upscaler(5), "model must be a path, not 5"),  # type: ignore[arg-type]
        (lambda: convert(5, "a.gguf", type="f16"), "input must be a path, not 5"),  # type: ignore[arg-type]
        (lambda: read_arguments(5), "path must be a path, not 5"),  # type: ignore[arg-type]
        (lambda: Opening(library=5), "library must be a path, not 5"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_a_wrong_type_is_refused_where_it_is_given(make: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


class Name(str, Enum):
    """Names as scripts have them, in a class that a child process lacks."""

    ONE = "euler"


class Place:
    """A path as others write one."""

    def __fspath__(self) -> str:
        return Name.ONE


def test_strings_and_paths_are_taken_as_plain_ones() -> None:
    sample = sampled(sample_method=Name.ONE, scheduler=Name.ONE).sample_params
    context = ContextParams(rng_type=Name.ONE, model_path=Name.ONE, vae_path=Place(), taesd_path=Path("a"))
    assert [type(value) for value in (sample.sample_method, sample.scheduler)] == [str, str]  # type: ignore[union-attr]
    assert [type(value) for value in context.given().values()] == [str, type(Path()), type(Path()), str]
    assert context.vae_path == Path("euler")
    assert type(Opening(library=Name.ONE).library) is str


def test_numbers_are_taken_as_plain_ones() -> None:
    params = ImageParams(batch_count=np.int8(1), strength=np.float32(0.5), width=np.uint16(64), paste_back=np.True_)  # type: ignore[arg-type]
    assert [type(value) for value in params.given().values()] == [bool, int, float, int]
    assert resolve_seed((1 << 63) - 3, ImageParams(batch_count=np.int8(3)).batch_count) == (1 << 63) - 3  # type: ignore[arg-type]
    assert type(resolve_seed(np.int8(5), 3)) is int  # type: ignore[arg-type]
    assert SampleParams(eta=Fraction(1, 2)).eta == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ImageParams(width=Raising()), "width"),  # type: ignore[arg-type]
        (lambda: ImageParams(strength=Raising()), "strength"),  # type: ignore[arg-type]
        (lambda: check_image(sampled(custom_sigmas=[Raising(), 0]), UNKNOWN, IMAGE), "custom_sigmas[0]"),
        (lambda: check_image(ImageParams(init_image=Raising()), UNKNOWN, IMAGE), "init_image"),  # type: ignore[arg-type]
        (lambda: check_image(ImageParams(ref_images=Raising()), UNKNOWN, IMAGE), "ref_images"),  # type: ignore[arg-type]
        (lambda: as_loras(Raising()), "loras"),
        (lambda: as_loras([Raising()]), "loras"),
        (lambda: ContextParams(vae_path=Raising()), "vae"),
    ],
)
def test_what_a_value_raises_goes_through_with_the_parameters_name(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        make()
    assert caught.value.__notes__ == [f"It was raised while the parameter {name} was read."]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (ImageParams(strength=0.5), "strength=0.5 is ignored without init_image: pass init_image= too"),
        (ImageParams(control_strength=0.5), "control_strength=0.5 is ignored without control_image"),
    ],
)
def test_a_strength_without_its_image_is_warned_of(params: ImageParams, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        check_image(params, UNKNOWN, IMAGE)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("unknown", ImageParams(width=65, height=63)),
        ("sd1", ImageParams(width=np.int64(512), height=np.int32(64), clip_skip=np.int8(2))),  # type: ignore[arg-type]
        ("sd1", sampled(sample_steps=1, scheduler="simple")),
        ("sd1", sampled(scheduler="ays")),
        ("sd2", ImageParams(clip_skip=25)),
        ("sdxl", ImageParams(clip_skip=13)),
        ("sd3", ImageParams(clip_skip=13)),
        ("unknown", sampled(scheduler="ays")),
        ("unknown", sampled(scheduler="one of a newer engine", sample_method="tcd", eta=1)),
        ("sd1", sampled(custom_sigmas=np.array([14.6, 1.0, 0.0], np.float32))),
        ("sd1", sampled(sample_steps=1, scheduler="karras")),
        ("sd1", sampled(sample_steps=1, scheduler="gits", custom_sigmas=[2.0, 0.0])),
        ("sd1", ImageParams(prompt="a (b:1.2) [c] (d:-.5) ((e:1.):2) :.) \\(f:.) (g:h) BREAK", negative_prompt="")),
        ("sd1", ImageParams(prompt="é" * 25_000)),
        ("sd1", ImageParams(init_image=picture(), mask_image=picture(channels=1), strength=0)),
        ("control", ImageParams(control_image=picture())),
        ("unknown", ImageParams(control_image=picture(), ref_images=[picture(64, 80)], width=512, height=512)),
        ("edit", ImageParams(ref_images=[picture()])),
        ("flux2", ImageParams(ref_images=[picture(100, 75)], auto_resize_ref_image=True)),
        ("sd1", ImageParams(cache=Cache(mode="ucache"), hires=Hires(), vae_tiling_params=Tiling())),
        ("flux2", ImageParams(cache=Cache(mode="cache_dit", scm_mask="1,0,1", max_cached_steps=-1))),
        ("unknown", ImageParams(hires=Hires(enabled=False, scale=-1))),
    ],
)
def test_a_good_call_passes_without_a_warning(model: str, params: ImageParams, models: dict[str, Model]) -> None:
    assert check_image(params, models[model], IMAGE).given().keys() >= params.given().keys()


@pytest.mark.parametrize(
    ("model", "width", "height", "said"),
    [
        ("sd1", 65, 63, r"multiples of 64 pixels, so the result will be 128x64, not 65x63; pass"),
        ("flux2", 60, 64, r"FLUX\.2 generates sizes in multiples of 16 pixels, .* 64x64, not 60x64"),
        ("sd1", 500, None, r"the result will be 512x512, not 500x512"),
    ],
)
def test_the_size_that_will_come_out_is_said_before(
    model: str, width: int, height: int | None, said: str, models: dict[str, Model]
) -> None:
    with pytest.warns(UserWarning, match=said):
        check_image(ImageParams(width=width, height=height), models[model], IMAGE)


@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        (
            "sd1",
            {"init_image": picture(256, 256), "width": 512, "height": 512},
            "init_image is 256x256 pixels, the result is 512x512 (in multiples of",
        ),
        (
            "control",
            {"control_image": picture(500, 512), "width": 500},
            "control_image is 500x512 pixels, the result is 512x",
        ),
        (
            "unknown",
            {"init_image": picture(128, 64), "width": 72, "height": 64},
            "must be multiples of 64 with init_image",
        ),
    ],
)
def test_a_picture_that_the_engine_would_scale_is_refused(
    model: str, fields: dict[str, Any], said: str, models: dict[str, Model]
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        check_image(ImageParams(**fields), models[model], IMAGE)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({}, ValueError, "there is no model to load: pass model= or diffusion_model="),
        ({"vae_path": "a"}, ValueError, "there is no model to load"),
        ({"model_path": "none"}, ValueError, "model: 'none' does not exist"),
        ({"model_path": 3}, TypeError, "model must be a path, not 3"),
        ({"model_path": "a\0b"}, ValueError, "model must not contain a NUL"),
        ({"vae_path": "none"}, ValueError, "vae: 'none' does not exist"),
        ({"taesd_path": "none"}, ValueError, "taesd: 'none' does not exist"),
        ({"control_net_path": "none"}, ValueError, "control_net: 'none' does not exist"),
        ({"photo_maker_path": "none"}, ValueError, "photo_maker: 'none' does not exist"),
        ({"embeddings": [Embedding(name="w", path="none")]}, ValueError, "embeddings['w']: 'none' does not exist"),
        ({"embeddings": ["none"]}, TypeError, "embeddings must be a sequence of Embedding"),
        ({"embeddings": [Embedding(name="w", path=5)]}, TypeError, "embeddings['w'] must be a path, not 5"),  # type: ignore[arg-type]
        ({"embeddings": "none"}, TypeError, "embeddings must be a sequence of Embedding"),
        ({"embeddings": [Embedding(name=" ", path="none")]}, ValueError, "the name of 'none' must not be empty"),
        ({"n_threads": 0}, ValueError, "threads must be from 1 to 512 (with more, the system"),
        ({"n_threads": 10_000}, ValueError, "not 10000"),
        ({"n_threads": True}, TypeError, "threads must be an integer, not True"),
        ({"max_vram": -1}, ValueError, "max_vram must be at least 0, not -1"),
        ({"max_vram": math.inf}, ValueError, "max_vram must be finite, not inf"),
        *(
            ({"wtype": kind}, ValueError, f"type {kind!r} only exists inside the engine")
            for kind in ("q8_1", "q8_K", "i8", "i64")
        ),
        ({"wtype": 8}, TypeError, "type must be a string, not 8"),
        (
            {"wtype": "q9_9"},
            ValueError,
            "type must be one of f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_K, q3_K, q4_K,",
        ),
        ({"tensor_type_rules": "(=q8_0"}, ValueError, "'(' is not a regular expression"),
        ({"tensor_type_rules": "(?i)a=q8_0"}, ValueError, "begins with (?; of those the engine supports only"),
        ({"tensor_type_rules": "(([a-z_.0-9])*)*!=f16"}, ValueError, "repeats a group, which can take for ever"),
        ({"tensor_type_rules": "a" * 10_001}, ValueError, "must have at most 10000 characters, not 10001"),
        ({"tensor_type_rules": "attn=q9_9"}, ValueError, "type 'q9_9' in 'attn=q9_9' is not one of f32, f16"),
        ({"tensor_type_rules": "attn=q8_1"}, ValueError, "type 'q8_1'"),
        ({"tensor_type_rules": "attn"}, ValueError, "'attn' must have the form \"regex=type\""),
        ({"tensor_type_rules": 3}, TypeError, "tensor_type_rules must be a string"),
    ],
)
def test_a_bad_context_is_refused(
    fields: dict[str, Any], error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write(tmp_path / "model.safetensors", SD1, np.float16)
    monkeypatch.chdir(tmp_path)
    needs_model = fields and not fields.keys() & {"model_path"} and fields.get("vae_path") != "a"
    with pytest.raises(error) as caught:
        check_context(ContextParams(**({"model_path": model} if needs_model else {}), **fields))
    assert said in str(caught.value)


def test_a_good_context_gives_expanded_paths_and_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model.safetensors", SD1, np.float16)
    write(tmp_path / "word.safetensors", {"emb_params": (1, 768)}, np.float32)
    monkeypatch.setenv("HOME", str(tmp_path))
    params, model = check_context(
        ContextParams(
            model_path="~/model.safetensors",
            embeddings=[Embedding(name="word", path="~/word.safetensors")],
            n_threads=512,
            wtype="Q4_k",
            tensor_type_rules=r"^model\.diffusion_model\..*attn\d=q8_0,embed=f16",
            max_vram=0.5,
        )
    )
    assert params.model_path == tmp_path / "model.safetensors"
    assert params.embeddings
    assert params.embeddings[0].path == tmp_path / "word.safetensors"
    assert model.architecture
    assert model.architecture.name == "sd1"


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        *(
            (name, value, "must be True or False")
            for name in ("isolated", "load_weights", "tuned")
            for value in ("no", 1, [])
        ),
        *((name, 3, "must be a function, not 3") for name in ("on_log", "on_progress", "on_preview")),
        ("type", 8, "must be a string, not 8"),
        ("vae", b"a", r"must be a path, not b'a'; a path of bytes is text by os.fsdecode"),
        ("backend", [], r"must be a string, not \[\]"),
        ("threads", "2", "must be an integer, not '2'"),
        ("mmap", 1, "must be True or False, not 1"),
    ],
)
def test_a_keyword_of_a_wrong_type_is_named_as_it_was_given(
    keyword: str, value: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=f"^{keyword} {said}"):
        Engine(write(tmp_path / "model.safetensors", SD1, np.float16), **{keyword: value})


@pytest.mark.parametrize("seed", [True, 1.0, "1"])
def test_a_seed_is_an_integer(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        resolve_seed(seed, 1)


def test_a_seed_leaves_room_for_its_batch() -> None:
    assert resolve_seed((1 << 63) - 2, 2) == (1 << 63) - 2
    with pytest.raises(ValueError, match="seed must be at most"):
        resolve_seed((1 << 63) - 1, 2)
    assert resolve_seed(None, 1) != resolve_seed(-1, 1)


@pytest.mark.parametrize("seed", [None, -1])
def test_a_random_seed_keeps_its_digits_in_a_double_and_so_do_those_of_its_batch(seed: int | None) -> None:
    for count in (1, 7, 1 << 31):
        found = [resolve_seed(seed, count) for _ in range(100)]
        assert min(found) >= 0
        assert max(found) + count <= 1 << 32
        assert len(set(found)) > 90


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": "none.gguf"}, "input: 'none.gguf' does not exist"),
        ({"input": "empty.gguf"}, "cannot be read: it is empty"),
        ({"vae": "none.gguf"}, "vae: 'none.gguf' does not exist"),
        ({"type": "q8_1"}, "type 'q8_1' only exists inside the engine"),
        ({"tensor_type_rules": "(=f16"}, "is not a regular expression"),
        ({"output": "a.bin"}, "output must end in .gguf or .safetensors"),
    ],
)
def test_a_bad_conversion_is_refused(
    changes: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.safetensors", SD1, np.float16)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ValueError, match=r".") as caught:
        convert(**{"input": "a.safetensors", "output": "b.gguf", "type": "q8_0", **changes})
    assert said in str(caught.value)
    assert not (tmp_path / "b.gguf").exists()


def test_the_checks_load_nothing_native() -> None:
    code = "import sys, sdcffi._checks.context, sdcffi._models.memory; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "sdcffi._models.files" in loaded
    assert not {"cffi", "_cffi_backend", "sdcffi._bindings.library"} & set(loaded.split("'"))
