"""Read the header of a model file of any format without trusting it, and without reading the data.

Many malformed headers make the engine end the process, so every file is checked here first.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from .._files import replacing
from .._quoting import shown
from .gguf_header import NEWEST_GGUF, UNREADABLE_GGUF, add_gguf_texts, read_gguf, read_gguf_texts
from .signatures import WINDOW, foreign
from .tensors import HeaderError, Reader, Tensor, elements, named
from .torch_files import is_pickle, read_pickled, read_zipped

__all__ = [
    "INTEGERS",
    "NEWEST_GGUF",
    "UNREADABLE_GGUF",
    "HeaderError",
    "Tensor",
    "add_metadata",
    "read_header",
    "read_metadata",
]

_MOST_HEADER = 16 << 20  # bytes; the largest real headers of adapters, with a trainer's notes, have a few MiB
_MOST_GGUF_HEADER = 64 << 20  # bytes; a language model's with 262,144 words has about 15 MiB
_MOST_TENSORS = 32_768  # as many as the engine makes room for (MAX_PARAMS_TENSOR_NUM); real models have 3,000
_CHUNK = 16 << 20  # bytes that are copied at a time
_MOST_NUMBER = 1000  # of blocks and layers; the engine would make all those in between

INTEGERS = ("I32", "I64")
"""Data types that the engine cannot multiply; in real models only ``position_ids`` has one."""

# Types that safetensors_io.cpp reads, with the bytes of an element; it skips U8, see companions.py.
_SAFETENSORS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I32": 4, "I64": 8, "U8": 1}
_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{4,}(?![0-9A-Za-z])")


def read_header(path: Path, *, whole_model: bool = False) -> tuple[str, dict[str, Tensor]]:
    """Read the tensors of a file.

    Parameters
    ----------
    path : Path
        A regular file.
    whole_model : bool
        Whether the file is a model, not an adapter. Models in gguf may have a header of up to 64 MiB (else 16 MiB).
        Models may have tensors without elements (in gguf only with one dimension): some checkpoints mark their kind of
        prediction with a tensor named ``v_pred``. Numbers within the names of their tensors are limited.

    Returns
    -------
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"torch"``, by the file's content, as in the engine.
    tensors : dict of str to Tensor
        By name.

    Raises
    ------
    HeaderError
        If the header is malformed, or describes more data than the file has.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(WINDOW)
        file.seek(0)
        kind, tensors = _read(file, size, start, whole_model)
    _check_names(tensors, whole_model)
    return kind, _checked(tensors, size, may_share=kind == "torch")


def _read(file: BinaryIO, size: int, start: bytes, whole_model: bool) -> tuple[str, dict[str, Tensor]]:
    if start[:4] == b"GGUF":
        most = _MOST_GGUF_HEADER if whole_model else _MOST_HEADER
        return "gguf", read_gguf(Reader(file, size, most), _MOST_TENSORS, whole_model)
    if start[8:9] != b"{" and (why := foreign(start)):
        raise HeaderError(why)
    if start[:4] == b"PK\x03\x04":
        return "torch", read_zipped(file, _MOST_TENSORS)
    if is_pickle(start):
        return "torch", read_pickled(file, size, _MOST_TENSORS)
    return "safetensors", _read_safetensors(Reader(file, size, _MOST_HEADER), whole_model)


def _check_names(tensors: Mapping[str, Tensor], whole_model: bool) -> None:
    if len(tensors) > _MOST_TENSORS:
        raise HeaderError(f"a file may have at most {_MOST_TENSORS} tensors, not {len(tensors)}")
    for name in tensors if whole_model else ():
        for number in _NUMBER.findall(name):
            if len(number) > len(str(_MOST_NUMBER)) or int(number) > _MOST_NUMBER:
                raise HeaderError(
                    f"tensor {shown(name)}: a number within a name may be at most {_MOST_NUMBER}, not {shown(number)}"
                )


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text in the metadata of a safetensors or gguf file, whose header `read_header` has checked.

    Returns
    -------
    dict of str to str
        Numbers of gguf are text too. Empty for other formats.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) == b"GGUF":
            file.seek(0)
            return read_gguf_texts(Reader(file, size, _MOST_GGUF_HEADER))
        file.seek(0)
        reader = Reader(file, size, _MOST_HEADER)
        length = reader.number("Q")
        if length > size - 8:
            return {}
        values = _parse_json(reader.take(length)).get("__metadata__")
    if not isinstance(values, dict):
        return {}
    return {name: text for name, text in values.items() if isinstance(text, str)}


def add_metadata(path: Path, texts: Mapping[str, str]) -> None:
    """Write a safetensors or gguf file anew, with further texts in its metadata; its tensors stay as they are.

    Parameters
    ----------
    path : Path
        A file whose header `read_header` has checked.
    texts : mapping of str to str
        By key. One that the file has already keeps its text.
    """
    present = read_metadata(path)
    texts = {key: text for key, text in texts.items() if key not in present}
    with path.open("rb") as file, replacing(path) as temporary:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) == b"GGUF":
            file.seek(0)
            reader = Reader(file, size, _MOST_GGUF_HEADER)
            read_gguf(reader, _MOST_TENSORS, True)
            file.seek(0)
            alignment = int(present.get("general.alignment", 32))
            header = add_gguf_texts(file.read(reader.position), texts, alignment)
            begin = -(-reader.position // alignment) * alignment
        else:
            file.seek(0)
            reader = Reader(file, size, _MOST_HEADER)
            values = _parse_json(reader.take(reader.number("Q")))
            values["__metadata__"] = {**values.get("__metadata__", {}), **texts}
            content = json.dumps(values, separators=(",", ":")).encode()
            content += b" " * (-len(content) % 8)
            header, begin = len(content).to_bytes(8, "little") + content, reader.position
        file.seek(begin)
        with temporary.open("wb") as target:
            target.write(header)
            shutil.copyfileobj(file, target, _CHUNK)


def _checked(tensors: dict[str, Tensor], size: int, *, may_share: bool) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.begin + tensor.size > size:
            raise HeaderError(
                f"the file is truncated: the data of tensor {name!r} ends at byte {tensor.begin + tensor.size}, but the"
                f" file ends at {size}; download the file again"
            )
    in_order = sorted((item for item in tensors.items() if item[1].size), key=lambda item: item[1].begin)
    for (first, before), (second, after) in () if may_share else pairwise(in_order):
        if after.begin < before.begin + before.size:
            raise HeaderError(f"the data of tensor {second!r} overlaps that of {first!r}")
    return tensors


def _read_safetensors(reader: Reader, may_be_empty: bool) -> dict[str, Tensor]:
    if reader.size < 10:
        raise HeaderError(f"a file of {reader.size} bytes is neither safetensors nor gguf")
    length = reader.number("Q")
    if length > reader.size - 8:
        raise HeaderError(
            f"it is no safetensors, gguf or PyTorch file, or a truncated one: the header claims {length} bytes, but the"
            f" file has {reader.size - 8}; download it again"
        )
    content = reader.take(length)
    if (count := content.count(b'"data_offsets"')) > _MOST_TENSORS:  # before they take time and memory
        raise HeaderError(f"a file may have at most {_MOST_TENSORS} tensors, not {count}")
    header = _parse_json(content)
    start = reader.position
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[named(name)] = _safetensor(name, entry, start, may_be_empty)
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
        raise HeaderError(
            f"tensor {name!r}: dtype {shown(dtype)} is not one of {', '.join(_SAFETENSORS)}, which the engine reads:"
            " get the model in one of these, or as gguf"
        )
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise HeaderError(
            f"tensor {shown(name)}: shape {shown(shape)} and data_offsets {shown(offsets)} must be lists of counts"
        )
    begin, end = offsets
    size = elements(name, shape, "safetensors", may_be_empty or dtype == "U8") * _SAFETENSORS[dtype]
    if end - begin != size:
        raise HeaderError(
            f"tensor {name!r}: {dtype} of shape {shown(shape)} has {shown(size)} bytes, not {shown(end - begin)}"
        )
    return Tensor(dtype, tuple(shape), start + begin, size)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
