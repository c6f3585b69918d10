"""The same parameters on a header of today's words and on one of newer words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cffi
import pytest

from sdcffi import ContextParams, ImageParams, SampleParams, UnsupportedParameterError, VideoParams
from sdcffi._bindings.marshal import Marshaller
from sdcffi._bindings.words import WORDS, replaced
from sdcffi.params.struct import Struct

# Some of the fields of two headers: May's, and August's.
OLD = """
enum scheduler_t { DISCRETE_SCHEDULER, KARRAS_SCHEDULER };
typedef struct {
    bool vae_decode_only; bool free_params_immediately; bool offload_params_to_cpu; bool enable_mmap;
    bool keep_clip_on_cpu; bool keep_vae_on_cpu; bool keep_control_net_on_cpu; bool circular_x; bool circular_y;
    bool chroma_use_dit_mask; bool chroma_use_t5_mask; int chroma_t5_mask_pad; bool qwen_image_zero_cond_t;
    float max_vram;
} sd_ctx_params_t;
typedef struct { bool auto_resize_ref_image; bool increase_ref_index; int width; } sd_img_gen_params_t;
typedef struct { int width; } sd_vid_gen_params_t;
typedef struct { enum scheduler_t scheduler; } sd_sample_params_t;
"""
NEW = """
enum scheduler_t { DISCRETE_SCHEDULER, KARRAS_SCHEDULER, FLUX2_SCHEDULER };
typedef struct {
    bool enable_mmap; const char* max_vram; bool stream_layers; const char* backend; const char* params_backend;
    const char* model_args;
} sd_ctx_params_t;
typedef struct { const char* ref_image_args; int width; bool circular_x; bool circular_y; } sd_img_gen_params_t;
typedef struct { int width; bool circular_x; bool circular_y; } sd_vid_gen_params_t;
typedef struct { enum scheduler_t scheduler; } sd_sample_params_t;
"""


class Header:
    """What the marshaller asks of a library, of one that has only a header."""

    def __init__(self, declarations: str) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(declarations)
        self.commit = self.ffi.new("char[]", b"97d29908")
        self.lib = SimpleNamespace(sd_commit=lambda: self.commit)

    def text(self, pointer: Any) -> str:
        return "" if pointer == self.ffi.NULL else self.ffi.string(pointer).decode()

    def enum(self, ctype: Any) -> dict[str, int]:
        return {name.removesuffix("_SCHEDULER").lower(): number for number, name in sorted(ctype.elements.items())}


@pytest.fixture
def new() -> Marshaller:
    return Marshaller(Header(NEW))  # type: ignore[arg-type]


@pytest.fixture
def old() -> Marshaller:
    return Marshaller(Header(OLD))  # type: ignore[arg-type]


def told(marshaller: Marshaller, params: Struct) -> dict[str, Any]:
    """The fields of the C struct that are not zero."""
    struct = marshaller.struct(params)[0]
    fields = [name for name, _ in marshaller._ffi.typeof(struct).fields]
    values = {name: getattr(struct, name) for name in fields}
    texts = {
        name: value if isinstance(value, (bool, int, float)) else text_of(marshaller, value)
        for name, value in values.items()
    }
    return {name: value for name, value in texts.items() if value}


def text_of(marshaller: Marshaller, value: Any) -> str:
    return marshaller._library.text(value)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (ContextParams(), {}),
        (ContextParams(enable_mmap=True), {"enable_mmap": True}),
        (ContextParams(vae_decode_only=False, free_params_immediately=False), {}),
        (ContextParams(offload_params_to_cpu=True), {"params_backend": "*=cpu"}),
        (ContextParams(offload_params_to_cpu=False), {}),
        (ContextParams(keep_vae_on_cpu=True), {"backend": "vae=cpu"}),
        (
            ContextParams(keep_control_net_on_cpu=True, keep_clip_on_cpu=True, offload_params_to_cpu=True),
            {"backend": "te=cpu,controlnet=cpu", "params_backend": "*=cpu"},
        ),
        (ContextParams(max_vram=2.5), {"max_vram": "2.5"}),
        (ContextParams(max_vram=0), {"max_vram": "0.0"}),
        (
            ContextParams(chroma_use_dit_mask=False, chroma_use_t5_mask=True, chroma_t5_mask_pad=7),
            {"model_args": "chroma_use_dit_mask=0,chroma_use_t5_mask=1,chroma_t5_mask_pad=7"},
        ),
        (ContextParams(qwen_image_zero_cond_t=True), {"model_args": "qwen_image_zero_cond_t=1"}),
        (ContextParams(circular_x=True, circular_y=True), {}),
        (ImageParams(auto_resize_ref_image=False), {"ref_image_args": "resize_before_vae=0"}),
        (
            ImageParams(auto_resize_ref_image=True, increase_ref_index=True, width=8),
            {"ref_image_args": "resize_before_vae=1,ref_index_mode=increase", "width": 8},
        ),
        (ImageParams(increase_ref_index=False), {}),
    ],
    ids=str,
)
def test_a_newer_engine_is_told_in_its_own_words(params: Struct, expected: dict[str, Any], new: Marshaller) -> None:
    assert told(new, params) == expected


def test_an_older_engine_is_told_as_ever(old: Marshaller) -> None:
    params = ContextParams(keep_vae_on_cpu=True, chroma_t5_mask_pad=7, max_vram=2.5, circular_x=True)
    assert told(old, params) == params.given()
    assert old.per_call(params) == {}
    assert told(old, ImageParams(auto_resize_ref_image=True)) == {"auto_resize_ref_image": True}


@pytest.mark.parametrize("name", ["vae_decode_only", "free_params_immediately"])
def test_what_a_newer_engine_does_not_do_is_refused(name: str, new: Marshaller) -> None:
    message = rf"the built engine \(stable-diffusion\.cpp 97d29908\) cannot do {name}=True, because there the \w+ "
    with pytest.raises(UnsupportedParameterError, match=message):
        new.struct(ContextParams(**{name: True}))


def test_what_moved_to_the_calls_is_kept_for_them(new: Marshaller) -> None:
    assert new.per_call(ContextParams(circular_x=True, max_vram=1.0)) == {"circular_x": True}
    assert new.per_call(VideoParams()) == {}


@pytest.mark.parametrize(
    "params",
    [
        ContextParams(
            vae_decode_only=False,
            free_params_immediately=False,
            offload_params_to_cpu=True,
            keep_clip_on_cpu=True,
            keep_vae_on_cpu=False,
            keep_control_net_on_cpu=True,
            circular_x=True,
            circular_y=False,
            chroma_use_dit_mask=False,
            chroma_use_t5_mask=True,
            chroma_t5_mask_pad=3,
            qwen_image_zero_cond_t=True,
            max_vram=4.5,
            enable_mmap=True,
        ),
        ImageParams(auto_resize_ref_image=False, increase_ref_index=True, width=8),
    ],
    ids=["context", "image"],
)
def test_what_was_told_is_read_back(params: Struct, new: Marshaller, old: Marshaller) -> None:
    for marshaller in (new, old):
        assert marshaller.read(marshaller.struct(params)[0], params) == params


def test_what_is_not_said_has_the_newer_engines_default(new: Marshaller) -> None:
    for params in (ContextParams(), ImageParams()):
        read = new.read(new.struct(params)[0], params)
        values = new.values(new.struct(params)[0])
        for word in WORDS:
            if word.struct == params.C_STRUCT:
                assert getattr(read, word.name) == values[word.name] == word.default


def test_a_name_of_another_engine_is_unsupported_here(new: Marshaller, old: Marshaller) -> None:
    sample = SampleParams(scheduler="flux2")
    assert told(new, sample) == {"scheduler": 2}
    with pytest.raises(
        UnsupportedParameterError, match=r"scheduler must be one of discrete, karras, not 'flux2': the built engine \("
    ) as refused:
        old.struct(sample)
    assert isinstance(refused.value, ValueError)


def test_every_word_stands_in_the_old_header_only() -> None:
    old, new = (dict.fromkeys(("sd_ctx_params_t", "sd_img_gen_params_t"), Header(text)) for text in (OLD, NEW))
    for struct in old:
        words = [word for word in WORDS if word.struct == struct]
        assert not list(replaced(struct, dict(old[struct].ffi.typeof(struct).fields)))
        assert list(replaced(struct, dict(new[struct].ffi.typeof(struct).fields))) == words
