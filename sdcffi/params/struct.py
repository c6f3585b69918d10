"""The base of the engine's parameters: a dataclass for a C struct."""

from __future__ import annotations

import functools
import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ..images.convert import ImageLike, MaskLike

__all__ = ["MaskPixels", "Pixels", "StrPath", "Struct", "struct_named"]

StrPath: TypeAlias = str | os.PathLike[str]
Pixels: TypeAlias = "ImageLike"
MaskPixels: TypeAlias = "MaskLike"
_Struct = TypeVar("_Struct", bound="Struct")


class Struct:
    """Base of the dataclasses, each for the C struct `C_STRUCT`; it lacks the fields that are in `NOT_IN_C`."""

    C_STRUCT: ClassVar[str]
    NOT_IN_C: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for name, kind in _inner_structs(type(self)):  # type: ignore[arg-type]
            if (value := getattr(self, name)) is not None:
                kind.of(value, name)

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
            raise TypeError(f"{name} must be of type {cls.__name__}, such as {cls.__name__}(...), not {value!r}")
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


def struct_named(name: str) -> type[Struct] | None:
    """Return the imported dataclass of this name; None if there is none."""
    return next((kind for kind in Struct.__subclasses__() if kind.__name__ == name), None)
