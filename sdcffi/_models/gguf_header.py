"""Read the header of a gguf file.

The gguf package's own reader is not used: it maps the file, and loops as often as the header says.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .tensors import HeaderError, Reader, Tensor, elements

__all__ = ["NEWEST_GGUF", "UNREADABLE_GGUF", "add_gguf_texts", "read_gguf", "read_gguf_texts"]

UNREADABLE_GGUF = {"Q8_1", "Q8_K", "I8", "I16", "I64", "F64"}  # the engine ends the process on these
NEWEST_GGUF = 40  # NVFP4; the engine reads newer types as rubbish

_MOST_DIMENSIONS = 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each type of metadata
_UINT32, _STRING, _ARRAY = 4, 8, 9
_NUMBERS = {4: "I", 5: "I", 10: "Q", 11: "Q"}  # of these, shapes are
_LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # for struct
_MOST_TEXT = 4096  # bytes of a text that is of interest
_START = 24  # bytes before the metadata: signature, version and two counts


def read_gguf(reader: Reader, most_tensors: int, may_be_empty: bool) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Parameters
    ----------
    reader : Reader
        At the start of the file.
    most_tensors : int
        As many as it may have.
    may_be_empty : bool
        Whether tensors of one dimension may have no elements.
    """
    reader.take(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise HeaderError(f"gguf version must be 2 or 3 (little-endian), not {version}: convert the file")
    tensor_count, metadata_count = reader.number("Q"), reader.number("Q")
    if tensor_count > most_tensors:
        raise HeaderError(f"a file may have at most {most_tensors} tensors, not {tensor_count}")
    alignment = 32
    shapes: dict[str, list[int]] = {}
    for _ in range(metadata_count):
        alignment = _read_metadata(reader, shapes) or alignment
    sizes = _types()
    entries: dict[str, tuple[str, list[int], int, int]] = {}
    for _ in range(tensor_count):
        name = reader.text()
        if name in entries:
            raise HeaderError(f"tensor {name!r} is in the header twice")
        entries[name] = _entry(name, reader, sizes, may_be_empty)
    _check_shapes(entries, shapes)
    start = -(-reader.position // alignment) * alignment
    for name, (*_, offset, _size) in entries.items():
        if offset % alignment:
            raise HeaderError(f"tensor {name!r}: offset {offset} is not a multiple of the alignment {alignment}")
    return {
        name: Tensor(dtype, tuple(reversed(shape)), start + offset, size)
        for name, (dtype, shape, offset, size) in entries.items()
    }


def _check_shapes(entries: Mapping[str, tuple[str, list[int], int, int]], shapes: Mapping[str, list[int]]) -> None:
    """Refuse tensors that another program has reshaped, to fill blocks: the engine takes them as they are."""
    reshaped = [name for name in entries if name in shapes and _four(shapes[name]) != _four(entries[name][1][::-1])]
    if reshaped:
        name = reshaped[0]
        raise HeaderError(
            f"tensor {name!r} is stored with shape {entries[name][1][::-1]} in place of {shapes[name]}, which the"
            f" engine does not undo (orig_shape in the file's metadata, {len(reshaped)} tensors): get the model as"
            " safetensors, or as gguf made by stable-diffusion.cpp or 'sdcffi convert'"
        )


def _four(shape: list[int]) -> list[int]:
    """Return a shape as the engine has it: without dimensions of 1 in front, and the first two of five are one."""
    if len(shape) == 5:
        shape = [shape[0] * shape[1], *shape[2:]]
    first = next((index for index, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


def _read_metadata(reader: Reader, shapes: dict[str, list[int]]) -> int | None:
    """Skip one entry of metadata, but for noted shapes. Return the alignment if the entry is that, else None."""
    key, kind = reader.text(), reader.number("I")
    if key == "general.alignment":
        alignment = reader.number("I") if kind == _UINT32 else 0
        if alignment == 0 or alignment & (alignment - 1):
            raise HeaderError(f"general.alignment must be a power of two of type 4, not {alignment} of type {kind}")
        return alignment
    count = 1
    if kind == _ARRAY:
        kind, count = reader.number("I"), reader.number("Q")
        _, noted, name = key.partition(".orig_shape.")
        if noted and kind in _NUMBERS and count <= 8:
            shapes[name] = [reader.number(_NUMBERS[kind]) for _ in range(count)]
            return None
    _skip(reader, key, kind, count)
    return None


def _skip(reader: Reader, key: str, kind: int, count: int) -> None:
    if kind == _STRING:
        reader.skip_strings(count)
    elif kind in _SIZES:
        reader.skip(count * _SIZES[kind])
    else:
        raise HeaderError(f"metadata {key!r}: gguf has no type {kind} here")


def read_gguf_texts(reader: Reader) -> dict[str, str]:
    """Return the texts and numbers in the metadata of a file that `read_gguf` has read, by key, numbers as text.

    Parameters
    ----------
    reader : Reader
        At the start of the file.
    """
    reader.skip(_START - 8)
    texts: dict[str, str] = {}
    for _ in range(reader.number("Q")):
        key, kind = reader.text(), reader.number("I")
        if kind == _STRING and (size := reader.number("Q")) <= _MOST_TEXT:
            texts[key] = reader.take(size).decode(errors="replace")
        elif kind == _STRING:
            reader.skip(size)
        elif kind in _LAYOUTS:
            (value,) = struct.unpack(f"<{_LAYOUTS[kind]}", reader.take(_SIZES[kind]))
            texts[key] = str(value)
        else:
            _skip(reader, key, reader.number("I"), reader.number("Q"))
    return texts


def add_gguf_texts(header: bytes, texts: Mapping[str, str], alignment: int) -> bytes:
    """Return a header with further texts in its metadata, filled up to where the tensors begin.

    Parameters
    ----------
    header : bytes
        From the start of a file to the end of its list of tensors.
    texts : mapping of str to str
        By key; the header has none of these keys.
    alignment : int
        Of the tensors, in bytes.
    """
    entries = b"".join(_text(key) + struct.pack("<I", _STRING) + _text(value) for key, value in texts.items())
    (count,) = struct.unpack_from("<Q", header, _START - 8)
    whole = header[: _START - 8] + struct.pack("<Q", count + len(texts)) + entries + header[_START:]
    return whole + bytes(-len(whole) % alignment)


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


@lru_cache(maxsize=1)
def _types() -> dict[int, tuple[str, int, int]]:
    """Return name, and elements and bytes of a block, by the number of the type."""
    gguf: Any
    import gguf

    return {
        int(kind): (kind.name, *sizes)
        for kind, sizes in gguf.GGML_QUANT_SIZES.items()
        if int(kind) <= NEWEST_GGUF and kind.name not in UNREADABLE_GGUF
    }


def _entry(
    name: str, reader: Reader, types: dict[int, tuple[str, int, int]], may_be_empty: bool
) -> tuple[str, list[int], int, int]:
    dimensions = reader.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise HeaderError(f"tensor {name!r} must have at most {_MOST_DIMENSIONS} dimensions in gguf, not {dimensions}")
    shape = [reader.number("Q") for _ in range(dimensions)]
    count = elements(name, shape, "gguf", may_be_empty and shape == [0])
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in types:
        legal = ", ".join(f"{number} ({name})" for number, (name, *_) in sorted(types.items()))
        raise HeaderError(f"tensor {name!r}: type {kind} is not one of {legal}")
    dtype, block_elements, block_bytes = types[kind]
    if (shape[0] if shape else 1) % block_elements:
        raise HeaderError(
            f"tensor {name!r}: rows of {dtype} must have a multiple of {block_elements} elements, not {shape[:1]}"
        )
    return dtype, shape, offset, count // block_elements * block_bytes
