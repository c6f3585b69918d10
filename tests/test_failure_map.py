"""Inputs that kill or mislead a plain binding, each once through the public API, in both modes.

REFUSED: Python says no before anything native is asked. UNCHECKED: the same with Python's checks taken away, to see
that what stands behind them holds. There the isolated engine raises whatever happens, in this process. Without
isolation it runs in a process of its own, which ends with an exception or, where the table says so, may only crash.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fuzz_files
import numpy as np
import pytest
from engines import has_field
from header_files import PAIR, gguf_bytes, metadata, safetensors_bytes, write
from model_headers import ALONE, CONTROL, FLUX, FLUX2, LLM, SD1
from tiny_model import TinyModel, write_model

from sdcffi import (
    Cache,
    ContextParams,
    Engine,
    Hires,
    ImageParams,
    Lora,
    LoraError,
    NativeCrashError,
    SampleParams,
    SDError,
    SkipLayerGuidance,
    Tiling,
    convert,
)
from sdcffi._models.files import Model
from sdcffi._process import calls as _calls

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7, "timeout": 60}
NAN = float("nan")


@dataclass
class Place:
    """Where a row acts: the tiny model, an engine on it where one is needed, and a directory to write into."""

    model: TinyModel
    directory: Path
    isolated: bool
    engines: ExitStack = field(default_factory=ExitStack)
    opened: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self.opened is None:
            self.opened = self.open()
        return self.opened

    def open(self, **keywords: Any) -> Engine:
        """Open an engine; other model files than the tiny model's take the place of all of them."""
        files = {} if {"model", "diffusion_model"} & keywords.keys() else self.model.engine_arguments()
        arguments = {**files, "threads": 1, "backend": "cpu", "isolated": self.isolated, **keywords}
        return self.engines.enter_context(Engine(**arguments))

    def with_part(self, slot: str, content: bytes, name: str = "bad") -> Engine:
        """Open an engine on the tiny model with one file of other content."""
        return self.open(**{**self.model.engine_arguments(), slot: self.file(content, name)})

    def with_files(self, **shapes: Any) -> Engine:
        """Open an engine on files of ones."""
        paths = {slot: write(self.directory / f"{slot}.safetensors", value) for slot, value in shapes.items()}
        return self.open(**paths)

    def file(self, content: bytes, name: str = "bad") -> Path:
        path = self.directory / f"{name}{'.gguf' if content[:4] == b'GGUF' else '.safetensors'}"
        path.write_bytes(content)
        return path

    def draw(self, prompt: str = "a cat", **keywords: Any) -> Any:
        return self.engine.generate(prompt, **{**DRAW, **keywords})

    def draw_unscaled(self, reference: Any) -> Any:
        """Draw with a reference image as it is; newer engines scale it unless told not to."""
        return self.draw(ref_images=[reference], params=ImageParams(auto_resize_ref_image=False))

    def film(self, **keywords: Any) -> Any:
        return self.engine.generate_video("a cat", **{**DRAW, **keywords})

    def sample(self, **fields: Any) -> Any:
        return self.draw(params=ImageParams(sample_params=SampleParams(**fields)))

    def convert(self, source: Path | None = None, type: str = "f16", name: str = "out.gguf", **keywords: Any) -> Any:
        return convert(
            source or self.model.diffusion_model, self.directory / name, type=type, isolated=self.isolated, **keywords
        )

    def lora(self, content: bytes) -> Any:
        return self.engine.check_loras([self.file(content, "lora")])


Act = Callable[[Place], Any]


@dataclass(frozen=True)
class Row:
    """A line of the map: what to do, and how it is refused."""

    line: str
    act: Act
    error: type[Exception]
    said: str


def json_bytes(header: Any, data: bytes = b"1234") -> bytes:
    return safetensors_bytes(header, data)


def picture(height: int = 64, width: int = 64, channels: int = 3) -> Any:
    return np.zeros((height, width, channels), np.uint8)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NESTED = gguf_bytes(entries=1, metadata=fuzz_files.nested_array(100_000))
ALIGNED = gguf_bytes(entries=1, metadata=metadata(b"general.alignment", 10, struct.pack("<Q", 32)))

BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "empty"),
    ("text", b"this is no model at all", "it is text, which begins"),
    ("JSON array as header", json_bytes([1, 2]), "must be a JSON object, not a list"),
    ("entry that is no object", json_bytes({"t": 1}), "a JSON object"),
    ("entry without dtype", json_bytes({"t": {"shape": [1], "data_offsets": [0, 4]}}), "dtype None"),
    ("entry without data_offsets", json_bytes({"t": {"dtype": "F32", "shape": [1]}}), "data_offsets None"),
    ("bad JSON", json_bytes(b'{"t": '), "not valid JSON"),
    ("type BOOL", json_bytes({"t": {**ENTRY, "dtype": "BOOL"}}), "dtype 'BOOL'"),
    ("six dimensions", json_bytes({"t": {**ENTRY, "shape": [1] * 6}}), "at most 5 dimensions in safetensors, not 6"),
    ("data truncated", json_bytes({"t": {**ENTRY, "shape": [9], "data_offsets": [0, 36]}}), "truncated"),
    ("header of 2**40 bytes", struct.pack("<Q", 1 << 40) + b"{}" + bytes(9), "claims"),
    ("gguf truncated in its header", gguf_bytes()[:30], "the file is shorter"),
    ("gguf data truncated", gguf_bytes(data=3), "truncated"),
    (
        "gguf with a name of 2**62 bytes",
        gguf_bytes()[:24] + struct.pack("<Q", 1 << 62) + bytes(64),
        "a name in the header",
    ),
    ("gguf with 2**31 dimensions", gguf_bytes()[:38] + b"\0\0\0\x80" + bytes(64), "at most 4 dimensions"),
    ("gguf with nested arrays", NESTED, "type 9"),
    ("gguf with a dimension of 0", gguf_bytes(shape=(32, 0)), "no elements"),
    ("gguf alignment that is no u32", ALIGNED, "general.alignment"),
    *((f"gguf of type {kind}", gguf_bytes(kind=kind), f"type {kind} is not") for kind in (4, 31, 36, 99, 1 << 31)),
    ("gguf with %n in a name of a bad file", gguf_bytes(name=b"%n%s%n", kind=99), "type 99 is not"),
    (
        "gguf version must be 2 or 3 (little-endian), not 1",
        gguf_bytes(version=1),
        "gguf version must be 2 or 3 (little-endian), not 1",
    ),
]
FILES = [
    *(
        Row(
            f"{slot}: {line}",
            lambda place, slot=slot, content=content: place.with_part(slot, content),
            ValueError,
            said,
        )
        for line, content, said in BAD_FILES
        for slot in ("diffusion_model", "llm", "taesd")
        if slot == "diffusion_model" or line == "empty"  # one reader for all
    ),
    Row("convert: empty", lambda place: place.convert(place.file(b"")), ValueError, "empty"),
    Row("lora: empty", lambda place: place.lora(b""), LoraError, "empty"),
    *(
        Row(
            f"{slot} does not exist",
            lambda place, slot=slot: place.open(**{**place.model.engine_arguments(), slot: "/does/not/exist"}),
            ValueError,
            f"{slot}: '/does/not/exist' does not exist",
        )
        for slot in ("model", "diffusion_model", "vae", "taesd", "clip_l", "t5xxl", "llm", "control_net", "photo_maker")
    ),
    Row(
        "a directory without diffusers layout",
        lambda place: place.open(model=place.directory),
        ValueError,
        "has no file of weights",
    ),
    Row("an unrelated file", lambda place: place.with_files(model=ALONE), ValueError, "is an autoencoder"),
    Row("a LoRA as model", lambda place: place.with_files(model=PAIR), ValueError, "is a LoRA"),
    Row(
        "no text encoder: FLUX.2", lambda place: place.with_files(diffusion_model=FLUX2, vae=ALONE), ValueError, "llm="
    ),
    Row("no text encoder: FLUX", lambda place: place.with_files(diffusion_model=FLUX, vae=ALONE), ValueError, "t5xxl="),
    Row("no VAE", lambda place: place.with_files(diffusion_model=FLUX2, llm=LLM), ValueError, "vae= or taesd="),
    Row(
        "ControlNet with a transformer",
        lambda place: place.with_files(diffusion_model=FLUX2, llm=LLM, vae=ALONE, control_net=CONTROL),
        ValueError,
        "control_net: FLUX.2",
    ),
    Row(
        "an embedding of integers",
        lambda place: place.open(
            model=write(place.directory / "m.safetensors", SD1, np.float16),
            embeddings={"word": write(place.directory / "e.safetensors", {"emb_params": (2, 768)}, np.int64)},
        ),
        ValueError,
        "must be one of F32",
    ),
    Row("weights of integers", lambda place: place.with_part("diffusion_model", integers(place)), ValueError, "I64"),
]


def integers(place: Place) -> bytes:
    """The transformer with one matrix of 64-bit integers."""
    content = fuzz_files.read_content(place.model.diffusion_model)
    name = "model.diffusion_model.double_blocks.1.img_mlp.2.weight"
    shape = content[name].shape
    return fuzz_files.safetensors_bytes(
        {**content, name: fuzz_files.Entry("I64", shape, bytes(8 * shape[0] * shape[1]))}
    )


CONTEXT = [
    *(
        Row(
            f"wtype {kind}",
            lambda place, kind=kind: place.open(type=kind),
            ValueError,
            f"type {kind!r} only exists inside the engine",
        )
        for kind in ("q8_1", "q8_K", "i8", "i16", "i32", "i64", "f64")
    ),
    Row("wtype of a removed number", lambda place: place.open(type=4), TypeError, "type must be a string, not 4"),
    Row("wtype of an unknown name", lambda place: place.open(type="q9_0"), ValueError, "type must be one of f32, f16"),
    Row(
        "rules: bad regex", lambda place: place.open(tensor_type_rules="[=f16"), ValueError, "not a regular expression"
    ),
    Row("rules: unknown type", lambda place: place.open(tensor_type_rules="a=q9"), ValueError, "type 'q9'"),
    Row("n_threads 0", lambda place: place.open(threads=0), ValueError, "threads must be from 1 to 512"),
    Row("n_threads -1", lambda place: place.open(threads=-1), ValueError, "threads must be from 1 to 512"),
    Row("n_threads 10000", lambda place: place.open(threads=10_000), ValueError, "not 10000"),
    Row("embeddings NULL", lambda place: place.open(embeddings={"a": None}), TypeError, "must be a path, not None"),
    Row("params NULL", lambda place: place.open(diffusion_model=None), ValueError, "there is no model to load"),
]
CALLS = [
    Row("width 0", lambda place: place.draw(width=0), ValueError, "width must be from 1 to 16384, not 0"),
    Row("width -5", lambda place: place.draw(width=-5), ValueError, "not -5"),
    Row("width -64", lambda place: place.draw(width=-64), ValueError, "not -64"),
    Row("2 000 000²", lambda place: place.draw(width=2_000_000, height=2_000_000), ValueError, "not 2000000"),
    Row("steps 0", lambda place: place.draw(steps=0), ValueError, "steps must be from 1 to 10000, not 0"),
    Row("steps 1.5", lambda place: place.draw(steps=1.5), TypeError, "steps must be an integer, not 1.5"),
    Row("steps < 0", lambda place: place.draw(steps=-1), ValueError, "not -1"),
    *(
        Row(f"{name} + steps 1", lambda place, name=name: place.draw(scheduler=name), ValueError, "at least 2")
        for name in ("gits",)
    ),
    Row("gits on a flow model", lambda place: place.draw(scheduler="gits", steps=4), ValueError, "a flow model"),
    Row("TCD on a flow model", lambda place: place.draw(sampler="tcd", steps=4), ValueError, "a flow model"),
    Row("AYS on a transformer", lambda place: place.draw(scheduler="ays", steps=4), ValueError, "no table for FLUX.2"),
    Row("eta NaN with TCD", lambda place: place.draw(sampler="tcd", eta=NAN), ValueError, "eta must be finite"),
    Row("eta 5 with TCD", lambda place: place.draw(sampler="tcd", eta=5), ValueError, "with the sampler tcd"),
    Row("cfg NaN", lambda place: place.draw(cfg_scale=NAN), ValueError, "cfg_scale must be finite"),
    Row("cfg inf", lambda place: place.draw(cfg_scale=float("inf")), ValueError, "cfg_scale must be finite"),
    Row(
        "cfg of 400 digits",
        lambda place: place.draw(cfg_scale=10**400),
        ValueError,
        "cfg_scale must be finite, not 1000",
    ),
    Row("seed of 5000 digits", lambda place: place.draw(seed=10**5000), ValueError, "thousands of digits"),
    Row(
        "LoRA of 400 digits",
        lambda place: place.draw(loras=[Lora(place.model.lora, 10**400)]),
        ValueError,
        "must be finite, not 1000",
    ),
    Row(
        "scm_mask of a list",
        lambda place: place.draw(cache=Cache(mode="dbcache", scm_mask=[1, 0])),  # type: ignore[arg-type]
        TypeError,
        "cache.scm_mask must be a string, not [1, 0]",
    ),
    Row("seed 2^63", lambda place: place.draw(seed=1 << 63), ValueError, f"seed must be at most {(1 << 63) - 1}"),
    Row(
        "seeds up to 2^63",
        lambda place: place.draw(seed=(1 << 63) - 1, batch_count=2),
        ValueError,
        f"seed must be at most {(1 << 63) - 2}",
    ),
    Row("preview without a function", lambda place: place.draw(preview="proj"), ValueError, "needs on_preview"),
    Row("loras of a number", lambda place: place.draw(loras=7), TypeError, "loras must be a sequence"),
    Row("LoRA NaN", lambda place: place.draw(loras=[Lora(place.model.lora, NAN)]), ValueError, "must be finite"),
    Row("strength < 0", lambda place: place.draw(init_image=picture(), strength=-1), ValueError, "from 0 to 1, not -1"),
    Row("strength NaN", lambda place: place.draw(init_image=picture(), strength=NAN), ValueError, "must be finite"),
    Row("strength > 1", lambda place: place.draw(init_image=picture(), strength=2), ValueError, "from 0 to 1, not 2"),
    Row("hires NaN", lambda place: place.draw(hires=Hires(denoising_strength=NAN)), ValueError, "must be finite"),
    Row("batch_count 0", lambda place: place.draw(batch_count=0), ValueError, "batch_count must be from 1"),
    Row("batch_count -1", lambda place: place.draw(batch_count=-1), ValueError, "batch_count must be from 1"),
    Row("slg.layers NULL", lambda place: place.draw(slg=SkipLayerGuidance(layers=5)), TypeError, "must be a sequence"),  # type: ignore[arg-type]
    Row("custom_sigmas 0", lambda place: place.sample(custom_sigmas=[1.0, 0.0, 0.0]), ValueError, "must be above 0"),
    Row("custom_sigmas NaN", lambda place: place.sample(custom_sigmas=[NAN, 0.0]), ValueError, "must be finite"),
    Row("custom_sigmas empty", lambda place: place.sample(custom_sigmas=[]), ValueError, "not 0"),
    Row("clip_skip 101", lambda place: place.draw(clip_skip=101), ValueError, "clip_skip must be from -1 to 100"),
    *(
        Row(
            f"{name} of {channels} channels",
            lambda place, name=name, channels=channels: place.draw(**{name: picture(channels=channels)}),
            ValueError,
            said,
        )
        for name in ("init_image", "control_image")
        for channels, said in ((2, "must be a uint8 or float (0 to 1) array"), (4, "has transparent pixels"))
    ),
    Row("init image of 0 rows", lambda place: place.draw(init_image=picture(0)), ValueError, "must be a uint8"),
    Row("init image of another size", lambda place: place.draw(init_image=picture(32)), ValueError, "pass resize="),
    Row(
        "mask of 3 channels",
        lambda place: place.draw(
            init_image=picture(), mask_image=np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
        ),
        ValueError,
        "mask_image has colours",
    ),
    Row(
        "mask of another size",
        lambda place: place.draw(init_image=picture(), mask_image=picture(32, 32, 1)),
        ValueError,
        "make them the same size",
    ),
    Row(
        "mask alone",
        lambda place: place.draw(mask_image=picture(channels=1)),
        ValueError,
        "mask_image needs init_image",
    ),
    Row("control_image", lambda place: place.draw(control_image=picture()), ValueError, "needs a ControlNet"),
    Row("tiny ref image", lambda place: place.draw(ref_images=[picture(4, 4)]), ValueError, "at least 64"),
    Row("ref image of 70x64", lambda place: place.draw_unscaled(picture(64, 70)), ValueError, "multiples of 16"),
    Row("tiling NaN", lambda place: place.draw(tiling=Tiling(target_overlap=NAN)), ValueError, "must be finite"),
    Row("tiling < 0", lambda place: place.draw(tiling=Tiling(tile_size_x=-1)), ValueError, "tile_size_x must be"),
    Row("prompt of 60 000", lambda place: place.draw("x" * 60_000), ValueError, "at most 50000 bytes"),
    Row("prompt with NUL", lambda place: place.draw("a\0b"), ValueError, "must not contain a NUL"),
    Row("prompt of no UTF-8", lambda place: place.draw("\ud800"), ValueError, "cannot be encoded as UTF-8"),
    Row("prompt NULL", lambda place: place.draw(None), TypeError, "prompt must be a string, not None"),  # type: ignore[arg-type]
    Row("LoRA of integers", lambda place: place.lora(integer_lora()), LoraError, "may be integers"),
    Row("LoRA does not exist", lambda place: place.draw(loras=["/no.safetensors"]), LoraError, "does not exist"),
    Row("generate_video on an image model", lambda place: place.film(), ValueError, "FLUX.2 generates images only"),
    Row("unknown sampler", lambda place: place.draw(sampler=3), TypeError, "sampler must be a string, not 3"),
    Row("sampler of no name", lambda place: place.draw(sampler="eulr"), ValueError, "sampler must be one of"),
]


def integer_lora() -> bytes:
    entry = {"dtype": "I32", "shape": [4, 4], "data_offsets": [0, 64]}
    other = {"dtype": "I32", "shape": [4, 4], "data_offsets": [64, 128]}
    return json_bytes({"m.lora_down.weight": entry, "m.lora_up.weight": other}, bytes(128))


CONVERSIONS = [
    Row("input missing", lambda place: place.convert(Path("/does/not/exist")), ValueError, "does not exist"),
    Row("no directory", lambda place: place.convert(name="no/out.gguf"), ValueError, "does not exist"),
    Row("bad regex", lambda place: place.convert(tensor_type_rules="(=f16"), ValueError, "not a regular expression"),
    Row("rules NULL and odd", lambda place: place.convert(tensor_type_rules=7), TypeError, "must be a string"),
    *(
        Row(
            f"type {kind}",
            lambda place, kind=kind: place.convert(type=kind),
            ValueError,
            "only exists inside the engine",
        )
        for kind in ("q8_1", "q8_K", "i8", "i16", "i32", "i64", "f64")
    ),
]
REFUSED = [*FILES, *CONTEXT, *CALLS, *CONVERSIONS]
LIBRARY_NAMES = {"sampler of no name", "wtype of an unknown name"}


def ids(rows: Any) -> list[str]:
    return [row.line for row in rows]


@pytest.fixture(scope="module")
def opened(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Place]]:
    """A place for each mode, with an engine opened."""
    places = {mode: Place(tiny_model, tmp_path_factory.mktemp("place"), mode) for mode in (True, False)}
    with ExitStack() as stack:
        for place in places.values():
            stack.enter_context(place.engines)
            assert place.engine
        yield places


@pytest.mark.parametrize("row", REFUSED, ids=ids(REFUSED))
def test_what_the_map_lists_is_refused_before_native_code(
    row: Row, isolated: bool, opened: dict[bool, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.line not in LIBRARY_NAMES:
        monkeypatch.setattr(_calls.Calls, "call", lambda *_: pytest.fail("native code was reached"))
    place = opened[isolated]
    place.directory = tmp_path
    with pytest.raises(row.error, match=re.escape(row.said)):
        row.act(place)


# What stands behind Python's checks.


@dataclass(frozen=True)
class Unchecked:
    """A line of the map: what to do, and how it ends without isolation: it ``"raises"``, ``"draws"``, or ``"dies"``."""

    line: str
    act: Act
    ends: str = "raises"


def drawn_twice(place: Place) -> Any:
    """Draw twice with weights that are freed after their first use."""
    engine = place.open(context=ContextParams(free_params_immediately=True))
    engine.generate("a cat", **DRAW)
    return engine.generate("a cat", **DRAW)


def without_encoder(place: Place) -> Any:
    engine = place.open(context=ContextParams(vae_decode_only=True))
    return engine.generate("a cat", **DRAW, init_image=picture())


UNCHECKED = [
    *(
        Unchecked(line, lambda place, content=content: place.with_part("diffusion_model", content))
        for line, content, _ in BAD_FILES
    ),
    *(
        Unchecked(f"convert: {line}", lambda place, content=content: place.convert(place.file(content)))
        for line, content, _ in BAD_FILES
        if line.startswith(("gguf", "entry", "JSON")) and line != "gguf version must be 2 or 3 (little-endian), not 1"
    ),
    *(
        Unchecked(f"lora: {line}", lambda place, content=content: place.lora(content))
        for line, content, _ in BAD_FILES
        if line.startswith(("gguf", "entry", "JSON", "data"))
        and line != "gguf version must be 2 or 3 (little-endian), not 1"
    ),
    Unchecked("weights of integers", lambda place: drawn_with(place, integers(place)), "dies"),
    Unchecked("convert: bad regex", lambda place: place.convert(tensor_type_rules="[=f16")),
    *(
        Unchecked(f"convert: {kind}", lambda place, kind=kind: place.convert(type=kind))
        for kind in ("q8_1", "i8", "f64")
    ),
    *(Unchecked(f"wtype {kind}", lambda place, kind=kind: place.open(type=kind)) for kind in ("q8_1", "q8_K", "i8")),
    Unchecked("rules: bad regex", lambda place: place.open(tensor_type_rules="(=f16")),
    Unchecked("width 0", lambda place: place.draw(width=0)),
    Unchecked("width -64", lambda place: place.draw(width=-64)),
    Unchecked("2 000 000²", lambda place: place.draw(width=2_000_000, height=2_000_000)),
    Unchecked("steps 0", lambda place: place.draw(steps=0)),
    Unchecked("gits + steps 1", lambda place: place.draw(scheduler="gits")),
    Unchecked("custom_sigmas 0", lambda place: place.sample(custom_sigmas=[0.0, 0.0])),
    Unchecked("strength < 0", lambda place: place.draw(init_image=picture(), strength=-1, steps=20)),
    Unchecked("batch_count -1", lambda place: place.draw(batch_count=-1)),
    Unchecked("init image of 1 channel", lambda place: place.draw(init_image=picture(channels=1))),
    Unchecked("init image of 4 channels", lambda place: place.draw(init_image=picture(channels=4))),
    Unchecked("no encoder", without_encoder),
    Unchecked(
        "tiny ref image and tiling",
        lambda place: place.draw(ref_images=[picture(4, 4)], tiling=Tiling(tile_size_x=4, tile_size_y=4)),
        "draws" if has_field("sd_img_gen_params_t", "ref_image_args") else "raises",  # newer engines scale it first
    ),
    Unchecked("cfg NaN", lambda place: place.draw(cfg_scale=NAN)),
    Unchecked("generate_video on an image model", lambda place: place.film()),
    Unchecked("free_params_immediately, twice", drawn_twice, "dies"),
]


def drawn_with(place: Place, content: bytes) -> Any:
    return place.with_part("diffusion_model", content).generate("a cat", **DRAW)


@contextmanager
def unchecked() -> Iterator[None]:
    """Take Python's checks away; the types of C's fields are still looked at."""
    with ExitStack() as stack:
        for name, instead in {
            "engine.check_context": lambda params: (params, Model()),
            "engine.check_image": lambda params, *_: params,
            "engine.check_video": lambda params, *_: params,
            "engine.MemoryCheck.check_weights": lambda *_: None,
            "engine.MemoryCheck.check_image": lambda *_: None,
            "generation.as_loras": lambda items, _directory=None: tuple(map(Lora, items)),
            "conversion.read_file": lambda _, path: SimpleNamespace(path=path, tensors={}),
            "conversion.check_type": lambda _, value: value,
            "conversion.check_rules": lambda _, rules: rules,
            "conversion.check_writable": lambda *_: None,
            "conversion.source_tensors": lambda *_: None,
        }.items():
            stack.enter_context(mock.patch(f"sdcffi.engine.{name}", instead))
        yield


QUICK = {
    *("gguf of type 36", "weights of integers", "convert: bad regex", "width -64", "init image of 1 channel"),
    "generate_video on an image model",
}
WITH_SLOW = [pytest.param(row, marks=[] if row.line in QUICK else pytest.mark.slow) for row in UNCHECKED]


@pytest.mark.filterwarnings("ignore:.* pixels are far from")
@pytest.mark.parametrize("row", WITH_SLOW, ids=ids(UNCHECKED))
def test_without_checks_the_isolated_engine_raises_and_goes_on(
    row: Unchecked, opened: dict[bool, Place], tmp_path: Path
) -> None:
    place = opened[True]
    place.directory = tmp_path
    with unchecked():
        if row.ends == "draws":
            assert row.act(place).arrays
        else:
            with pytest.raises((SDError, TypeError, ValueError)) as caught:
                row.act(place)
            assert (row.ends == "dies") == isinstance(caught.value, NativeCrashError)
    assert place.draw().arrays[0].std() > 1


@pytest.mark.slow
@pytest.mark.parametrize("row", UNCHECKED, ids=ids(UNCHECKED))
def test_without_checks_a_process_of_its_own_raises_or_dies_as_the_map_says(
    row: Unchecked, tiny_model: TinyModel, tmp_path: Path
) -> None:
    code = "import sys, test_failure_map; test_failure_map.act_alone(*sys.argv[1:])"
    command = [sys.executable, "-c", code, row.line, str(tiny_model.llm.parent), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if row.ends == "dies":
        assert -done.returncode in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE), done.stderr[-2000:]
    else:
        assert (done.returncode, done.stdout.split(":")[0]) == (0, row.ends), done.stdout + done.stderr[-2000:]


def act_alone(line: str, model: str, directory: str) -> None:
    """Do a row in this process, and print how it ended."""
    row = next(row for row in UNCHECKED if row.line == line)
    place = Place(write_model(model), Path(directory), isolated=False)
    with unchecked(), place.engines:
        try:
            row.act(place)
        except (SDError, TypeError, ValueError) as error:
            print(f"raises: {type(error).__name__}: {error}")
        else:
            print("draws:")


# Lifetime and concurrency.


def test_a_closed_engine_is_not_used(isolated: bool, tiny_model: TinyModel, tmp_path: Path) -> None:
    place = Place(tiny_model, tmp_path, isolated)
    with place.engines:
        place.engine.close()
        place.engine.close()
        for act in (place.draw, place.engine.capabilities, lambda: place.engine.check_loras([tiny_model.lora])):
            with pytest.raises(SDError, match="the engine is closed"):
                act()


def test_two_threads_on_one_engine_take_turns(isolated: bool, opened: dict[bool, Place]) -> None:
    place = opened[isolated]
    alone = {seed: place.draw(seed=seed).arrays[0] for seed in range(3)}
    together: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: place.draw(seed=seed).arrays[0]}))
        for seed in alone
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[seed], together[seed]) for seed in alone)


def test_a_call_in_a_callback_is_refused(isolated: bool, opened: dict[bool, Place]) -> None:
    place = opened[isolated]
    with pytest.raises(SDError, match="cannot be called from its own callback"):
        place.draw(on_progress=lambda _: place.draw())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_engine_is_not_used_after_a_fork(isolated: bool, opened: dict[bool, Place]) -> None:
    place = opened[isolated]
    child = os.fork()
    if child == 0:
        try:
            place.draw()
        except SDError as error:
            os._exit(0 if "after a fork" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert place.draw().arrays
