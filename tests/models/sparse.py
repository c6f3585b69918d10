"""Weights that are random where it matters and holes elsewhere: large shapes, few bytes on disk, images that show all.

The engine fixes the width of many transformers, so a small model of them has few blocks of full width. A large matrix
has random values in some of its rows, spread so that each part of a fused matrix has some, and zeros in the others: a
change of any weight still reaches the image, through the rows that are not zero after it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
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
_GROUPS = 18  # a fused matrix has 1, 2, 3, 6 or 9 parts, and each starts with rows that are not zero
_RUN = 16_384  # elements in a run of such rows, of which there are at least 2 and at most 12
_SPOKEN = (320, 872, 1712, 2368, 4616, 8251, 77091)  # "a", "cat" and words of chat templates, as tokenizers number them
_EMBEDDINGS = ("embed_tokens.weight", "token_embedding.weight", ".embed.weight", "shared.weight")
_OUTPUTS = re.compile(r"(.*\.)?(final_layer\.linear|final_linear|proj_out|head\.head|out\.2|conv_out)\.weight")
_QUERIES = re.compile(r"(^|[._])(q|k|query|key)_norm\.|\.norm_(q|k|k_img|added_q|added_k)\.|\.ln_[qk]\.")
_SHARP = 2.0  # of norms of queries and keys: attention that tells one token from others, and from many that are empty
_SIGNAL, _OUTPUT = 2.0, 0.5  # standard deviation of a layer's outputs where its inputs have 1; of the last one's


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


def write_random(shapes: Mapping[str, Shape], path: Path, *, seed: int = 0) -> Path:
    """Write a safetensors file: matrices in half precision, vectors in single."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        kind, width = ("F32", 4) if _is_vector(shape) else ("F16", 2)
        size = width * math.prod(shape)
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
            kind, width = ("<f4", 4) if _is_vector(shape) else ("<f2", 2)
            for row, values in random_rows(name, shape, rng):
                file.seek(start + row * width * math.prod(shape[1:]))
                file.write(values.astype(kind).tobytes())
    return path


@contextmanager
def changed(path: Path, name: str, *, seed: int = 5) -> Iterator[None]:
    """A tensor of a safetensors file with a random matrix of rank 1 added in place, as large as what it had before."""
    with opened_tensor(path, name) as tensor:
        before, matrix = tensor.copy(), tensor.reshape(tensor.shape[0], -1)
        rng = np.random.default_rng(seed)
        rows, columns = (rng.standard_normal(size, np.float32) for size in matrix.shape)
        matrix += np.outer(rows, columns * np.float32(_SIGNAL / math.sqrt(matrix.shape[1]))).astype(tensor.dtype)
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


def random_rows(name: str, shape: Shape, rng: np.random.Generator) -> Rows:
    """The values of a tensor that are not zero."""
    if _is_vector(shape):
        values = rng.standard_normal(shape, np.float32)
        if name.endswith((".bias", "_bias")) or "token" in name or "modulation" in name:
            return [(0, values * np.float32(0.2))]
        return [(0, (_SHARP if _QUERIES.search(name) else 1) + values * np.float32(0.1))]
    if name == "pos_embed":
        return []  # a large table, which no adapter changes
    inputs = math.prod(shape[1:])
    if name.endswith(_EMBEDDINGS):
        return [(first, rng.standard_normal((count, *shape[1:]), np.float32)) for first, count in _words(shape)]
    count = min(max(_RUN // inputs, 2), 12)
    if math.prod(shape) <= _DENSE or shape[0] < _GROUPS * count:
        pieces: Iterable[tuple[int, int]] = [(0, shape[0])]
    else:
        pieces = [(group * shape[0] // _GROUPS, count) for group in range(_GROUPS)]
    scale = np.float32((_OUTPUT if _OUTPUTS.fullmatch(name) else _SIGNAL) / math.sqrt(inputs))
    return [(first, rng.standard_normal((count, *shape[1:]), np.float32) * scale) for first, count in pieces]


def _words(shape: Shape) -> list[tuple[int, int]]:
    """Rows of an embedding for the beginning of a vocabulary, its end, and some words."""
    if math.prod(shape) <= _TOKENS:
        return [(0, shape[0])]
    special = min(shape[0], 151_670) - 30  # Qwen's special tokens are not at the end of its table
    return [(0, 300), *((word, 1) for word in _SPOKEN if word < special), (special, 30)]


def _is_vector(shape: Shape) -> bool:
    return sum(size > 1 for size in shape) < 2 or (shape[0] == 1 and math.prod(shape) <= _DENSE)
