"""Convert dataclasses to C structs, and the engine's images to arrays, without needless copies.

A dataclass and its struct have the same field names, so one function converts all of them: `Marshaller.fill`. The
marshaller owns all memory to which a C struct points (strings, arrays, pixels), so it must live as long as the call.
Generated images are adopted: they are numpy views on the engine's memory, which is freed with the engine's own `free`
when the last view is gone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .._quoting import shown
from ..errors import UnsupportedParameterError
from ..params.names import spoken
from ..params.other_names import meant
from ..params.sampling import Guidance, SampleParams
from ..params.struct import Struct
from .words import BESIDE, PerCall, Word, replaced

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .library import Library

__all__ = ["Marshaller", "adopt_images", "adopt_pixels", "beside"]

_Item = TypeVar("_Item")

_ALWAYS_READ: dict[str, Struct] = {"sd_sample_params_t": SampleParams(), "sd_guidance_params_t": Guidance()}


class Marshaller:
    """Fills C structs and owns the memory to which they point."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._ffi = library.ffi
        self._alive: list[Any] = []

    def struct(self, params: Struct) -> Any:
        """Return a new C struct with the engine's defaults and the fields that are set.

        Returns
        -------
        cdata
            Pointer to the struct, which this marshaller owns.

        Raises
        ------
        TypeError, ValueError
            If a value does not fit its field.
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

    def filled(self, struct: str, items: Sequence[_Item], fill: Callable[[Any, _Item], None]) -> Any:
        """Return a new array of a C struct, each element filled from one item; NULL without items."""
        if not items:
            return self._ffi.NULL
        array = self._ffi.new(f"{struct}[]", len(items))
        self._alive.append(array)
        for index, item in enumerate(items):
            fill(array[index], item)
        return array

    def fill(self, target: Any, params: Struct, path: str = "") -> None:
        """Copy the fields that are set in `params` to `target`; raises as `struct` does."""
        ctypes = dict(self._ffi.typeof(target).fields)
        words = {word.name: word for word in replaced(params.C_STRUCT, ctypes)}
        texts: dict[str, list[str]] = {}
        for name, value in params.native().items():
            place = f"{path}{name}"
            where = spoken(place)
            if (params.C_STRUCT, name) in BESIDE:
                continue
            if name in words:
                texts.setdefault(words[name].field, []).append(self._said(words[name], value, where))
                continue
            if name not in ctypes:
                raise UnsupportedParameterError(f"{self._engine} has no parameter {where}: leave it out")
            ctype = ctypes[name].type
            if ctype.kind == "struct" and ctype.cname == "sd_image_t":
                self._set_image(getattr(target, name), value)
            elif ctype.kind == "struct":
                self.fill(getattr(target, name), value, f"{place}.")
            elif ctype.kind == "pointer" and ctype.item.cname != "char":
                setattr(target, name, self.array(ctype.item, value, where))
                setattr(target, next(key for key in _count_names(name) if key in ctypes), len(value))
            else:
                setattr(target, name, self._scalar(ctype, value, where))
        for field, parts in texts.items():
            if text := ",".join(filter(None, parts)):
                setattr(target, field, self.text(text, field))

    def _said(self, word: Word, value: Any, where: str) -> str:
        """Return what tells this engine the value of a field that its header has replaced."""
        text = word.said(self._scalar(self._ffi.typeof(word.kind), value, where))
        if text is None:
            raise UnsupportedParameterError(
                f"{self._engine} cannot do {where}={shown(value)}, because there {word.meaning}: leave it out"
            )
        return text

    @property
    def _engine(self) -> str:
        return f"the built engine (stable-diffusion.cpp {self._library.text(self._library.lib.sd_commit())})"

    def per_call(self, params: Struct) -> dict[str, Any]:
        """Return the values that are set in a context and that this engine takes with each call instead."""
        ctypes = dict(self._ffi.typeof(params.C_STRUCT).fields)
        given = params.given()
        words = (word for word in replaced(params.C_STRUCT, ctypes) if isinstance(word, PerCall))
        return {word.name: given[word.name] for word in words if word.name in given}

    def read(self, source: Any, like: Struct) -> Any:
        """Read numbers, switches and enumerations from a C struct.

        Nested structs are read if they are about sampling, or if they are set in `like`.

        Parameters
        ----------
        source : cdata
            The C struct.
        like : Struct
            Decides the type of the result.

        Returns
        -------
        Struct
            Of the type of `like`. Fields of other kinds, and numbers that are not finite, are None.
        """
        ctypes = dict(self._ffi.typeof(source).fields)
        values = {**self._heard(source), **self.per_call(like), **beside(like)}
        for item in fields(like):  # type: ignore[arg-type]
            if item.name in values or item.name not in ctypes:
                continue
            ctype, value = ctypes[item.name].type, getattr(source, item.name)
            if ctype.kind == "struct":
                given = getattr(like, item.name)
                below = _ALWAYS_READ.get(ctype.cname, given)
                if isinstance(given, Struct) and isinstance(below, Struct):
                    below = replace(below, **beside(given))  # type: ignore[type-var]
                values[item.name] = self.read(value, below) if isinstance(below, Struct) else None
            elif ctype.kind == "enum":
                values[item.name] = self._name(ctype, value)
            elif ctype.kind == "primitive" and math.isfinite(value):
                values[item.name] = value
        return type(like)(**values)

    def values(self, source: Any) -> dict[str, Any]:
        """Return the values of a C struct by dotted names, without arrays; an enumeration is given by its name."""
        found: dict[str, Any] = {}
        for name, field in self._ffi.typeof(source).fields:
            kind, value = field.type.kind, getattr(source, name)
            if kind == "struct":
                found |= {f"{name}.{below}": inner for below, inner in self.values(value).items()}
            elif kind == "enum":
                found[name] = self._name(field.type, value)
            elif kind == "primitive":
                found[name] = value
            elif field.type.cname == "char *" and value != self._ffi.NULL:
                found[name] = self._library.text(value)
        return found | self._heard(source)

    def _heard(self, source: Any) -> dict[str, Any]:
        """Return the values of the fields that this engine's header has replaced."""
        struct = self._ffi.typeof(source)
        words = list(replaced(struct.cname, dict(struct.fields)))
        return {
            word.name: word.heard(self._library.text(getattr(source, word.field)) if word.field else "")
            for word in words
        }

    def _name(self, ctype: Any, value: int) -> str | None:
        return next((name for name, number in self._library.enum(ctype).items() if number == value), None)

    def text(self, value: str | os.PathLike[str], where: str) -> Any:
        """Return a C string for a text or path; this marshaller owns its memory.

        Raises
        ------
        TypeError
            If it is neither.
        ValueError
            If it contains a NUL character or cannot be encoded.
        """
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{where} must be a string or a path, not {shown(value)}")
        text = os.fspath(value)
        if "\0" in text:
            raise ValueError(f"{where} must not contain a NUL character: {shown(text)}")
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
                raise TypeError(f"{where} must be True or False, not {shown(value)}")
            return bool(value)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"{where} must be a number, not {shown(value)}")
        if ctype.cname in ("float", "double"):
            if not math.isfinite(float(self._ffi.cast(ctype, float(value)))):  # also if it overflows single precision
                raise ValueError(f"{where} must be finite, not {shown(value)}")
            return float(value)
        return self._integer(ctype, value, where)

    def _integer(self, ctype: Any, value: Any, where: str) -> int:
        if not isinstance(value, (int, np.integer)):
            raise TypeError(f"{where} must be an integer, not {shown(value)}")
        bits = 8 * self._ffi.sizeof(ctype)
        signed = int(self._ffi.cast(ctype, -1)) < 0
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if not low <= value <= high:
            raise ValueError(f"{where} must be from {low} to {high}, not {shown(value)}")
        return int(value)

    def enum(self, ctype: Any, value: Any, where: str) -> int:
        """Return the number of an enumerator by its name in the built library, or another tool's name for it.

        Raises
        ------
        TypeError
            If the value is not a string.
        UnsupportedParameterError
            If it is not a legal name; another build may have it.
        """
        names = self._library.enum(ctype)
        value = meant(value, names)
        if not isinstance(value, str):
            raise TypeError(f"{where} must be one of the names {', '.join(names)}, not {shown(value)}")
        if value not in names:
            raise UnsupportedParameterError(
                f"{where} must be one of {', '.join(names)}, not {shown(value)}: {self._engine} has no other"
            )
        return names[value]

    def array(self, item: Any, values: Sequence[Any], where: str = "") -> Any:
        """Return a new C array of structs, images or numbers, which this marshaller owns; NULL if there are no values.

        Raises
        ------
        TypeError, ValueError
            If `values` is not a sequence, or an item does not fit.
        """
        if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
            raise TypeError(f"{where} must be a sequence, not {shown(values)}")
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
        """Return a new `sd_image_t` that shares the memory of a C-contiguous uint8 array (H, W, C)."""
        image = self._ffi.new("sd_image_t *")
        self._alive.append(image)
        self._set_image(image, pixels)
        return image

    def _set_image(self, target: Any, pixels: NDArray[np.uint8]) -> None:
        target.height, target.width, target.channel = pixels.shape
        target.data = self._ffi.from_buffer("uint8_t[]", pixels)
        self._alive.append(target.data)
        self._alive.append(pixels)


def beside(params: Struct) -> dict[str, Any]:
    """Return the values that are set and that functions take beside the C struct, by the names of the fields."""
    return {name: value for name, value in params.given().items() if (params.C_STRUCT, name) in BESIDE}


def _count_names(name: str) -> tuple[str, ...]:
    """Return the possible C names of the field with the length of the array `name`."""
    return f"{name}_count", f"{name.removesuffix('s')}_count", f"{name}_size"


def adopt_images(library: Library, images: Any, count: int) -> list[NDArray[np.uint8]]:
    """Take ownership of the images of a native call.

    Parameters
    ----------
    images : cdata
        Array of `sd_image_t` that the caller owns; this function frees it.
    count : int
        Length of the array.

    Returns
    -------
    list of uint8 arrays (H, W, C)
        Views on native memory, not copies. They own it: an image's memory is freed with the last view on it.
    """
    arrays = [adopt_pixels(library, image) for image in library.ffi.unpack(images, count)]
    library.lib.sdg_free(images)
    return arrays


def adopt_pixels(library: Library, image: Any) -> NDArray[np.uint8]:
    """Take ownership of the pixels of one `sd_image_t`, as `adopt_images` does."""
    data = library.ffi.gc(image.data, library.lib.sdg_free)
    shape = image.height, image.width, image.channel
    return np.frombuffer(library.ffi.buffer(data, math.prod(shape)), np.uint8).reshape(shape)
