"""Weights that are random where it matters and holes elsewhere: large shapes, few bytes on disk, images that show all.

The engine fixes the width of many transformers, so a small model of them has few blocks of full width. Of its channels
few are active, the same in all layers and in each part of a fused matrix: a large matrix has values in these rows and
columns only, and all others are zeros. So a narrow network is within the wide one, and a change of any weight reaches
the image through it as strongly as in a network without zeros.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Values = npt.NDArray[np.floating[Any]]
Rows = list[tuple[int, Values]]  # first row, and the values of the rows from there

_DENSE = 1 << 18  # elements up to which a matrix has no zeros
_TOKENS = 10_000_000  # elements up to which an embedding has no zeros
_WIDE = 512  # channels from which on few are active
_RUNS, _RUN = 12, 4  # of active channels in each part of a matrix, so that all parts and layers have the same
_SPOKEN = (320, 872, 1712, 2368, 4616, 8251, 77091)  # "a", "cat" and words of chat templates, as tokenizers number them
_EMBEDDINGS = ("embed_tokens.weight", "token_embedding.weight", ".embed.weight", "shared.weight")
_OUTPUTS = re.compile(r"(.*\.)?(final_layer\.linear|final_linear|proj_out|head\.head|out\.2|conv_out)\.weight")
_PASSES = re.compile(r".*blocks\.\d+\.\d\.(skip_connection|op|conv)\.weight")  # of a U-Net: what they get adds up
_QUERIES = re.compile(r"(^|[._])(q|k|query|key)_norm\.|\.norm_(q|k|k_img|added_q|added_k)\.|\.ln_[qk]\.")
_SHARP = 2.0  # of norms of queries and keys: attention that tells one token from others, and from many that are empty
# Standard deviation of biases, and of a layer's outputs where its inputs have 1: any, one of _PASSES, one of _OUTPUTS.
_BIAS, SIGNAL, _PASSED, _OUTPUT = 0.5, 2.0, 0.5, 0.5


class Shapes(dict[str, Shape]):
    """Tensor names and shapes of a network."""

    def linear(self, name: str, out: int, inp: int, *, bias: bool = True) -> None:
        self[f"{name}.weight"] = (out, inp)
        if bias:
            self[f"{name}.bias"] = (out,)

    def norms(self, width: int, *names: str) -> None:
        for name in names:
            self[name] = (width,)

    def beginning(self, prefix: str) -> Shapes:
        return Shapes({prefix + name: shape for name, shape in self.items()})


def write_random(
    shapes: Mapping[str, Shape], path: Path, *, width: int = 0, seed: int = 0, gain: float = SIGNAL
) -> Path:
    """Write a safetensors file: matrices in half precision, vectors in single.

    `gain` is the standard deviation of a layer's outputs where its inputs have 1. Above 1, small differences grow.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        kind, size = ("F32", 4) if _is_vector(shape) else ("F16", 2)
        size *= math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
        for name, shape in shapes.items():
            start = 8 + len(text) + header[name]["data_offsets"][0]
            kind, size = ("<f4", 4) if _is_vector(shape) else ("<f2", 2)
            for row, values in random_rows(name, shape, rng, width, gain):
                file.seek(start + row * size * math.prod(shape[1:]))
                file.write(values.astype(kind).tobytes())
    return path


@contextmanager
def changed(path: Path, name: str, *, seed: int = 5) -> Iterator[None]:
    """A tensor of a safetensors file with a random matrix of rank 1 added in place, as large as what it had before."""
    with opened_tensor(path, name) as tensor:
        before, matrix = tensor.copy(), tensor.reshape(tensor.shape[0], -1)
        rng = np.random.default_rng(seed)
        rows, columns = (rng.standard_normal(size, np.float32) for size in matrix.shape)
        matrix += np.outer(rows, columns * np.float32(SIGNAL / math.sqrt(matrix.shape[1]))).astype(tensor.dtype)
    try:
        yield
    finally:
        with opened_tensor(path, name) as tensor:
            tensor[:] = before


@contextmanager
def opened_tensor(path: Path, name: str) -> Iterator[npt.NDArray[Any]]:
    """A tensor of a safetensors file as an array: what is written to it is in the file afterwards."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[name]
    kind = {"F16": "<f2", "F32": "<f4"}[about["dtype"]]
    start = 8 + length + about["data_offsets"][0]
    tensor = np.memmap(path, kind, "r+", start, tuple(about["shape"]))
    yield tensor
    tensor.flush()


def random_rows(name: str, shape: Shape, rng: np.random.Generator, width: int = 0, gain: float = SIGNAL) -> Rows:
    """The values of a tensor that are not zero; `width` is that of the network, which tells the parts of a matrix."""
    if _is_vector(shape):
        values = rng.standard_normal(shape, np.float32)
        if name.endswith((".bias", "_bias")) or "token" in name or "modulation" in name:
            return [(0, values * np.float32(_BIAS))]
        return [(0, (_SHARP if _QUERIES.search(name) else 1) + values * np.float32(0.1))]
    if name == "pos_embed":
        return []  # a large table, which no adapter changes
    if name.endswith(_EMBEDDINGS):
        return [(first, rng.standard_normal((count, *shape[1:]), np.float32)) for first, count in _words(shape)]
    scale = _OUTPUT if _OUTPUTS.fullmatch(name) else _PASSED if _PASSES.fullmatch(name) else gain
    columns = _active(shape[1], (width, shape[0])) if shape[1] >= _WIDE else np.arange(shape[1])
    scale /= math.sqrt(len(columns) * math.prod(shape[2:]))
    if math.prod(shape) <= _DENSE:
        return [(0, _spread(shape[0], shape[1:], columns, scale, rng))]
    rows = _active(shape[0], (width, shape[1]))
    first = rows[np.diff(rows, prepend=-2) != 1]
    runs = zip(first, np.diff(np.append(np.searchsorted(rows, first), len(rows))), strict=True)
    return [(int(row), _spread(int(count), shape[1:], columns, scale, rng)) for row, count in runs]


def _spread(rows: int, rest: Shape, columns: npt.NDArray[np.int64], scale: float, rng: np.random.Generator) -> Values:
    values = np.zeros((rows, *rest), np.float32)
    values[:, columns] = rng.standard_normal((rows, len(columns), *rest[1:]), np.float32) * np.float32(scale)
    return values


def _active(size: int, widths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The active ones of `size` channels: those of each part, where there are parts of one of these widths."""
    part = next((width for width in widths if width >= _RUNS * _RUN and size % width == 0), size)
    starts = np.arange(0, size, part)[:, None, None] + (np.arange(_RUNS) * part // _RUNS)[:, None]
    return np.unique(np.minimum(starts + np.arange(_RUN), size - 1))


def _words(shape: Shape) -> list[tuple[int, int]]:
    """Rows of an embedding for the beginning of a vocabulary, its end, and some words."""
    if math.prod(shape) <= _TOKENS:
        return [(0, shape[0])]
    special = min(shape[0], 151_670) - 30  # Qwen's special tokens are not at the end of its table
    return [(0, 300), *((word, 1) for word in _SPOKEN if word < special), (special, 30)]


def _is_vector(shape: Shape) -> bool:
    return sum(size > 1 for size in shape) < 2 or (shape[0] == 1 and math.prod(shape) <= _DENSE)
