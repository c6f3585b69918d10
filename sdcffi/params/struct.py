"""The base of the engine's parameters: a dataclass for a C struct."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from .._numbers import as_flag, as_integer, as_number, as_path, as_text
from .._quoting import shown

if TYPE_CHECKING:
    from ..images.convert import ImageLike, MaskLike

__all__ = ["KEYWORDS", "MaskPixels", "Pixels", "StrPath", "Struct", "struct_named"]

StrPath: TypeAlias = str | os.PathLike[str]
Pixels: TypeAlias = "ImageLike"
MaskPixels: TypeAlias = "MaskLike"
_Struct = TypeVar("_Struct", bound="Struct")

KEYWORDS = {
    "wtype": "type",
    "n_threads": "threads",
    "rng_type": "rng",
    "sampler_rng_type": "sampler_rng",
    "offload_params_to_cpu": "offload_to_cpu",
    "keep_clip_on_cpu": "clip_on_cpu",
    "keep_vae_on_cpu": "vae_on_cpu",
    "keep_control_net_on_cpu": "control_net_on_cpu",
    "enable_mmap": "mmap",
    "flash_attn": "fa",
    "diffusion_flash_attn": "diffusion_fa",
    "sample_method": "sampler",
    "sample_steps": "steps",
    "txt_cfg": "cfg_scale",
    "distilled_guidance": "guidance",
    "vae_tiling_params": "tiling",
}
"""Keywords of `Engine` and its calls for fields whose C name is another one: messages have the keyword."""

_TAKEN: dict[str, Callable[[str, Any], Any]] = {  # by the annotation, how a value is taken
    "bool": as_flag,
    "int": as_integer,
    "float": as_number,
    "str": as_text,
    "StrPath": as_path,
}


class Struct:
    """Base of the dataclasses, each for the C struct `C_STRUCT`; it lacks the fields that are in `NOT_IN_C`.

    Numbers, switches, strings and paths are taken as Python's own, so that what is wrong with one is said where it is
    given, and nothing later depends on its class. Those in `TAKEN_LATER` are taken where messages can tell whose they
    are. `KEYWORD` is the keyword that takes the struct, for messages.
    """

    C_STRUCT: ClassVar[str]
    NOT_IN_C: ClassVar[frozenset[str]] = frozenset()
    TAKEN_LATER: ClassVar[frozenset[str]] = frozenset()
    KEYWORD: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, kind in _inner_structs(type(self)):  # type: ignore[arg-type]
            if (value := getattr(self, name)) is not None:
                kind.of(value, KEYWORDS.get(name, name))
        for name, shown_name, annotation, is_required in _plain_fields(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is None and not is_required:
                continue
            if annotation in _TAKEN:
                object.__setattr__(self, name, _TAKEN[annotation](shown_name, value))

    @classmethod
    def of(cls: type[_Struct], value: object, name: str) -> _Struct:
        """Return `value`, the parameter `name`, or an empty struct for None.

        Raises
        ------
        TypeError
            If it is something else.
        """
        if value is None:
            return cls()
        if not isinstance(value, cls):
            raise TypeError(f"{name} must be of type {cls.__name__}, such as {cls.__name__}(...), not {shown(value)}")
        return value

    def given(self) -> dict[str, Any]:
        """Return the fields that are set, by name."""
        return {
            item.name: value
            for item in fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, item.name)) is not None
        }

    def native(self) -> dict[str, Any]:
        """Return the fields of the C struct that are set, by name."""
        return {name: value for name, value in self.given().items() if name not in self.NOT_IN_C}

    def updated(self: _Struct, other: _Struct) -> _Struct:
        """Return a copy with the fields that are set in `other`; inner structs are updated in turn."""
        changes: dict[str, Any] = {}
        for name, value in other.given().items():
            below = getattr(self, name)
            changes[name] = below.updated(value) if isinstance(below, Struct) else value
        return replace(self, **changes)  # type: ignore[type-var]


@functools.cache
def _inner_structs(struct: type[Struct]) -> tuple[tuple[str, type[Struct]], ...]:
    """Return the fields that hold one struct, with its class."""
    annotations = {item.name: str(item.type).removesuffix(" | None") for item in fields(struct)}  # type: ignore[arg-type]
    found = {name: struct_named(annotation) for name, annotation in annotations.items()}
    return tuple((name, kind) for name, kind in found.items() if kind is not None)


@functools.cache
def _plain_fields(struct: type[Struct]) -> tuple[tuple[str, str, str, bool], ...]:
    """Return name, name in messages, and type of the fields with plain values, and whether None is not legal."""
    prefix = f"{struct.KEYWORD}." if struct.KEYWORD else ""
    annotations = {item.name: str(item.type) for item in fields(struct)}  # type: ignore[arg-type]
    return tuple(
        (name, prefix + KEYWORDS.get(name, name if prefix else name.removesuffix("_path")), kind, kind == annotation)
        for name, annotation in annotations.items()
        if (kind := annotation.removesuffix(" | None")) in _TAKEN and name not in struct.TAKEN_LATER
    )


def struct_named(name: str) -> type[Struct] | None:
    """Return the imported dataclass of this name; None if there is none."""
    return next((kind for kind in Struct.__subclasses__() if kind.__name__ == name), None)
