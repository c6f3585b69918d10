"""Every field of the built header can be reached from Python, or stands here with its reason."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdcffi import (
    Cache,
    ContextParams,
    Engine,
    Guidance,
    Hires,
    ImageParams,
    Lora,
    PhotoMaker,
    SampleParams,
    SkipLayerGuidance,
    Tiling,
    UnsupportedParameterError,
)
from sdcffi._library import Library, load
from sdcffi._marshal import Marshaller
from sdcffi.params import Embedding, Struct

STRUCTS: list[type[Struct]] = [
    Cache,
    ContextParams,
    Embedding,
    Guidance,
    Hires,
    ImageParams,
    Lora,
    PhotoMaker,
    SampleParams,
    SkipLayerGuidance,
    Tiling,
]

# C fields without a Python field of the same name.
NOT_PUBLIC = {
    "sd_ctx_params_t.embedding_count": "length of embeddings",
    "sd_slg_params_t.layer_count": "length of layers",
    "sd_sample_params_t.custom_sigmas_count": "length of custom_sigmas",
    "sd_pm_params_t.id_images_count": "length of id_images",
    "sd_img_gen_params_t.lora_count": "length of loras",
    "sd_img_gen_params_t.ref_images_count": "length of ref_images",
    "sd_image_t.width": "shape of the array",
    "sd_image_t.height": "shape of the array",
    "sd_image_t.channel": "shape of the array",
    "sd_image_t.data": "the array",
    "sd_vid_gen_params_t.*": "video is not bound yet",
}


@pytest.fixture(scope="module")
def library() -> Library:
    return load()


@pytest.fixture
def marshaller(library: Library) -> Marshaller:
    return Marshaller(library)


def header_fields(library: Library) -> Iterator[str]:
    for name in library.ffi.list_types()[0]:
        ctype = library.ffi.typeof(name)
        if ctype.kind == "struct" and ctype.fields and not name.startswith("sdg_"):
            yield from (f"{name}.{field}" for field, _ in ctype.fields)


def test_every_c_field_is_public_or_has_a_reason(library: Library) -> None:
    public = {f"{struct.C_STRUCT}.{field.name}" for struct in STRUCTS for field in dataclasses.fields(struct)}  # type: ignore[arg-type]
    reasons = set(NOT_PUBLIC)
    everything = set(header_fields(library))
    missing = {field for field in everything - public - reasons if f"{field.partition('.')[0]}.*" not in reasons}
    assert not missing, "fields of the header that nobody can reach"
    unknown = public - everything - {"sd_lora_t.name"}  # a label, which `Lora.given` leaves out
    assert not unknown, "dataclass fields that this header does not have"
    stale = {reason for reason in reasons if not reason.endswith("*") and reason not in everything}
    assert not stale, "reasons for fields that are gone"


def test_engine_and_generate_reach_every_field_of_their_structs() -> None:
    assert "context" in inspect.signature(Engine).parameters
    assert "params" in inspect.signature(Engine.generate).parameters


def sample(struct: type[Struct], pictures: np.ndarray[Any, Any]) -> Struct:
    """An instance with every field set to a value that no default has."""
    values: dict[str, Any] = {
        "embeddings": [Embedding(name="word", path="word.pt")],
        "loras": [Lora("a.safetensors", 0.5, True), Lora("b.safetensors")],
        "sample_params": None,
        "guidance": None,
        "slg": None,
        "layers": [7, 8, 9],
        "custom_sigmas": [1.0, 0.5, 0.25],
        "ref_images": [pictures, pictures],
        "id_images": [pictures],
        "wtype": "q4_0",
        "rng_type": "cpu",
        "sampler_rng_type": "std_default",
        "prediction": "v",
        "lora_apply_mode": "at_runtime",
        "scheduler": "karras",
        "sample_method": "heun",
        "mode": "ucache",
        "upscaler": "Lanczos",
        "vae_tiling_params": Tiling(tile_size_x=3),
        "cache": Cache(mode="easycache"),
        "hires": Hires(scale=3),
        "pm_params": PhotoMaker(style_strength=11),
    }
    given = {}
    for field in dataclasses.fields(struct):  # type: ignore[arg-type]
        kind = str(field.type)
        if field.name in values:
            given[field.name] = values[field.name]
        elif "Pixels" in kind:
            given[field.name] = pictures
        elif "StrPath" in kind or "str" in kind:
            given[field.name] = f"{field.name} é"
        elif "bool" in kind:
            given[field.name] = True
        elif "int" in kind:
            given[field.name] = 12
        else:
            given[field.name] = 0.625
    return struct(**given)


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_field_arrives_in_the_c_struct(struct: type[Struct], library: Library, marshaller: Marshaller) -> None:
    pictures = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    params = sample(struct, pictures)
    target = marshaller.struct(params)
    fields = dict(library.ffi.typeof(target[0]).fields)
    for name, value in params.given().items():
        native, ctype = getattr(target, name), fields[name].type
        if ctype.kind == "enum":
            assert library.enum(ctype)[value] == native, name
        elif isinstance(value, str):
            assert library.text(native) == value, name
        elif isinstance(value, (bool, int, float)):
            assert native == value, name
        elif isinstance(value, np.ndarray):
            assert (native.width, native.height, native.channel) == (5, 4, 3), name
            assert native.data == library.ffi.from_buffer("uint8_t[]", pictures), f"{name} was copied"
        elif isinstance(value, list):
            count = next(key for key in NOT_PUBLIC if NOT_PUBLIC[key] == f"length of {name}").partition(".")[2]
            assert getattr(target, count) == len(value), name
    if isinstance(params, ImageParams):
        assert target.loras[0].multiplier == 0.5
        assert target.loras[0].is_high_noise
        assert library.text(target.loras[1].path) == "b.safetensors"
        assert target.hires.scale == 3
        assert target.ref_images[1].height == 4


def test_a_count_field_is_found_for_each_array(library: Library, marshaller: Marshaller) -> None:
    target = marshaller.struct(
        SampleParams(custom_sigmas=[1.0, 0.5], guidance=Guidance(slg=SkipLayerGuidance(layers=[3])))
    )
    assert target.custom_sigmas_count == 2
    assert [target.custom_sigmas[0], target.custom_sigmas[1]] == [1.0, 0.5]
    assert target.guidance.slg.layer_count == 1
    assert target.guidance.slg.layers[0] == 3


@pytest.mark.parametrize("struct", [ContextParams, SampleParams, ImageParams])
def test_what_is_not_set_keeps_the_native_default(
    struct: type[Struct], library: Library, marshaller: Marshaller
) -> None:
    ours = marshaller.struct(struct())
    theirs = library.ffi.new(f"{struct.C_STRUCT} *")
    getattr(library.lib, struct.C_STRUCT.removesuffix("_t") + "_init")(theirs)
    assert bytes(library.ffi.buffer(ours)) == bytes(library.ffi.buffer(theirs))
    assert any(bytes(library.ffi.buffer(ours)))


def test_a_field_that_this_engine_lacks_is_an_error_only_when_set(marshaller: Marshaller) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(Struct):
        C_STRUCT = "sd_tiling_params_t"
        enabled: bool = True
        temporal_tiling: bool | None = None

    assert marshaller.struct(Later()).enabled
    with pytest.raises(
        UnsupportedParameterError, match=r"temporal_tiling is not a parameter .*stable-diffusion\.cpp \w"
    ):
        marshaller.struct(Later(temporal_tiling=True))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (ImageParams(width=1 << 40), ValueError, r"width must be from -2147483648 to 2147483647, not 1099511627776"),
        (ImageParams(width=1.5), TypeError, r"width must be an integer, not 1\.5"),  # type: ignore[arg-type]
        (ImageParams(width=True), TypeError, r"width must be a number, not True"),
        (ImageParams(width="8"), TypeError, r"width must be a number, not '8'"),  # type: ignore[arg-type]
        (ImageParams(strength=math.nan), ValueError, r"strength must be finite, not nan"),
        (ImageParams(prompt="a\0b"), ValueError, r"prompt must not contain a NUL"),
        (ImageParams(prompt="\ud800"), ValueError, r"prompt cannot be encoded"),
        (ImageParams(prompt=3), TypeError, r"prompt must be a string or a path, not 3"),  # type: ignore[arg-type]
        (SampleParams(scheduler="carras"), ValueError, r"scheduler must be one of discrete, karras.*not 'carras'"),
        (SampleParams(sample_method=1), TypeError, r"sample_method must be one of the names euler"),  # type: ignore[arg-type]
        (SampleParams(guidance=Guidance(txt_cfg=math.inf)), ValueError, r"guidance\.txt_cfg must be finite, not inf"),
        (SampleParams(custom_sigmas=[1.0, math.nan]), ValueError, r"custom_sigmas\[1\] must be finite"),
        (SampleParams(custom_sigmas="1,2"), TypeError, r"custom_sigmas must be a sequence"),  # type: ignore[arg-type]
        (Tiling(enabled=1), TypeError, r"enabled must be True or False, not 1"),  # type: ignore[arg-type]
        (ImageParams(sample_params=SampleParams(eta=math.nan)), ValueError, r"sample_params\.eta must be finite"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_the_legal_set(
    params: Struct, error: type[Exception], message: str, marshaller: Marshaller
) -> None:
    with pytest.raises(error, match=message):
        marshaller.struct(params)


def test_a_path_keeps_its_bytes(library: Library, marshaller: Marshaller, tmp_path: Path) -> None:
    path = tmp_path / "größe 模型.safetensors"
    path.touch()
    target = marshaller.struct(ContextParams(model_path=path))
    assert library.ffi.string(target.model_path) == str(path).encode()
