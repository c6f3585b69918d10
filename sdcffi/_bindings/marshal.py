"""Carry dataclasses into C structs, and the engine's pictures out of it, without needless copies.

A dataclass and its struct have the same field names, so one walk serves all of them: `Marshaller.fill`. What a C
struct points to (strings, arrays, pixels) is kept alive by the marshaller, which must live as long as the call.
Pictures that come out are adopted: numpy views on the engine's memory, freed with the engine's own `free` when the
last view is gone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UnsupportedParameterError
from ..params.sampling import Guidance, SampleParams
from ..params.struct import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .library import Library

__all__ = ["Marshaller", "adopt_images", "adopt_pixels"]

_ALWAYS_READ: dict[str, Struct] = {"sd_sample_params_t": SampleParams(), "sd_guidance_params_t": Guidance()}


class Marshaller:
    """Fills C structs and owns what they point to."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._ffi = library.ffi
        self._alive: list[Any] = []

    def struct(self, params: Struct) -> Any:
        """Give a new C struct: the engine's own defaults, then the fields that are set.

        Returns
        -------
        cdata
            Pointer to the struct; valid while this marshaller lives.

        Raises
        ------
        TypeError, ValueError
            If a value does not fit its field, with the value and the legal set.
        UnsupportedParameterError
            If a field is set that the built engine does not have.
        """
        target = self._ffi.new(f"{params.C_STRUCT} *")
        initialise = getattr(self._library.lib, params.C_STRUCT.removesuffix("_t") + "_init", None)
        if initialise is not None:
            initialise(target)
        self._alive.append(target)
        self.fill(target[0], params)
        return target

    def fill(self, target: Any, params: Struct, path: str = "") -> None:
        """Set those fields of `target` that are set in `params`."""
        ctypes = dict(self._ffi.typeof(target).fields)
        for name, value in params.given().items():
            where = f"{path}{name}"
            if name not in ctypes:
                raise UnsupportedParameterError(
                    f"{where} is not a parameter of the built engine"
                    f" (stable-diffusion.cpp {self._library.text(self._library.lib.sd_commit())})"
                )
            ctype = ctypes[name].type
            if ctype.kind == "struct" and ctype.cname == "sd_image_t":
                self._set_image(getattr(target, name), value)
            elif ctype.kind == "struct":
                self.fill(getattr(target, name), value, f"{where}.")
            elif ctype.kind == "pointer" and ctype.item.cname != "char":
                setattr(target, name, self.array(ctype.item, value, where))
                setattr(target, next(key for key in _count_names(name) if key in ctypes), len(value))
            else:
                setattr(target, name, self._scalar(ctype, value, where))

    def read(self, source: Any, like: Struct) -> Any:
        """Give what stands in a C struct: finite numbers, switches and enumerations; the rest stays None.

        Of the structs within, those of sampling are read, and those that are set in `like`.
        """
        ctypes = dict(self._ffi.typeof(source).fields)
        values: dict[str, Any] = {}
        for item in fields(like):  # type: ignore[arg-type]
            if item.name not in ctypes:
                continue
            ctype, value = ctypes[item.name].type, getattr(source, item.name)
            if ctype.kind == "struct":
                below = _ALWAYS_READ.get(ctype.cname, getattr(like, item.name))
                values[item.name] = self.read(value, below) if isinstance(below, Struct) else None
            elif ctype.kind == "enum":
                values[item.name] = self._name(ctype, value)
            elif ctype.kind == "primitive" and math.isfinite(value):
                values[item.name] = value
        return type(like)(**values)

    def values(self, source: Any) -> dict[str, Any]:
        """Give what stands in a C struct by dotted names, of enumerations the name; what is pointed to is left out."""
        found: dict[str, Any] = {}
        for name, field in self._ffi.typeof(source).fields:
            kind, value = field.type.kind, getattr(source, name)
            if kind == "struct":
                found |= {f"{name}.{below}": inner for below, inner in self.values(value).items()}
            elif kind == "enum":
                found[name] = next(
                    (key for key, number in self._library.enum(field.type).items() if number == value), None
                )
            elif kind == "primitive":
                found[name] = value
            elif field.type.cname == "char *" and value != self._ffi.NULL:
                found[name] = self._library.text(value)
        return found

    def _name(self, ctype: Any, value: int) -> str | None:
        return next((name for name, number in self._library.enum(ctype).items() if number == value), None)

    def text(self, value: str | os.PathLike[str], where: str) -> Any:
        """Give a C string for a text or path.

        Raises
        ------
        TypeError, ValueError
            If it is neither, holds a NUL, or cannot be encoded.
        """
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{where} must be a string or a path, not {value!r}")
        text = os.fspath(value)
        if "\0" in text:
            raise ValueError(f"{where} must not contain a NUL character: {text!r}")
        try:
            encoded = text.encode() if isinstance(value, str) and not os.path.exists(value) else os.fsencode(text)
        except UnicodeEncodeError as error:
            raise ValueError(f"{where} cannot be encoded as UTF-8: {error}") from error
        self._alive.append(self._ffi.new("char[]", encoded))
        return self._alive[-1]

    def _scalar(self, ctype: Any, value: Any, where: str) -> Any:
        if ctype.kind == "pointer":
            return self.text(value, where)
        if ctype.kind == "enum":
            return self.enum(ctype, value, where)
        if ctype.cname in ("bool", "_Bool"):
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"{where} must be True or False, not {value!r}")
            return bool(value)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"{where} must be a number, not {value!r}")
        if ctype.cname in ("float", "double"):
            if not math.isfinite(float(self._ffi.cast(ctype, float(value)))):  # single precision overflows earlier
                raise ValueError(f"{where} must be finite, not {value!r}")
            return float(value)
        return self._integer(ctype, value, where)

    def _integer(self, ctype: Any, value: Any, where: str) -> int:
        if not isinstance(value, (int, np.integer)):
            raise TypeError(f"{where} must be an integer, not {value!r}")
        bits = 8 * self._ffi.sizeof(ctype)
        signed = int(self._ffi.cast(ctype, -1)) < 0
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if not low <= value <= high:
            raise ValueError(f"{where} must be from {low} to {high}, not {value!r}")
        return int(value)

    def enum(self, ctype: Any, value: Any, where: str) -> int:
        """Give the number of an enumeration's name, as the built library spells it."""
        names = self._library.enum(ctype)
        if not isinstance(value, str):
            raise TypeError(f"{where} must be one of the names {', '.join(names)}, not {value!r}")
        if value not in names:
            raise ValueError(f"{where} must be one of {', '.join(names)}, not {value!r}")
        return names[value]

    def array(self, item: Any, values: Sequence[Any], where: str = "") -> Any:
        """Give a new C array of structs, pictures or numbers; NULL for none."""
        if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
            raise TypeError(f"{where} must be a sequence, not {values!r}")
        ctype = self._ffi.typeof(item) if isinstance(item, str) else item
        array = self._ffi.new(self._ffi.getctype(ctype, "[]"), len(values))
        for index, element in enumerate(values):
            place = f"{where}[{index}]"
            if ctype.cname == "sd_image_t":
                self._set_image(array[index], element)
            elif ctype.kind == "struct":
                self.fill(array[index], element, f"{place}.")
            else:
                array[index] = self._scalar(ctype, element, place)
        self._alive.append(array)
        return array if len(values) else self._ffi.NULL

    def image(self, pixels: NDArray[np.uint8]) -> Any:
        """Give a new `sd_image_t` on a C-contiguous array (H, W, C), which it shares."""
        picture = self._ffi.new("sd_image_t *")
        self._alive.append(picture)
        self._set_image(picture, pixels)
        return picture

    def _set_image(self, target: Any, pixels: NDArray[np.uint8]) -> None:
        target.height, target.width, target.channel = pixels.shape
        target.data = self._ffi.from_buffer("uint8_t[]", pixels)
        self._alive.append(target.data)
        self._alive.append(pixels)


def _count_names(name: str) -> tuple[str, ...]:
    """C names of the field that holds the length of array `name`."""
    return f"{name}_count", f"{name.removesuffix('s')}_count", f"{name}_size"


def adopt_images(library: Library, images: Any, count: int) -> list[NDArray[np.uint8]]:
    """Take over the pictures of a native call.

    Parameters
    ----------
    images : cdata
        Array of `sd_image_t` whose memory the caller owns; it is freed here.
    count : int
        Its length.

    Returns
    -------
    list of uint8 arrays (H, W, C)
        Views on native memory, not copies. Each picture's memory is freed when the last view on it is gone.
    """
    arrays = [adopt_pixels(library, image) for image in library.ffi.unpack(images, count)]
    library.lib.sdg_free(images)
    return arrays


def adopt_pixels(library: Library, image: Any) -> NDArray[np.uint8]:
    """Take over the pixels of one `sd_image_t`, as `adopt_images` does."""
    data = library.ffi.gc(image.data, library.lib.sdg_free)
    shape = image.height, image.width, image.channel
    return np.frombuffer(library.ffi.buffer(data, math.prod(shape)), np.uint8).reshape(shape)
