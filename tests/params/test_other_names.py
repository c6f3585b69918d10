"""Other tools' names: values that can mean one thing only are taken, keywords are answered with the right one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_model import TinyModel

import sdcffi
from sdcffi import Cache, Engine, Guidance, Hires, ImageParams, SampleParams, Tiling, VideoParams
from sdcffi._models.weight_types import check_rules, check_type
from sdcffi.params.names import parameters, spoken
from sdcffi.params.other_names import meant, with_engine_names
from sdcffi.params.plain import check_keys

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def names(engine: Engine) -> dict[str, tuple[str, ...]]:
    return engine._opened.names


# Values.


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Euler a", "euler_a"),
        ("EULER", "euler"),
        ("euler_ancestral", "euler_a"),
        ("k_euler_a", "euler_a"),
        ("DPM++ 2M", "dpm++2m"),
        ("dpmpp_2m", "dpm++2m"),
        ("DPM++ 2S a", "dpm++2s_a"),
        ("dpmpp_2s_ancestral", "dpm++2s_a"),
        ("dpmpp_2m_sde", "dpm++2m_sde"),
        ("dpmpp_2m_sde_gpu", "dpm++2m_sde"),
        ("DPM++ SDE", "dpm++_sde"),
        ("DPM++ 3M SDE", "dpm++3m_sde"),
        ("dpm_2", "dpm2"),
        ("uni_pc", "unipc"),
        ("UniPC", "unipc"),
        ("LCM", "lcm"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("DPMSolverMultistepScheduler", "dpm++2m"),
        # What the engine does not have, or what may be one of two, stays, and is refused with the legal names.
        *(
            (name, name)
            for name in ("DPM2 a", "DDIM", "uni_pc_bh2", "DPM++ 2M SDE Heun", "heunpp2", "Restart", "", "+")
        ),
    ],
)
def test_a_sampler_is_known_by_other_tools_names(label: str, expected: str, names: dict[str, tuple[str, ...]]) -> None:
    params = with_engine_names(ImageParams(sample_params=SampleParams(sample_method=label)), names)
    assert params.sample_params == SampleParams(sample_method=expected)


@pytest.mark.parametrize(
    ("label", "expected"),
    [("Karras", "karras"), ("SGM Uniform", "sgm_uniform"), ("normal", "discrete"), ("Uniform", "discrete"),
     ("Align Your Steps", "ays"), ("KL Optimal", "kl_optimal"), ("Automatic", None), ("ddim_uniform",) * 2,
     ("Align Your Steps GITS", "gits")],
)  # fmt: skip
def test_a_schedule_is_known_by_other_tools_names(
    label: str, expected: str | None, names: dict[str, tuple[str, ...]]
) -> None:
    params = with_engine_names(ImageParams(sample_params=SampleParams(scheduler=label)), names)
    assert params.sample_params == SampleParams(scheduler=expected)


def test_a_label_of_both_is_both_unless_another_schedule_is_given(names: dict[str, tuple[str, ...]]) -> None:
    def of(label: str, scheduler: str | None = None) -> tuple[str | None, str | None]:
        sample = SampleParams(sample_method=label, scheduler=scheduler)
        found = with_engine_names(ImageParams(sample_params=sample), names).sample_params
        assert found is not None
        return found.sample_method, found.scheduler

    assert of("DPM++ 2M Karras") == of("DPM++ 2M Karras", "KARRAS") == of("dpm++2m [karras]") == ("dpm++2m", "karras")
    assert of("dpm++_2m_karras") == ("dpm++2m", "karras")
    assert of("euler_a") == ("euler_a", None)
    assert of("Euler SGM Uniform") == ("euler", "sgm_uniform")
    assert of("Euler a Align Your Steps") == ("euler_a", "ays")
    assert of("Euler Align Your Steps GITS") == ("euler", "gits")
    assert of("DPM++ 2M SDE KL Optimal") == ("dpm++2m_sde", "kl_optimal")
    assert of("DPM++ 2M Karras", "Automatic") == ("dpm++2m", "karras")
    assert of("Euler a Automatic") == ("euler_a", None)
    assert of("Automatic") == (None, None)
    for label, scheduler, said in (("DPM++ 2M Karras", "simple", "karras"), ("Euler Automatic", "beta", "Automatic")):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            of(label, scheduler)
        assert str(caught.value) == (
            f"sampler '{label}' names the scheduler {said}, and scheduler= is '{scheduler}': give one"
        )
    assert of("Nonsense Karras") == ("Nonsense Karras", None)
    assert of("Karras") == ("Karras", None)


def test_no_two_names_of_the_engine_mean_the_same(names: dict[str, tuple[str, ...]]) -> None:
    for enum, legal in names.items():
        for name in legal:
            assert meant(name, legal) == meant(name.upper(), legal) == meant(name.lower(), legal) == name, enum


def test_other_structs_are_read_too(names: dict[str, tuple[str, ...]]) -> None:
    params = ImageParams(cache=Cache(mode="EasyCache"), hires=Hires(upscaler="lanczos"), prompt="Euler a")
    assert with_engine_names(params, names) == ImageParams(
        cache=Cache(mode="easycache"), hires=Hires(upscaler="Lanczos"), prompt="Euler a"
    )
    high = VideoParams(high_noise_sample_params=SampleParams(sample_method="Euler a"))
    assert with_engine_names(high, names).high_noise_sample_params == SampleParams(sample_method="euler_a")


def test_the_image_is_that_of_the_engines_name(engine: Engine) -> None:
    labelled = engine.generate("a cat", **DRAW, sampler="DPM++ 2M Karras")
    named = engine.generate("a cat", **DRAW, sampler="dpm++2m", scheduler="karras")
    assert labelled.arrays[0].tobytes() == named.arrays[0].tobytes()
    assert labelled.parameters == named.parameters


def test_an_engine_opens_with_names_in_any_case(tiny_model: TinyModel) -> None:
    with Engine(
        **tiny_model.engine_arguments(), type="Q8_0", rng="CPU", lora_apply_mode="AUTO", backend="CPU", isolated=False
    ) as engine:
        drawn = engine.generate("a cat", **DRAW, resize="Crop", alpha="Refuse")  # type: ignore[arg-type]
        context = drawn.record(0, digests=False).context
    assert (context.wtype, context.rng_type, context.lora_apply_mode) == ("q8_0", "cpu", "auto")
    with pytest.raises(ValueError, match="type 'i32' only exists inside the engine"):
        Engine(**tiny_model.engine_arguments(), type="I32")


def test_weight_types_of_other_tools_are_known_in_rules_too() -> None:
    assert check_type("type", "torch.float16") == "f16"
    assert check_rules("rules", "^model=Q8_0,a.*b=torch.bfloat16,") == "^model=q8_0,a.*b=bf16"
    assert check_rules("rules", None) is None


# Keywords.


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("num_inference_steps", r"generate\(\) has no keyword 'num_inference_steps'; use steps="),
        ("guidance_scale", r"use cfg_scale= \(or guidance"),
        ("num_images_per_prompt", "use batch_count="),
        ("sample_steps", "use steps="),
        ("sample_method", "use sampler="),
        ("sampler_name", "use sampler="),
        ("denoising_strength", "use strength="),
        ("txt_cfg", "use cfg_scale="),
        ("n_threads", "use threads= of Engine"),
        ("model_path", "use model= of Engine"),
        ("lora_model_dir", "use lora_dir= of Engine"),
        ("num_frames", "use video_frames= of Engine.generate_video"),
        ("shifted_timestep", r"use SampleParams\(shifted_timestep=...\) inside params=ImageParams\(...\)"),
        ("auto_resize_ref_image", r"use params=ImageParams\(auto_resize_ref_image=...\)"),
        ("vae_tile_size_x", r"use Tiling\(tile_size_x=...\) inside params=ImageParams"),
        ("safety_checker", "leave it out: there is none"),
        ("negativ_prompt", r"; did you mean negative_prompt=\?"),
        ("unet", "use diffusion_model= of Engine"),
        ("text_encoder", "use clip_l= of Engine, t5xxl or llm"),
        ("distilled_cfg_scale", "use guidance="),
        ("size", "use width= and height"),
        ("revision", "leave it out: write it into the reference, 'hf://OWNER/REPO/FILE@REVISION'"),
        ("sample_params", r"use params=ImageParams\(sample_params=...\), for a video VideoParams"),
        ("control_cond", "use control_image="),
        ("lowvram", "use offload_to_cpu= of Engine, with max_vram"),
        ("stacked_id_embed_dir", "use photo_maker= of Engine"),
        ("n", "use batch_count="),
        ("turned", "unexpected keyword argument 'turned'"),  # not "tiling", which has few of its letters
        ("wholly_unheard_of", "got an unexpected keyword argument 'wholly_unheard_of'"),
    ],
)
def test_a_keyword_of_another_tool_is_answered_with_ours(keyword: str, said: str, engine: Engine) -> None:
    with pytest.raises(TypeError, match=said):
        engine.generate("a cat", **{keyword: 1})
    with pytest.raises(TypeError, match=said):
        asyncio.run(engine.agenerate("a cat", **{keyword: 1}))


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("model_path", r"Engine\(\) has no keyword 'model_path'; use model="),
        ("wtype", "use type="),
        ("keep_vae_on_cpu", "use vae_on_cpu="),
        ("vae_decode_only", r"use context=ContextParams\(vae_decode_only=...\)"),
        ("torch_dtype", "use type="),
        ("steps", "use steps= of Engine.generate"),
    ],
)
def test_a_keyword_of_the_engine_is_answered_too(keyword: str, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Engine(**{keyword: 1})


def test_calls_and_attributes_of_other_tools_are_answered(engine: Engine) -> None:
    untyped: Any = engine
    with pytest.raises(TypeError, match=r"use engine.generate\(prompt, ...\)"):
        untyped("a cat")
    with pytest.raises(AttributeError, match=r"'Engine' object has no attribute 'txt_to_img'; use generate\(prompt"):
        untyped.txt_to_img("a cat")
    with pytest.raises(AttributeError, match=r"'fuse_lora'; use generate\(prompt, loras="):
        untyped.fuse_lora()
    with pytest.raises(AttributeError, match=r"no attribute 'unheard_of'$"):
        untyped.unheard_of  # noqa: B018
    with pytest.raises(TypeError, match=r"prompt must be a string, not \['a', 'b'\]; call generate\(\) for each"):
        untyped.generate(["a", "b"])


def test_the_answers_name_what_exists() -> None:
    from sdcffi.engine.keywords import _known
    from sdcffi.params.other_names import _KEYWORDS

    legal = {keyword for keywords in _known.values() for keyword in keywords}
    words = {text: text.replace("(", " ").replace("=", " ").replace(",", " ").split()[0] for text in _KEYWORDS.values()}
    wrong = {text for text, word in words.items() if word not in legal | {"nothing:", "Upscaler", "context"}}
    assert not wrong
    assert not legal & _KEYWORDS.keys(), "a keyword that exists"


def test_files_of_parameters_know_other_names_too() -> None:
    with pytest.raises(ValueError, match=r"p.json: unknown parameter 'num_inference_steps'; use steps"):
        check_keys(["num_inference_steps"], ["steps", "seed"], "p.json")
    with pytest.raises(ValueError, match="unknown parameter 'torch_dtype'; legal: seed, steps"):
        check_keys(["torch_dtype"], ["steps", "seed"], "p.json")


# Messages name what the caller typed.


def test_fields_are_called_by_the_keyword_that_sets_them() -> None:
    paths = {".".join(item.path) for struct in (ImageParams, VideoParams) for item in parameters(struct)}
    said = {path: spoken(path) for path in paths}
    assert said["sample_params.sample_method"] == "sampler"
    assert said["sample_params.guidance.txt_cfg"] == "cfg_scale"
    assert said["sample_params.custom_sigmas"] == "custom_sigmas"
    assert said["sample_params.guidance.slg.layers"] == "slg.layers"
    assert said["high_noise_sample_params.sample_method"] == "high_noise_sampler"
    assert said["high_noise_sample_params.eta"] == "high_noise.eta"
    assert said["vae_tiling_params.tile_size_x"] == "tiling.tile_size_x"
    assert (spoken("wtype"), spoken("sample_method")) == ("type", "sampler")
    assert not [text for text in said.values() if "sample_params" in text]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"sampler": "eulr"}, r"^sampler must be one of euler, .* not 'eulr'"),
        ({"scheduler": "karas"}, r"^scheduler must be one of"),
        ({"tiling": Tiling(tile_size_x=1 << 40)}, r"^tiling.tile_size_x must be "),
        ({"params": ImageParams(sample_params=SampleParams(guidance=Guidance(img_cfg=math.inf)))}, "guidance.img_cfg"),
    ],
)
def test_an_error_names_the_keyword(keywords: dict[str, Any], said: str, engine: Engine) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        engine.generate("a cat", **{**DRAW, **keywords})


def test_signatures_are_still_to_be_seen() -> None:
    import inspect

    assert "steps" in inspect.signature(sdcffi.Engine.generate).parameters
    assert "model" in inspect.signature(sdcffi.Engine).parameters
