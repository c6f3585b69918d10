"""Parameters that newer engines replaced, and how these are told the same. This is the only table of it.

The fields of the public dataclasses are those of the oldest verified revision. Where the header that was built has such
a field, its value is written there. Where it does not, the entry here says how the newer engine is told: as upstream's
own sd-cli translates its old flags (`prepare_backend_assignments` and `to_sd_img_gen_params_t` of its common.cpp).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BESIDE", "WORDS", "PerCall", "Word", "replaced"]

# Fields of dataclasses that no C struct has: a function of guard.h takes them before the call.
BESIDE = {("sd_sample_params_t", "guidance_rescale"): "sdg_set_guidance_rescale"}


@dataclass(frozen=True)
class Word(ABC):
    """A field that newer headers lack, or have with another type.

    Attributes
    ----------
    struct, name : str
        The C struct and its field.
    kind : str
        C type of the field: ``"bool"``, ``"int"`` or ``"float"``.
    default : bool, int or float
        What the newer engine does if it is told nothing.
    field : str
        Field of the newer struct that takes a text in its place. Empty: there is none.
    """

    struct: str
    name: str
    kind: str
    default: Any
    field: str = ""

    @abstractmethod
    def said(self, value: Any) -> str | None:
        """Return the text for `field`, empty if nothing needs to be said; None if the newer engine cannot do it."""

    def heard(self, _text: str) -> Any:
        """Return the value that a text of `field` stands for."""
        return self.default

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What the newer engine has in its place, for messages and the documentation."""


@dataclass(frozen=True)
class _Entry(Word):
    """A switch that puts `entry` into a list; off, it says nothing."""

    entry: str = ""

    def said(self, value: Any) -> str | None:
        return self.entry if value else ""

    def heard(self, text: str) -> Any:
        return self.entry in text.split(",")

    @property
    def meaning(self) -> str:
        return f"`{self.entry}` in `{self.field}`"


@dataclass(frozen=True)
class _Pair(Word):
    """A number, or a switch as 0 or 1, with a key in a list."""

    key: str = ""

    def said(self, value: Any) -> str | None:
        return f"{self.key}={int(value)}"

    def heard(self, text: str) -> Any:
        pairs = dict(part.partition("=")[::2] for part in text.split(","))
        return type(self.default)(int(pairs[self.key])) if self.key in pairs else self.default

    @property
    def meaning(self) -> str:
        return f"`{self.key}=` in `{self.field}`"


@dataclass(frozen=True)
class _Number(Word):
    """A number that is a text now."""

    def said(self, value: Any) -> str | None:
        return repr(float(value))

    def heard(self, text: str) -> Any:
        return float(text) if text else self.default

    @property
    def meaning(self) -> str:
        return f"a text in `{self.field}`"


@dataclass(frozen=True)
class PerCall(Word):
    """A field that moved from the context to each call, where the session writes it."""

    def said(self, _value: Any) -> str | None:
        return ""

    @property
    def meaning(self) -> str:
        return f"`{self.name}` of each call"


@dataclass(frozen=True)
class _Gone(Word):
    """A field whose default is all that newer engines do."""

    reason: str = ""

    def said(self, value: Any) -> str | None:
        return "" if value == self.default else None

    @property
    def meaning(self) -> str:
        return self.reason


_CONTEXT, _IMAGE = "sd_ctx_params_t", "sd_img_gen_params_t"

WORDS: tuple[Word, ...] = (
    _Gone(_CONTEXT, "vae_decode_only", "bool", False, reason="the encoder is always loaded"),
    _Gone(_CONTEXT, "free_params_immediately", "bool", False, reason="the weights are always kept"),
    _Entry(_CONTEXT, "offload_params_to_cpu", "bool", False, "params_backend", "*=cpu"),
    _Entry(_CONTEXT, "keep_clip_on_cpu", "bool", False, "backend", "te=cpu"),
    _Entry(_CONTEXT, "keep_vae_on_cpu", "bool", False, "backend", "vae=cpu"),
    _Entry(_CONTEXT, "keep_control_net_on_cpu", "bool", False, "backend", "controlnet=cpu"),
    PerCall(_CONTEXT, "circular_x", "bool", False),
    PerCall(_CONTEXT, "circular_y", "bool", False),
    _Pair(_CONTEXT, "chroma_use_dit_mask", "bool", True, "model_args", "chroma_use_dit_mask"),
    _Pair(_CONTEXT, "chroma_use_t5_mask", "bool", True, "model_args", "chroma_use_t5_mask"),
    _Pair(_CONTEXT, "chroma_t5_mask_pad", "int", 1, "model_args", "chroma_t5_mask_pad"),
    _Pair(_CONTEXT, "qwen_image_zero_cond_t", "bool", False, "model_args", "qwen_image_zero_cond_t"),
    _Number(_CONTEXT, "max_vram", "float", 0.0, "max_vram"),
    _Pair(_IMAGE, "auto_resize_ref_image", "bool", True, "ref_image_args", "resize_before_vae"),
    _Entry(_IMAGE, "increase_ref_index", "bool", False, "ref_image_args", "ref_index_mode=increase"),
)


def replaced(struct: str, fields: Mapping[str, Any]) -> Iterator[Word]:
    """Return the words of a struct that a header has replaced.

    Parameters
    ----------
    struct : str
        Name of the C struct.
    fields : mapping of str to cffi field
        The fields that the header has.
    """
    for word in WORDS:
        is_there = word.name in fields and fields[word.name].type.kind == "primitive"
        if word.struct == struct and not is_there:
            yield word
