"""8-bit floats in numpy, and safetensors files that hold them with the scales that ComfyUI writes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_NAMES = {"float32": "F32", "float16": "F16", "uint8": "U8", "uint16": "BF16"}


def e4m3() -> npt.NDArray[np.float32]:
    """The value of each byte as F8_E4M3 (fn): no infinities, and NaN for 0x7f and 0xff."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where(code & 127 == 127, np.nan, np.where(code >= 128, -value, value)).astype(np.float32)


def e5m2() -> npt.NDArray[np.float32]:
    """The value of each byte as F8_E5M2, the upper half of a half-precision number."""
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


def nearest(values: Array, table: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The byte whose value is nearest to each value."""
    codes = np.flatnonzero(np.isfinite(table))
    order = codes[np.argsort(table[codes], kind="stable")]
    sorted_values = table[order]
    at = np.clip(np.searchsorted(sorted_values, values), 1, len(order) - 1)
    lower = values - sorted_values[at - 1] < sorted_values[at] - values
    return order[at - lower].astype(np.uint8)


def write(path: Path, tensors: Mapping[str, tuple[str, Array]]) -> Path:
    """Write arrays under their types' names; 8-bit floats as bytes, BF16 as its 16 bits."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def named(array: Array) -> tuple[str, Array]:
    """An array under its own type's name."""
    return _NAMES[array.dtype.name], array
