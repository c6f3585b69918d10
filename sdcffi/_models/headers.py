"""Read the header of a safetensors or gguf file without trusting it, and without reading the data.

Many malformed headers make the engine end the process, so every file is checked here first. The gguf package's own
reader is not used: it maps the file, and loops as often as the header says.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

__all__ = ["INTEGERS", "NEWEST_GGUF", "UNREADABLE_GGUF", "HeaderError", "Tensor", "read_header", "read_metadata"]

_MOST_HEADER = 16 << 20  # bytes; the largest real headers of adapters, with a trainer's notes, have a few MiB
_MOST_MODEL_HEADER = 64 << 20  # bytes; a language model's with 262,144 words has about 15 MiB
_CHUNK = 1 << 20  # bytes read at a time while strings are skipped
_MOST_DIMENSIONS = {"safetensors": 5, "gguf": 4}
_MOST_NAME = 4096

INTEGERS = ("I32", "I64")
"""Data types that the engine cannot multiply; in real models only ``position_ids`` has one."""

# Types that safetensors_io.cpp reads, with the bytes of an element; it skips U8.
_SAFETENSORS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I32": 4, "I64": 8}
_SKIPPED = "U8"
UNREADABLE_GGUF = {"Q8_1", "Q8_K", "I8", "I16", "I64", "F64"}  # the engine ends the process on these
NEWEST_GGUF = 40  # NVFP4; the engine reads newer types as rubbish

_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each type of metadata
_GGUF_UINT32, _GGUF_STRING, _GGUF_ARRAY = 4, 8, 9


class HeaderError(ValueError):
    """A file's header is malformed. The message names the tensor and the reason."""


@dataclass(frozen=True)
class Tensor:
    """Type, shape and place of a tensor in its file.

    Attributes
    ----------
    dtype : str
        The file's name of the type: ``"F16"``, ``"BF16"``, ``"Q8_0"``, ...
    shape : tuple of int
        Rows first, as in PyTorch, even if the file has the opposite order.
    begin, size : int
        Offset from the start of the file, and length, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


def read_header(path: Path, *, whole_model: bool = False) -> tuple[str, dict[str, Tensor]]:
    """Read the tensors of a file.

    Parameters
    ----------
    path : Path
        A regular file.
    whole_model : bool
        Whether the file is a model, not an adapter. Models may have a header of up to 64 MiB (else 16 MiB), and
        tensors without elements (in gguf only with one dimension): some checkpoints mark their kind of prediction
        with a tensor named ``v_pred``.

    Returns
    -------
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"torch"``, by the file's content, as in the engine.
    tensors : dict of str to Tensor
        By name. Empty for ``"torch"``, which only the engine reads.

    Raises
    ------
    HeaderError
        If the header is malformed, or describes more data than the file has.
    """
    most = _MOST_MODEL_HEADER if whole_model else _MOST_HEADER
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        file.seek(0)
        if start[:4] == b"GGUF":
            return "gguf", _checked(_read_gguf(_Reader(file, size, most), whole_model), size)
        if start[:4] == b"PK\x03\x04" or (path.suffix.lower() in (".ckpt", ".pt", ".pth") and start[8:9] != b"{"):
            if start[:2] == b"PK" and not zipfile.is_zipfile(file):
                raise HeaderError("the PyTorch archive is truncated: download the file again")
            return "torch", {}
        return "safetensors", _checked(_read_safetensors(_Reader(file, size, most), whole_model), size)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text in the metadata of a safetensors file, whose header `read_header` has checked.

    Returns
    -------
    dict of str to str
        Empty for other formats.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        reader = _Reader(file, size, _MOST_HEADER)
        length = reader.number("Q")
        if length > size - 8:
            return {}
        values = _parse_json(reader.take(length)).get("__metadata__")
    if not isinstance(values, dict):
        return {}
    return {name: text for name, text in values.items() if isinstance(text, str)}


def _checked(tensors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.begin + tensor.size > size:
            raise HeaderError(
                f"the file is truncated: the data of tensor {name!r} ends at byte {tensor.begin + tensor.size}, but the"
                f" file ends at {size}; download the file again"
            )
    in_order = sorted((item for item in tensors.items() if item[1].size), key=lambda item: item[1].begin)
    for (first, before), (second, after) in pairwise(in_order):
        if after.begin < before.begin + before.size:
            raise HeaderError(f"the data of tensor {second!r} overlaps that of {first!r}")
    return tensors


class _Reader:
    """Reads bytes from the start of a file, at most as many as the file has and a header may have."""

    def __init__(self, file: BinaryIO, size: int, most: int) -> None:
        self._file = file
        self._left = min(size, most)
        self._why = f"a header may have at most {most}" if size > most else "the file is shorter"
        self.size = size
        self.position = 0

    def take(self, count: int) -> bytes:
        self._count(count)
        content = self._file.read(count)
        if len(content) != count:
            raise HeaderError(f"the file is truncated in its header, at byte {self.position}; download it again")
        return content

    def skip(self, count: int) -> None:
        self._count(count)
        self._file.seek(count, os.SEEK_CUR)

    def skip_strings(self, count: int) -> None:
        """Skip strings of gguf in large blocks: a tokenizer has hundreds of thousands of them."""
        if count > self._left // 8:
            self._count(8 * count)
        position, chunk, begin = self.position, b"", self.position
        for _ in range(count):
            if position + 8 > begin + len(chunk):
                self._file.seek(position)
                chunk, begin = self._file.read(_CHUNK), position
                if len(chunk) < 8:
                    break
            position += 8 + int.from_bytes(chunk[position - begin : position - begin + 8], "little")
        self._count(position - self.position)
        self._file.seek(position)

    def number(self, layout: str) -> int:
        """Read an unsigned integer: ``"I"`` for 4 bytes, ``"Q"`` for 8."""
        return int(struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))[0])

    def text(self) -> str:
        """Read a string of gguf."""
        length = self.number("Q")
        if length > _MOST_NAME:
            raise HeaderError(f"a name in the header must have at most {_MOST_NAME} bytes, not {length}")
        try:
            return _named(self.take(length).decode())
        except UnicodeDecodeError as error:
            raise HeaderError(f"a name in the header is not valid UTF-8: {error}") from error

    def _count(self, count: int) -> None:
        if count > self._left:
            raise HeaderError(f"the header needs {count} bytes from byte {self.position} on, but {self._why}")
        self._left -= count
        self.position += count


def _named(name: str) -> str:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise HeaderError(f"tensor {name!r}: the name is not valid UTF-8") from error
    if not name or "\0" in name or len(encoded) > _MOST_NAME:
        raise HeaderError(f"tensor {name[:80]!r}: a name must have 1 to {_MOST_NAME} bytes and no NUL character")
    return name


def _read_safetensors(reader: _Reader, may_be_empty: bool) -> dict[str, Tensor]:
    if reader.size < 10:
        raise HeaderError(f"a file of {reader.size} bytes is neither safetensors nor gguf")
    length = reader.number("Q")
    if length > reader.size - 8:
        raise HeaderError(
            f"the header claims {length} bytes, but the file has {reader.size - 8}: it is not a safetensors file"
        )
    header = _parse_json(reader.take(length))
    start = reader.position
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and not (isinstance(entry, dict) and entry.get("dtype") == _SKIPPED):
            tensors[_named(name)] = _safetensor(name, entry, start, may_be_empty)
    return tensors


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        header = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise HeaderError(f"the header must be a JSON object, not a {type(header).__name__}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise HeaderError(f"tensor {twice!r} is in the header twice")
    return result


def _no_number(text: str) -> float:
    raise HeaderError(f"the header is not valid JSON: {text}")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _safetensor(name: str, entry: Any, start: int, may_be_empty: bool) -> Tensor:
    if not isinstance(entry, dict):
        raise HeaderError(f"tensor {name!r}: the entry must be a JSON object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS:
        raise HeaderError(f"tensor {name!r}: dtype {dtype!r} is not one of {', '.join(_SAFETENSORS)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise HeaderError(f"tensor {name!r}: shape {shape!r} and data_offsets {offsets!r} must be lists of counts")
    begin, end = offsets
    size = _elements(name, shape, "safetensors", may_be_empty) * _SAFETENSORS[dtype]
    if end - begin != size:
        raise HeaderError(f"tensor {name!r}: {dtype} of shape {shape} has {size} bytes, not {end - begin}")
    return Tensor(dtype, tuple(shape), start + begin, size)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _elements(name: str, shape: list[int], format_name: str, may_be_empty: bool = False) -> int:
    most = _MOST_DIMENSIONS[format_name]
    if len(shape) > most:
        raise HeaderError(f"tensor {name!r} must have at most {most} dimensions in {format_name}, not {len(shape)}")
    if 0 in shape and not may_be_empty:
        raise HeaderError(f"tensor {name!r}: shape {shape} has no elements")
    return math.prod(shape)


def _read_gguf(reader: _Reader, may_be_empty: bool) -> dict[str, Tensor]:
    reader.take(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise HeaderError(f"gguf version must be 2 or 3 (little-endian), not {version}: convert the file")
    tensor_count, metadata_count = reader.number("Q"), reader.number("Q")
    alignment = 32
    for _ in range(metadata_count):
        alignment = _read_metadata(reader) or alignment
    sizes = _gguf_types()
    entries: dict[str, tuple[str, list[int], int, int]] = {}
    for _ in range(tensor_count):
        name = reader.text()
        if name in entries:
            raise HeaderError(f"tensor {name!r} is in the header twice")
        entries[name] = _gguf_entry(name, reader, sizes, may_be_empty)
    start = -(-reader.position // alignment) * alignment
    for name, (*_, offset, _size) in entries.items():
        if offset % alignment:
            raise HeaderError(f"tensor {name!r}: offset {offset} is not a multiple of the alignment {alignment}")
    return {
        name: Tensor(dtype, tuple(reversed(shape)), start + offset, size)
        for name, (dtype, shape, offset, size) in entries.items()
    }


def _read_metadata(reader: _Reader) -> int | None:
    """Skip one entry of metadata. Return the alignment if the entry is the alignment, else None."""
    key, kind = reader.text(), reader.number("I")
    if key == "general.alignment":
        alignment = reader.number("I") if kind == _GGUF_UINT32 else 0
        if alignment == 0 or alignment & (alignment - 1):
            raise HeaderError(f"general.alignment must be a power of two of type 4, not {alignment} of type {kind}")
        return alignment
    count = 1
    if kind == _GGUF_ARRAY:
        kind, count = reader.number("I"), reader.number("Q")
    if kind == _GGUF_STRING:
        reader.skip_strings(count)
    elif kind in _GGUF_SIZES:
        reader.skip(count * _GGUF_SIZES[kind])
    else:
        raise HeaderError(f"metadata {key!r}: gguf has no type {kind} here")
    return None


@lru_cache(maxsize=1)
def _gguf_types() -> dict[int, tuple[str, int, int]]:
    """Return name, and elements and bytes of a block, by the number of the type."""
    gguf: Any
    import gguf

    return {
        int(kind): (kind.name, *sizes)
        for kind, sizes in gguf.GGML_QUANT_SIZES.items()
        if int(kind) <= NEWEST_GGUF and kind.name not in UNREADABLE_GGUF
    }


def _gguf_entry(
    name: str, reader: _Reader, types: dict[int, tuple[str, int, int]], may_be_empty: bool
) -> tuple[str, list[int], int, int]:
    dimensions = reader.number("I")
    if dimensions > _MOST_DIMENSIONS["gguf"]:
        raise HeaderError(
            f"tensor {name!r} must have at most {_MOST_DIMENSIONS['gguf']} dimensions in gguf, not {dimensions}"
        )
    shape = [reader.number("Q") for _ in range(dimensions)]
    elements = _elements(name, shape, "gguf", may_be_empty and shape == [0])
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in types:
        legal = ", ".join(f"{number} ({name})" for number, (name, *_) in sorted(types.items()))
        raise HeaderError(f"tensor {name!r}: type {kind} is not one of {legal}")
    dtype, block_elements, block_bytes = types[kind]
    if (shape[0] if shape else 1) % block_elements:
        raise HeaderError(
            f"tensor {name!r}: rows of {dtype} must have a multiple of {block_elements} elements, not {shape[:1]}"
        )
    return dtype, shape, offset, elements // block_elements * block_bytes
