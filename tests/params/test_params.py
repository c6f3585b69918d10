"""Every field of the built header can be reached from Python, or stands here with its reason."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdcffi
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
    VideoParams,
    cli,
)
from sdcffi._bindings.library import Library, load
from sdcffi._bindings.marshal import Marshaller
from sdcffi._bindings.words import BESIDE, WORDS, PerCall, Word, replaced
from sdcffi.cli._parameter_table import FUNCTIONS, NEWER, UNREACHED, parameter_table
from sdcffi.params.context import Embedding
from sdcffi.params.names import parameters, spoken
from sdcffi.params.struct import Struct

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
    VideoParams,
]


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


def words_of(struct: type[Struct], library: Library) -> list[Word]:
    """The fields of a struct that this header has replaced."""
    return list(replaced(struct.C_STRUCT, dict(library.ffi.typeof(struct.C_STRUCT).fields)))


def header_functions(library: Library) -> set[str]:
    found = {name: getattr(library.lib, name) for name in dir(library.lib) if not name.startswith("sdg_")}
    pointers = {name: value for name, value in found.items() if isinstance(value, library.ffi.CData)}
    return {name for name, value in pointers.items() if library.ffi.typeof(value).kind == "function"}


def test_every_c_field_is_public_or_has_a_reason(library: Library) -> None:
    public = {f"{struct.C_STRUCT}.{field.name}" for struct in STRUCTS for field in dataclasses.fields(struct)}  # type: ignore[arg-type]
    reasons = {name for name in UNREACHED if "." in name}
    everything = set(header_fields(library))
    newer = {name for name in NEWER if "." in name}
    assert not everything - public - reasons - newer, "fields of the header that nobody can reach"
    labels = {"sd_lora_t.name", "sd_lora_t.weights"}  # which `Lora.given` leaves out
    labels |= {f"{struct.C_STRUCT}.{name}" for struct in STRUCTS for name in struct.NOT_IN_C}
    words = {f"{struct.C_STRUCT}.{word.name}" for struct in STRUCTS for word in words_of(struct, library)}
    words |= {f"{struct}.{name}" for struct, name in BESIDE}
    assert not public - everything - words - labels, "dataclass fields that this header does not have"
    assert not everything & newer or newer <= everything, "one header's new fields, of which some are gone"
    assert not newer & (public | reasons)
    assert not reasons - everything, "reasons for fields that are gone"
    assert not reasons & public, "reasons for fields that can be reached"


def test_every_function_is_reached_or_has_a_reason(library: Library) -> None:
    reasons = {name for name in UNREACHED if "." not in name}
    newer = {name for name in NEWER if "." not in name}
    everything = header_functions(library)
    assert everything - newer == FUNCTIONS.keys() | reasons
    assert not everything & newer or newer <= everything, "one header's new functions, of which some are gone"
    assert not newer & (FUNCTIONS.keys() | reasons)
    assert not FUNCTIONS.keys() & reasons


def test_what_functions_are_reached_by_exists() -> None:
    for python in FUNCTIONS.values():
        found: Any = sdcffi
        for name in python.split("."):
            found = getattr(found, name, None)
        assert found is not None, python


def test_the_table_in_the_docs_is_that_of_the_build() -> None:
    """The page is that of the default engine; another one's differs in its commit and in defaults of its own."""
    written = Path(sdcffi.__file__).with_name("docs") / "parameters.md"
    expected = written.read_text(encoding="utf-8").splitlines()
    found = list(parameter_table())
    advice = "run: python -m sdcffi info --parameters > sdcffi/docs/parameters.md"
    assert len(found) == len(expected), advice
    differing = [line for line, other in zip(found, expected, strict=True) if line != other]
    if differing and re.fullmatch(r"\w+\.", differing[0]):  # the commit
        assert [line.split()[1] for line in differing[1:]] == ["auto_resize_ref_image"], advice
    else:
        assert not differing, advice


@pytest.mark.parametrize(("command", "struct"), [("generate", ImageParams), ("video", VideoParams)])
def test_every_parameter_has_its_flag(command: str, struct: type[Struct]) -> None:
    values = {bool: [], int: ["1"], float: ["0.5"], str: ["x"]}
    for item in (*parameters(ContextParams), *parameters(struct)):
        options = cli.parser().parse_args([command, item.flag, *(["1"] if item.many else values[item.kind])])
        assert getattr(options, item.name) is not None, item.flag


@pytest.mark.parametrize(("command", "struct"), [("generate", ImageParams), ("video", VideoParams)])
def test_every_parameter_is_in_the_whole_help(
    command: str, struct: type[Struct], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help-all"]) == 0
    listed = set(re.findall(r"(?<![\w-])--[\w-]+", capfd.readouterr().out))
    assert {item.flag for item in (*parameters(ContextParams), *parameters(struct))} <= listed


def test_parts_on_the_cpu_have_one_pattern_and_the_spelling_of_sd_cli() -> None:
    for flag in ("--control-net-on-cpu", "--control-net-cpu"):
        assert cli.parser().parse_args(["generate", flag]).control_net_on_cpu


def test_engine_and_generate_reach_every_field_of_their_structs() -> None:
    assert "context" in inspect.signature(Engine).parameters
    assert "params" in inspect.signature(Engine.generate).parameters
    assert "params" in inspect.signature(Engine.generate_video).parameters


def sample(struct: type[Struct], pictures: np.ndarray[Any, Any]) -> Struct:
    """An instance with every field set to a value that no default has."""
    values: dict[str, Any] = {
        "embeddings": [Embedding(name="word", path="word.pt")],
        "vae_decode_only": False,
        "free_params_immediately": False,
        "loras": [Lora("a.safetensors", 0.5, True), Lora("b.safetensors")],
        "sample_params": None,
        "high_noise_sample_params": SampleParams(sample_steps=5),
        "control_frames": [pictures, pictures],
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
    words = {word.name for word in words_of(struct, library)}
    for name, value in params.native().items():
        if (struct.C_STRUCT, name) in BESIDE:
            assert getattr(marshaller.read(target[0], params), name) == value, name
            continue
        if name in words:
            assert getattr(marshaller.read(target[0], params), name) == value, name
            continue
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
            count = next(
                key for key in fields if key in (f"{name}_size", f"{name.removesuffix('s')}_count", f"{name}_count")
            )
            assert getattr(target, count) == len(value), name
    if isinstance(params, ImageParams):
        assert target.loras[0].multiplier == 0.5
        assert target.loras[0].is_high_noise
        assert library.text(target.loras[1].path) == "b.safetensors"
        assert target.hires.scale == 3
        assert target.ref_images[1].height == 4
    if isinstance(params, VideoParams):
        assert target.high_noise_sample_params.sample_steps == 5
        assert target.control_frames[1].data == target.init_image.data


def test_what_this_header_has_replaced_can_be_told_to_it(library: Library) -> None:
    for word in WORDS:
        fields = dict(library.ffi.typeof(word.struct).fields)
        if word not in replaced(word.struct, fields):
            continue
        if isinstance(word, PerCall):
            calls = [dict(library.ffi.typeof(call.C_STRUCT).fields) for call in (ImageParams, VideoParams)]
            assert all(call[word.name].type.kind == "primitive" for call in calls)
        elif word.field:
            assert fields[word.field].type.cname == "char *"
        else:
            assert word.said(not word.default) is None, "said nowhere"


def test_a_count_field_is_found_for_each_array(library: Library, marshaller: Marshaller) -> None:
    target = marshaller.struct(
        SampleParams(custom_sigmas=[1.0, 0.5], guidance=Guidance(slg=SkipLayerGuidance(layers=[3])))
    )
    assert target.custom_sigmas_count == 2
    assert [target.custom_sigmas[0], target.custom_sigmas[1]] == [1.0, 0.5]
    assert target.guidance.slg.layer_count == 1
    assert target.guidance.slg.layers[0] == 3


@pytest.mark.parametrize("struct", [ContextParams, SampleParams, ImageParams, VideoParams])
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
        of_tomorrow: bool | None = None

    assert marshaller.struct(Later()).enabled
    with pytest.raises(UnsupportedParameterError, match=r"stable-diffusion\.cpp \w.* no parameter of_tomorrow"):
        marshaller.struct(Later(of_tomorrow=True))


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_name_that_only_another_engine_has_is_refused_with_those_of_this_one(
    struct: type[Struct], library: Library, marshaller: Marshaller
) -> None:
    fields = dict(library.ffi.typeof(struct.C_STRUCT).fields)
    public = {item.name for item in dataclasses.fields(struct)}  # type: ignore[arg-type]
    enums = {name: field.type for name, field in fields.items() if field.type.kind == "enum" and name in public}
    assert bool(enums) == (struct in (Cache, ContextParams, Hires, SampleParams))
    for name, ctype in enums.items():
        legal = re.escape(", ".join(library.enum(ctype)))
        target = library.ffi.new(f"{struct.C_STRUCT} *")
        with pytest.raises(ValueError, match=rf"{spoken(name)} must be one of {legal}, not 'of_tomorrow'"):
            marshaller.fill(target[0], struct(**{name: "of_tomorrow"}))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (ImageParams(width=1 << 40), ValueError, r"width must be from -2147483648 to 2147483647, not 1099511627776"),
        (ImageParams(strength=math.nan), ValueError, r"strength must be finite, not nan"),
        (ImageParams(strength=1e39), ValueError, r"strength must be finite, not 1e\+39"),
        (ImageParams(prompt="a\0b"), ValueError, r"prompt must not contain a NUL"),
        (ImageParams(prompt="\ud800"), ValueError, r"prompt cannot be encoded"),
        (SampleParams(scheduler="carras"), ValueError, r"scheduler must be one of discrete, karras.*not 'carras'"),
        (SampleParams(guidance=Guidance(txt_cfg=math.inf)), ValueError, r"guidance\.txt_cfg must be finite, not inf"),
        (SampleParams(custom_sigmas=[1.0, math.nan]), ValueError, r"custom_sigmas\[1\] must be finite"),
        (SampleParams(custom_sigmas="1,2"), TypeError, r"custom_sigmas must be a sequence"),  # type: ignore[arg-type]
        (ImageParams(sample_params=SampleParams(eta=math.nan)), ValueError, r"^eta must be finite"),
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
