"""Read what a safetensors or gguf file says of its tensors, without their data and without trusting a byte of it.

The engine stops the process on many a malformed header, so nothing reaches it that is not checked here. The gguf
package's own reader is not used: it maps the file and loops as often as a header tells it to.
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

__all__ = ["INTEGERS", "NEWEST_GGUF", "UNREADABLE_GGUF", "HeaderError", "Tensor", "read_header"]

_MOST_HEADER = 16 << 20  # bytes; an adapter's largest real ones, with a trainer's notes, have a few MiB
_MOST_MODEL_HEADER = 64 << 20  # a language model's, with 262,144 words and as many merges, have about 15 MiB
_CHUNK = 1 << 20  # bytes read at a time where strings are only passed over
_MOST_DIMENSIONS = {"safetensors": 5, "gguf": 4}
_MOST_NAME = 4096

# What safetensors_io.cpp takes, with the bytes of an element; it passes over U8.
INTEGERS = ("I32", "I64")
"""Data types that the engine has no products of; of real models only ``position_ids`` has one."""

_SAFETENSORS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I32": 4, "I64": 8}
_PASSED_OVER = "U8"
UNREADABLE_GGUF = {"Q8_1", "Q8_K", "I8", "I16", "I64", "F64"}  # the engine stops the process when it meets these
NEWEST_GGUF = 40  # NVFP4; what stands behind it the engine takes for rubbish

_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type of metadata
_GGUF_UINT32, _GGUF_STRING, _GGUF_ARRAY = 4, 8, 9


class HeaderError(ValueError):
    """A file's header cannot be believed; the message names the tensor and the reason."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its file.

    Attributes
    ----------
    dtype : str
        As the file spells it: ``"F16"``, ``"BF16"``, ``"Q8_0"``, ...
    shape : tuple of int
        Rows first, as in PyTorch, also where the file has it the other way round.
    begin, size : int
        Bytes from the start of the file, and their number.
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
        Allow what models have and adapters do not: a header of up to 64 MiB (else 16), and tensors without elements
        (in gguf those of one dimension), with which some checkpoints mark what they predict (``v_pred``).

    Returns
    -------
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"torch"``, told from the content, as the engine does it.
    tensors : dict of str to Tensor
        Empty for ``"torch"``, which only the engine reads.

    Raises
    ------
    HeaderError
        If the header is malformed, or describes data that the file does not hold.
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
                raise HeaderError("its PyTorch archive has no end: truncated")
            return "torch", {}
        return "safetensors", _checked(_read_safetensors(_Reader(file, size, most), whole_model), size)


def _checked(tensors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.begin + tensor.size > size:
            raise HeaderError(
                f"tensor {name!r}: its data ends at byte {tensor.begin + tensor.size}, the file at {size}: truncated"
            )
    in_order = sorted((item for item in tensors.items() if item[1].size), key=lambda item: item[1].begin)
    for (first, before), (second, after) in pairwise(in_order):
        if after.begin < before.begin + before.size:
            raise HeaderError(f"tensor {second!r}: its data overlaps that of {first!r}")
    return tensors


class _Reader:
    """Takes bytes from the start of a file on, and never more than it holds or a header may have."""

    def __init__(self, file: BinaryIO, size: int, most: int) -> None:
        self._file = file
        self._left = min(size, most)
        self._why = f"a header may have {most}" if size > most else "the file ends before"
        self.size = size
        self.position = 0

    def take(self, count: int) -> bytes:
        self._count(count)
        content = self._file.read(count)
        if len(content) != count:
            raise HeaderError(f"the file ends within its header, at byte {self.position}")
        return content

    def skip(self, count: int) -> None:
        self._count(count)
        self._file.seek(count, os.SEEK_CUR)

    def skip_strings(self, count: int) -> None:
        """Pass over strings of gguf; a tokenizer has hundreds of thousands, so they are not taken one by one."""
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
        """Take an unsigned integer: ``"I"`` of 4 bytes, ``"Q"`` of 8."""
        return int(struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))[0])

    def text(self) -> str:
        """Take a string of gguf."""
        length = self.number("Q")
        if length > _MOST_NAME:
            raise HeaderError(f"a name of {length} bytes in the header; at most {_MOST_NAME}")
        try:
            return _named(self.take(length).decode())
        except UnicodeDecodeError as error:
            raise HeaderError(f"a name in the header is no UTF-8: {error}") from error

    def _count(self, count: int) -> None:
        if count > self._left:
            raise HeaderError(f"the header wants {count} bytes from byte {self.position} on; {self._why}")
        self._left -= count
        self.position += count


def _named(name: str) -> str:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise HeaderError(f"tensor {name!r}: its name is no UTF-8") from error
    if not name or "\0" in name or len(encoded) > _MOST_NAME:
        raise HeaderError(f"tensor {name[:80]!r}: a name has 1 to {_MOST_NAME} bytes and no NUL")
    return name


def _read_safetensors(reader: _Reader, may_be_empty: bool) -> dict[str, Tensor]:
    if reader.size < 10:
        raise HeaderError(f"{reader.size} bytes are neither safetensors nor gguf")
    length = reader.number("Q")
    if length > reader.size - 8:
        raise HeaderError(f"the header claims {length} bytes, the file holds {reader.size - 8}: no safetensors file")
    header = _parse_json(reader.take(length))
    start = reader.position
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and not (isinstance(entry, dict) and entry.get("dtype") == _PASSED_OVER):
            tensors[_named(name)] = _safetensor(name, entry, start, may_be_empty)
    return tensors


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        header = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise HeaderError(f"the header is a JSON {type(header).__name__}, not an object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise HeaderError(f"tensor {twice!r}: it stands in the header twice")
    return result


def _no_number(text: str) -> float:
    raise HeaderError(f"the header is no JSON: {text}")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _safetensor(name: str, entry: Any, start: int, may_be_empty: bool) -> Tensor:
    if not isinstance(entry, dict):
        raise HeaderError(f"tensor {name!r}: its entry is no JSON object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS:
        raise HeaderError(f"tensor {name!r}: dtype {dtype!r} is not one of {', '.join(_SAFETENSORS)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise HeaderError(f"tensor {name!r}: shape {shape!r} with data_offsets {offsets!r}")
    begin, end = offsets
    size = _elements(name, shape, "safetensors", may_be_empty) * _SAFETENSORS[dtype]
    if end - begin != size:
        raise HeaderError(f"tensor {name!r}: {dtype} of shape {shape} takes {size} bytes, not {end - begin}")
    return Tensor(dtype, tuple(shape), start + begin, size)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _elements(name: str, shape: list[int], format_name: str, may_be_empty: bool = False) -> int:
    most = _MOST_DIMENSIONS[format_name]
    if len(shape) > most:
        raise HeaderError(f"tensor {name!r}: {len(shape)} dimensions; at most {most} in {format_name}")
    if 0 in shape and not may_be_empty:
        raise HeaderError(f"tensor {name!r}: shape {shape} has no elements")
    return math.prod(shape)


def _read_gguf(reader: _Reader, may_be_empty: bool) -> dict[str, Tensor]:
    reader.take(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise HeaderError(f"gguf version {version}; the engine reads 2 and 3 (little-endian)")
    tensor_count, metadata_count = reader.number("Q"), reader.number("Q")
    alignment = 32
    for _ in range(metadata_count):
        alignment = _read_metadata(reader) or alignment
    sizes = _gguf_types()
    entries: dict[str, tuple[str, list[int], int, int]] = {}
    for _ in range(tensor_count):
        name = reader.text()
        if name in entries:
            raise HeaderError(f"tensor {name!r}: it stands in the header twice")
        entries[name] = _gguf_entry(name, reader, sizes, may_be_empty)
    start = -(-reader.position // alignment) * alignment
    for name, (*_, offset, _size) in entries.items():
        if offset % alignment:
            raise HeaderError(f"tensor {name!r}: offset {offset} is no multiple of the alignment {alignment}")
    return {
        name: Tensor(dtype, tuple(reversed(shape)), start + offset, size)
        for name, (dtype, shape, offset, size) in entries.items()
    }


def _read_metadata(reader: _Reader) -> int | None:
    """Pass over one entry of metadata; give the alignment if it is that."""
    key, kind = reader.text(), reader.number("I")
    if key == "general.alignment":
        alignment = reader.number("I") if kind == _GGUF_UINT32 else 0
        if alignment == 0 or alignment & (alignment - 1):
            raise HeaderError(f"general.alignment {alignment} of type {kind}; it must be a power of two of type 4")
        return alignment
    count = 1
    if kind == _GGUF_ARRAY:
        kind, count = reader.number("I"), reader.number("Q")
    if kind == _GGUF_STRING:
        reader.skip_strings(count)
    elif kind in _GGUF_SIZES:
        reader.skip(count * _GGUF_SIZES[kind])
    else:
        raise HeaderError(f"metadata {key!r}: type {kind}, which gguf does not have here")
    return None


@lru_cache(maxsize=1)
def _gguf_types() -> dict[int, tuple[str, int, int]]:
    """Name, elements and bytes of a block, by number."""
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
        raise HeaderError(f"tensor {name!r}: {dimensions} dimensions; at most {_MOST_DIMENSIONS['gguf']} in gguf")
    shape = [reader.number("Q") for _ in range(dimensions)]
    elements = _elements(name, shape, "gguf", may_be_empty and shape == [0])
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in types:
        legal = ", ".join(f"{number} ({name})" for number, (name, *_) in sorted(types.items()))
        raise HeaderError(f"tensor {name!r}: type {kind} is not one of {legal}")
    dtype, block_elements, block_bytes = types[kind]
    if (shape[0] if shape else 1) % block_elements:
        raise HeaderError(f"tensor {name!r}: {dtype} rows of {shape[:1]} elements; blocks have {block_elements}")
    return dtype, shape, offset, elements // block_elements * block_bytes
