"""Files of tensors, whole and damaged, as the tests of headers need them."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Shapes = dict[str, tuple[int, ...]]
PAIR: Shapes = {"m.lora_down.weight": (4, 8), "m.lora_up.weight": (6, 4), "m.alpha": ()}


def safetensors_bytes(header: Any, data: bytes, length: int | None = None) -> bytes:
    """A header, JSON text or a value, with data behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    path.write_bytes(safetensors_bytes(header, data, length))
    return path


def write(
    path: Path, shapes: Shapes, dtype: type[np.generic] = np.float32, metadata: dict[str, str] | None = None
) -> Path:
    """Write tensors of ones."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, shape in shapes.items():
        raw = np.ones(shape, dtype).tobytes()
        label = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"}[np.dtype(dtype).name]
        header[name] = {"dtype": label, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return safetensors(path, header, data)


def write_gguf(path: Path, shapes: Shapes, quantised: str = "") -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_array("words", ["a", "b", "c"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("flag", True)
    for name, shape in shapes.items():
        values = np.ones(shape or (1,), np.float32)
        if quantised and len(shape) > 1:
            kind = gguf.GGMLQuantizationType[quantised]
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_bytes(
    *, version: int = 3, tensors: int = 1, entries: int = 0, metadata: bytes = b"", name: bytes = b"m.diff",
    shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, data: int = 128,
) -> bytes:  # fmt: skip
    text = struct.pack("<4sIQQ", b"GGUF", version, tensors, entries) + metadata
    text += struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    text += struct.pack("<IQ", kind, offset)
    return text + bytes(-len(text) % 32 + data)


def metadata(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, cut a piece out, or repeat one; mostly in the header."""
    result = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(min(len(result), 1500))
        match rng.randrange(5):
            case 0:
                result[at] = rng.randrange(256)
            case 1:
                result[at] = rng.choice(b'0123456789{}[]",:-.eE\\')
            case 2:
                del result[at : at + rng.randint(1, 9)]
            case 3:
                result[at:at] = result[at : at + rng.randint(1, 40)]
            case _:
                result[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), struct.pack("<Q", 1 << rng.randrange(64))])
    if content[8:9] == b"{" and rng.random() < 0.5:  # a length that fits again lets more than the first check see it
        result[:8] = struct.pack("<Q", max(0, result.rfind(b"}}") - 6))
    return bytes(result)
