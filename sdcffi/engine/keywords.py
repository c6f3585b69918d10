"""Public functions that say the right word for a keyword that they do not have."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.other_names import keyword_hint
from ..params.struct import Struct
from ..params.video import VideoParams

__all__ = ["no_attribute", "with_hints"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_known: dict[str, frozenset[str]] = {}  # keywords of the functions with hints, by the names to show
_ALIKE = 0.8  # of difflib: fewer letters in common are no slip of the finger
_STRUCTS: dict[str, tuple[type[Struct], ...]] = {
    "generate": (ImageParams, ContextParams),
    "generate_video": (VideoParams, ContextParams),
}
_ATTRIBUTES = {
    **dict.fromkeys(
        ("generate_image", "txt_to_img", "txt2img", "text2img", "img_to_img", "img2img", "create_image", "edit"),
        "generate(prompt, ...)",
    ),
    **dict.fromkeys(("txt_to_vid", "txt2vid", "img_to_vid", "img2vid"), "generate_video(prompt, ...)"),
    "from_pretrained": "Engine('hf://OWNER/REPO'), or Engine(path)",
    "from_single_file": "Engine(path)",
    "to": "Engine(path, backend='cuda')",
    "enable_model_cpu_offload": "Engine(path, offload_to_cpu=True)",
    "enable_sequential_cpu_offload": "Engine(path, offload_to_cpu=True, max_vram=...)",
    "enable_vae_tiling": "generate(prompt, tiling=Tiling())",
    "enable_attention_slicing": "Engine(path, diffusion_fa=True)",
    "load_lora_weights": "generate(prompt, loras=[path]) or set_loras([path])",
    "fuse_lora": "generate(prompt, loras=[path]) or set_loras([path])",
    "load_textual_inversion": "Engine(path, embeddings={'word': embedding})",
    "enable_xformers_memory_efficient_attention": "Engine(path, diffusion_fa=True)",
    "unload_lora_weights": "set_loras([])",
    "set_adapters": "set_loras([(path, 0.8)])",
    "upscale": "Upscaler(path).upscale(result)",
    "convert": "sdcffi.convert(input, output, type=...)",
    "preprocess_canny": "sdcffi.canny(image)",
    "scheduler": "generate(prompt, sampler=..., scheduler=...)",
}


def with_hints(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function refuse keywords that it does not have with the one to use, if that is known.

    Raises
    ------
    TypeError
        As Python itself does.
    """
    code = function.__code__
    legal = frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - {"self"}
    whole = function.__qualname__.removesuffix(".__init__")
    name = whole.rpartition(".")[2]
    _known[whole] = legal

    @functools.wraps(function)
    def call(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        for keyword in keywords:
            if keyword not in legal and (hint := _hint(keyword, legal, name)):
                raise TypeError(f"{name}() has no keyword {keyword!r}; {hint}")
        return function(*arguments, **keywords)

    return call


def _hint(keyword: str, legal: frozenset[str], name: str) -> str:
    others = frozenset().union(*_known.values())
    hint = keyword_hint(keyword, legal, _STRUCTS.get(name, (ContextParams, ImageParams)), others)
    if hint.startswith("nothing: "):
        return hint.replace("nothing", "leave it out", 1)
    word = hint.partition(" ")[0].removesuffix(",")
    if word.isidentifier():
        where = next((whole for whole, keywords in _known.items() if word in keywords), "")
        elsewhere = f" of {where}" if where and word not in legal else ""
        hint = hint.replace(word, f"{word}={elsewhere}", 1)
    if hint:
        return f"use {hint}"
    near = difflib.get_close_matches(keyword, legal, 1, _ALIKE)
    return f"did you mean {near[0]}=?" if near else ""


def no_attribute(owner: Any, name: str) -> AttributeError:
    """Return the error for an attribute that an object does not have, with the right word if that is known."""
    kind = type(owner).__name__
    hint = f"; use {_ATTRIBUTES[name]}" if name in _ATTRIBUTES else ""
    return AttributeError(f"{kind!r} object has no attribute {name!r}{hint}", name=name, obj=owner)
