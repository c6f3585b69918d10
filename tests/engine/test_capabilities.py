"""What an engine says that it can do is what it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from engine_defaults import IMAGE
from engines import has_field
from tiny_model import TinyModel

from sdcffi import (
    Cache,
    Capabilities,
    ContextParams,
    Engine,
    Hires,
    ImageParams,
    Log,
    SampleParams,
    UnsupportedParameterError,
)
from sdcffi._bindings.library import load
from sdcffi._bindings.requests import Offer
from sdcffi._bindings.session import _ENUMS
from sdcffi._checks.image import check_image
from sdcffi._checks.sampling import check_preview
from sdcffi._machine.builds import locate
from sdcffi._machine.devices import Device
from sdcffi._models.architectures import _TABLE
from sdcffi._models.files import Model, ModelFile
from sdcffi._models.weight_types import block_sizes
from sdcffi.engine.capabilities import describe

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {"width": 32, "height": 32, "steps": 2, "cfg_scale": 1.0, "seed": 7}
PICTURE = np.zeros((64, 64, 3), np.uint8)
CPU = Device("CPU", "a processor", "cpu", "cpu", 0, 0)


@pytest.fixture(scope="module")
def found(shared: Engine) -> Capabilities:
    return shared.capabilities()


@pytest.fixture(scope="module")
def offer() -> Iterator[Offer]:
    """What this build offers, without a model."""
    library = load()
    names = {enum: tuple(library.enum(library.ffi.typeof(f"enum {enum}"))) for enum in _ENUMS}
    return Offer(True, False, "euler", "discrete", "0123abc", names)


def of_kind(kind: str, offer: Offer, **facts: Any) -> Capabilities:
    return describe(offer, Model(architecture=_TABLE[kind], **facts), CPU)


def test_they_name_the_model_and_what_it_runs_on(found: Capabilities, shared: Engine) -> None:
    assert (found.family, found.title, found.image, found.video) == ("flux2", "FLUX.2", True, False)
    assert (found.pixel_multiple, found.backend, found.device) == (16, "cpu", shared.device.description)
    assert (found.default_sampler, found.default_scheduler) == ("euler", "discrete")
    built = locate().manifest["upstream"]["commit"]
    assert found.engine_commit == built[: len(found.engine_commit)] != ""


def test_they_go_through_json(found: Capabilities) -> None:
    assert (
        Capabilities(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in json.loads(json.dumps(found.as_dict())).items()
            }
        )
        == found
    )


def test_their_defaults_are_what_the_engine_takes(found: Capabilities, shared: Engine) -> None:
    lines: list[Log] = []
    shared.generate("a cat", **DRAW, on_log=lines.append)
    assert any(f"sampling using {found.default_sampler.capitalize()} method" in line.text for line in lines)
    assert any(f"get_sigmas with {found.default_scheduler} scheduler" in line.text.lower() for line in lines)


@pytest.mark.parametrize(
    ("enum", "attribute", "left_out"),
    [
        ("sample_method_t", "samplers", {"tcd", "euler_cfg_pp", "euler_a_cfg_pp", "dpm++2m_sde_bt"}),
        ("scheduler_t", "schedulers", {"ays", "gits"}),
        ("sd_cache_mode_t", "cache_modes", {"disabled", "ucache"}),
        ("sd_hires_upscaler_t", "hires_upscalers", {"None"}),
        ("preview_t", "preview_modes", {"none"}),
        ("lora_apply_mode_t", "lora_apply_modes", set()),
        ("rng_type_t", "rngs", set()),
        ("prediction_t", "predictions", set()),
        ("sd_type_t", "weight_types", {"q8_1", "q8_K", "i8", "i16", "i32", "i64", "f64", "q1_0"}),
    ],
)
def test_names_are_the_headers_less_what_does_not_act(
    enum: str, attribute: str, left_out: set[str], found: Capabilities
) -> None:
    library = load()
    values = library.ffi.typeof(f"enum {enum}").elements
    every = set(library.enum(library.ffi.typeof(f"enum {enum}")))
    left_out = left_out & every  # some are of a newer engine
    names = getattr(found, attribute)
    assert len(set(names)) == len(names) == sum(not key.endswith("_COUNT") for key in values.values()) - len(left_out)
    assert not left_out & set(names)
    assert set(names) | left_out == every


def test_weight_types_are_those_that_a_conversion_takes(found: Capabilities) -> None:
    assert set(found.weight_types) == set(block_sizes())


def test_each_sampler_and_scheduler_named_is_taken_and_no_other(found: Capabilities, shared: Engine) -> None:
    model = shared._model
    for scheduler in ("ays", "gits", *found.schedulers):
        params = ImageParams(width=64, height=64).updated(_sampling(scheduler))
        if scheduler in found.schedulers:
            check_image(params, model, IMAGE)
        else:
            with pytest.raises(ValueError, match=scheduler):
                check_image(params, model, IMAGE)


def _sampling(scheduler: str) -> ImageParams:
    return ImageParams(sample_params=SampleParams(scheduler=scheduler))


def test_a_cache_mode_not_named_is_refused(found: Capabilities, shared: Engine) -> None:
    assert "ucache" not in found.cache_modes
    with pytest.raises(ValueError, match=r"'ucache' has no effect on FLUX\.2; use spectrum, easycache"):
        shared.generate("a cat", **DRAW, cache=Cache(mode="ucache"))


def test_pictures_are_taken_where_they_say_so(found: Capabilities, shared: Engine) -> None:
    assert found.init_image is found.mask_image is found.ref_images is True
    shared.generate("a cat", **{**DRAW, "steps": 1}, init_image=PICTURE[:32, :32].copy(), ref_images=[PICTURE])
    assert found.control_image is found.photo_maker is found.embeddings is False
    with pytest.raises(ValueError, match="control_image needs a ControlNet"):
        shared.generate("a cat", **DRAW, control_image=PICTURE[:32, :32].copy())


def test_without_an_encoder_no_picture_goes_in(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    context = ContextParams(vae_decode_only=True)
    if not has_field("sd_ctx_params_t", "vae_decode_only"):
        with pytest.raises(UnsupportedParameterError, match="the encoder is always loaded: leave it out"):
            open_engine(tiny_model, context=context, isolated=False)
        return
    engine = open_engine(tiny_model, context=context, isolated=False)
    found = engine.capabilities()
    assert found.init_image is found.mask_image is found.ref_images is False
    assert all(name.startswith("Latent") for name in found.hires_upscalers)
    with pytest.raises(ValueError, match="'Lanczos' needs an autoencoder with an encoder"):
        engine.generate("a cat", **DRAW, hires=Hires(upscaler="Lanczos"))
    engine.generate("a cat", **DRAW, hires=Hires(upscaler="Latent", steps=1))


def test_an_engine_without_weights_knows_them_too(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    assert open_engine(tiny_model, load_weights=False, isolated=False).capabilities().default_sampler == "euler"


def test_a_unet_has_other_caches_schedulers_and_inputs(offer: Offer) -> None:
    found = of_kind("sd1", offer, encodes=True, takes_hint=False)
    assert (set(found.cache_modes), "ays" in found.schedulers) == ({"ucache", "spectrum"}, True)
    assert (found.init_image, found.ref_images, found.embeddings, found.pixel_multiple) == (True, False, True, 64)
    assert "ays" not in of_kind("sd2", offer).schedulers
    assert of_kind("sdxl", offer).embeddings is False
    assert of_kind("sd1", offer, takes_hint=True).control_image is True


@pytest.mark.parametrize("kind", sorted(_TABLE))
def test_every_cache_mode_is_named_or_refused(kind: str, offer: Offer) -> None:
    model = Model(architecture=_TABLE[kind])
    named = of_kind(kind, offer).cache_modes
    for mode in set(offer.names["sd_cache_mode_t"]) - {"disabled"}:
        params = ImageParams(cache=Cache(mode=mode), width=64, height=64)
        if model.is_video or mode in named:
            assert model.is_video or check_image(params, model, IMAGE)
        else:
            with pytest.raises(ValueError, match=f"'{mode}' has no effect"):
                check_image(params, model, IMAGE)
    assert set(named) == set(_TABLE[kind].acting_caches)


def test_previews_by_the_tiny_autoencoder_need_one(offer: Offer) -> None:
    file = ModelFile("model_path", __file__, "safetensors", {})  # type: ignore[arg-type]
    whole = Model(files=(file,), architecture=_TABLE["sd1"], parts=frozenset({"vae"}))
    assert describe(offer, whole, CPU).preview_modes == ("proj", "vae")
    with pytest.raises(ValueError, match=r"preview='tae' needs a tiny autoencoder: pass taesd= .*'proj' or 'vae'"):
        check_preview("tae", whole)
    tiny = Model(files=(file,), architecture=_TABLE["sd1"], parts=frozenset({"taesd"}))
    check_preview("tae", tiny)
    assert "tae" in describe(offer, tiny, CPU).preview_modes


def test_a_model_that_is_not_known_leaves_open_what_it_takes(offer: Offer) -> None:
    found = describe(offer, Model(), CPU)
    assert found.family is found.title is found.init_image is found.ref_images is found.pixel_multiple is None
    assert set(found.cache_modes) == set(offer.names["sd_cache_mode_t"]) - {"disabled"}
    assert found.schedulers == offer.names["scheduler_t"]
