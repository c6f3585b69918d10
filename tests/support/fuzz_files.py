"""Files of models, broken: bytes of a whole file, fields of its header, or tensors that do not belong together.

`broken` writes one. Half of them are parseable, so that they get as far as the engine lets them.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from header_files import mutated
from safetensors import safe_open

_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I32": 4, "I64": 8}
_NUMPY = {"float16": "F16", "float32": "F32"}
_GGUF_FLOATS = {"F32": 0, "F16": 1, "BF16": 30, "F64": 28, "I32": 26, "I64": 27}
_ODD_NAMES = ["%s%s%n", "a\0b", "", "x" * 70, "x" * 5000, "\u00e9\u4e2d", "../../x", "a" * 63 + "%n", " ", "weight"]
_ODD_COUNTS = [0, 1, 2, 3, 31, 33, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]
_ODD_JSON: list[Any] = [None, True, -1, 1.5, 1e300, "", "F16", [], [[[]]], {}, {"a": {}}, 1 << 70, [1] * 40, "%n"]


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: how its type is spelled (safetensors) or numbered (gguf), and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    kind: int = 0


Content = dict[str, Entry]


def read_content(path: Path) -> Content:
    """The tensors of a safetensors file."""
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {
        name: Entry(label := _NUMPY[array.dtype.name], array.shape, array.tobytes(), _GGUF_FLOATS[label])
        for name, array in arrays.items()
    }


def quantised(content: Content, name: str) -> Content:
    """The same with matrices of another ggml type, where their rows allow it; only gguf holds it."""
    kind = gguf.GGMLQuantizationType[name]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    result = dict(content)
    for key, entry in content.items():
        if len(entry.shape) == 2 and entry.shape[1] % block == 0:
            values = np.frombuffer(entry.data, np.float16).reshape(entry.shape).astype(np.float32)
            result[key] = replace(entry, data=gguf.quantize(values, kind).tobytes(), kind=int(kind))
    return result


# Writing, with lies about single fields if asked.


def safetensors_bytes(content: Content, lie: Callable[[dict[str, Any]], None] | None = None) -> bytes:
    """A safetensors file; `lie` may change its header."""
    header: dict[str, Any] = {}
    end = 0
    for name, entry in content.items():
        begin, end = end, end + len(entry.data)
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
    if lie:
        lie(header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + b"".join(entry.data for entry in content.values())


def gguf_bytes(content: Content, lie: Callable[[str, int], int] | None = None, metadata: bytes = b"") -> bytes:
    """A gguf file; `lie` is given each number of the header by what it counts, and may return another."""

    def number(what: str, value: int, layout: str = "Q") -> bytes:
        told = lie(what, value) if lie else value
        return struct.pack(f"<{layout}", told & (0xFFFFFFFF if layout == "I" else 0xFFFFFFFFFFFFFFFF))

    parts = [b"GGUF", number("version", 3, "I"), number("tensors", len(content)), number("entries", bool(metadata))]
    parts.append(metadata)
    offset = 0
    for name, entry in content.items():
        encoded = name.encode()
        parts += [number("name", len(encoded)), encoded, number("dimensions", len(entry.shape), "I")]
        parts += [number("dimension", size) for size in reversed(entry.shape)]
        parts += [number("type", entry.kind, "I"), number("offset", offset)]
        offset += len(entry.data) + -len(entry.data) % 32
    head = b"".join(parts)
    data = b"".join(entry.data + bytes(-len(entry.data) % 32) for entry in content.values())
    return head + bytes(-len(head) % 32) + data


def nested_array(depth: int) -> bytes:
    """A metadata entry of gguf: an array of one array of one array ..."""
    key = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    return key + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 0)


# Ways to break a file.


def broken_content(content: Content, rng: random.Random) -> Content:
    """Change tensors so that the file still parses: other shapes, types, names and numbers, missing or too many."""
    result = dict(content)
    for _ in range(rng.choice([1, 1, 1, 3])):
        name = rng.choice(list(result))
        entry = result.pop(name)
        match rng.randrange(9):
            case 0:
                continue
            case 1:
                result[rng.choice(_ODD_NAMES) if rng.random() < 0.3 else _misspelt(name, rng)] = entry
            case 2:
                result[name] = _filled(entry, _other_shape(entry.shape, rng), rng)
            case 3:
                result[name] = replace(entry, shape=entry.shape[::-1])
            case 4:
                result[name] = replace(entry, shape=(*entry.shape, *[1] * rng.randint(1, 3)))
            case 5:
                label = rng.choice(list(_SIZES))
                elements = int(np.prod(entry.shape, dtype=np.int64))
                data = rng.randbytes(elements * _SIZES[label])
                result[name] = Entry(label, entry.shape, data, _GGUF_FLOATS.get(label, 24))
            case 6:
                result[name] = replace(entry, data=_odd_numbers(entry, rng))
            case 7:
                other = rng.choice(list(result) or [name])
                result[name], result[other] = result.get(other, entry), entry
            case _:
                result[name] = entry
                for index in range(rng.choice([1, 3, 200])):
                    result[f"{name}.{index}"] = entry if len(entry.data) < 100 else replace(
                        entry, shape=(1,), data=bytes(_SIZES[entry.dtype]), kind=_GGUF_FLOATS[entry.dtype]
                    )  # fmt: skip
    return result


def _misspelt(name: str, rng: random.Random) -> str:
    digits = [at for at, letter in enumerate(name) if letter.isdigit()]
    at = rng.choice(digits) if digits and rng.random() < 0.6 else rng.randrange(len(name))
    return name[:at] + rng.choice(["7", "99", "1000000000", "-1", "x", "%n", "..", "_"]) + name[at + 1 :]


def _other_shape(shape: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    sizes = list(shape or (1,))
    at = rng.randrange(len(sizes))
    sizes[at] = rng.choice([1, 2, 3, 31, sizes[at] + 1, max(1, sizes[at] - 1), max(1, sizes[at] // 2), sizes[at] * 2])
    return tuple(sizes)


def _filled(entry: Entry, shape: tuple[int, ...], rng: random.Random) -> Entry:
    before, after = (int(np.prod(sizes, dtype=np.int64)) for sizes in (entry.shape, shape))
    size = len(entry.data) * after // before
    return replace(entry, shape=shape, data=(entry.data * (size // max(1, len(entry.data)) + 1))[:size])


def _odd_numbers(entry: Entry, rng: random.Random) -> bytes:
    pattern = rng.choice([b"\xff\xff", b"\x00\x7c", b"\xff\x7b", b"\x00\x00", b"\x01\x00", b"\x00\x7e"])
    return (pattern * (len(entry.data) // 2 + 1))[: len(entry.data)]


def _lying_header(header: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(list(header))
    entry = header[name]
    match rng.randrange(7):
        case 0:
            header[name] = rng.choice(_ODD_JSON)
        case 1:
            del entry[rng.choice(list(entry))]
        case 2:
            entry[rng.choice(list(entry))] = rng.choice(_ODD_JSON)
        case 3:
            entry["dtype"] = rng.choice(["BOOL", "U8", "U16", "I8", "F8_E4M3", "f16", "%s", "F128"])
        case 4:
            entry["shape"] = [rng.choice(_ODD_COUNTS) for _ in range(rng.randrange(8))]
        case 5:
            entry["data_offsets"] = sorted(rng.choice(_ODD_COUNTS) for _ in range(rng.choice([2, 2, 1, 3])))
        case _:
            header["__metadata__"] = rng.choice([{"%n": "%n"}, {"a": {"b": [1]}}, [], "x", {"format": "pt" * 9999}])


def _liar(rng: random.Random, of: int) -> Callable[[str, int], int]:
    chosen = rng.choice(["version", "tensors", "entries", "name", "dimensions", "dimension", "type", "offset"])
    place, at = 0, rng.randrange(of)

    def lie(what: str, value: int) -> int:
        nonlocal place
        if what != chosen:
            return value
        place += 1
        if what in ("version", "tensors", "entries") or place == at + 1:
            return rng.choice([rng.randrange(64), value + 1, value - 1, *_ODD_COUNTS])
        return value

    return lie


def _metadata(rng: random.Random) -> bytes:
    key = rng.choice([b"general.alignment", b"general.alignment", b"a", b"%n%s", b"\xff"])
    kind = rng.choice([*range(14), 77, 1 << 31])
    huge = struct.pack("<IQ", rng.randrange(14), 1 << 40)
    value = rng.choice([struct.pack("<Q", rng.choice(_ODD_COUNTS)), huge, b""])
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def broken(content: Content, ending: str, rng: random.Random) -> bytes:
    """A broken file of the format that `ending` stands for."""
    way = rng.choices(["content", "header", "bytes", "cut", "tail"], [10, 4, 4, 1, 1])[0]
    is_gguf = ending == ".gguf"
    if way == "content":
        changed = broken_content(content, rng)
        if not is_gguf:
            return safetensors_bytes(changed)
        return gguf_bytes({name[:63] or "x": entry for name, entry in changed.items()})
    if way == "header" and is_gguf:
        match rng.randrange(3):
            case 0:
                return gguf_bytes(content, metadata=_metadata(rng))
            case 1:
                return gguf_bytes(content, metadata=nested_array(rng.choice([1, 2, 50, 100_000])))
            case _:
                return gguf_bytes(content, _liar(rng, len(content)))
    if way == "header":
        return safetensors_bytes(content, lambda header: _lying_header(header, rng))
    whole = gguf_bytes(content) if is_gguf else safetensors_bytes(content)
    if way == "cut":
        return whole[: rng.randrange(len(whole))]
    if way == "tail":
        return whole + rng.randbytes(rng.randint(1, 99))
    return mutated(whole, rng)
