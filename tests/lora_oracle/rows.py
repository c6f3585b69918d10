"""Where the rows of converted tensors came from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

__all__ = ["Original", "Place", "Traced", "place", "runs", "trace"]

Shape = tuple[int, ...]
# A place: the original tensor, its first row, the module's first row, the number of rows, and in how many equal units
# the original tensor's rows are counted.
Place = tuple[str, int, int, int, int]
_STRIDE = 1 << 20  # rows that a tensor may have


@dataclass
class Original:
    """The tensors of an original checkpoint.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Shapes by name, without the model's prefix.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)

    def add(self, name: str, *shape: int) -> None:
        """Add a tensor."""
        if name in self.shapes:
            raise ValueError(f"{name} is in the checkpoint twice")
        self.shapes[name] = shape

    def linear(self, name: str, outputs: int, inputs: int, *kernel: int, bias: bool = True) -> None:
        """Add a linear layer or, with a kernel's size, a convolution."""
        self.add(f"{name}.weight", outputs, inputs, *kernel)
        if bias:
            self.add(f"{name}.bias", outputs)

    def norm(self, name: str, width: int, *, bias: bool = True, weight: str = "weight") -> None:
        """Add a norm."""
        self.add(f"{name}.{weight}", width)
        if bias:
            self.add(f"{name}.bias", width)

    def numbered(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return a checkpoint of narrow tensors in which each row has a number of its own."""
        return {prefix + name: self._numbers(index, shape) for index, (name, shape) in enumerate(self.shapes.items())}

    @staticmethod
    def _numbers(index: int, shape: Shape) -> torch.Tensor:
        rows = torch.arange(shape[0], dtype=torch.int64) + index * _STRIDE
        return rows.reshape(-1, *[1] * (len(shape) - 1)) if len(shape) > 1 else rows

    def source(self, number: int) -> tuple[str, int]:
        """Return the tensor and the row of a number."""
        return list(self.shapes)[number // _STRIDE], number % _STRIDE


@dataclass(frozen=True)
class Traced:
    """A tensor of diffusers and the rows that it consists of."""

    shape: Shape
    places: tuple[Place, ...]


def runs(numbers: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield runs of successive numbers: the first, its index and the length."""
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1 or numbers[index] % _STRIDE == 0:
            yield numbers[start], start, index - start
            start = index


def place(original: Original, first: int, at: int, rows: int) -> Place:
    """Return the place of successive rows: the first's number, the module's first row and how many they are."""
    name, row = original.source(first)
    parts = [Fraction(value, original.shapes[name][0]) for value in (row, at, rows)]
    units = math.lcm(*(part.denominator for part in parts))
    row, at, rows = (int(part * units) for part in parts)
    return name, row, at, rows, units


def trace(
    original: Original,
    expected: Mapping[str, Shape],
    convert: Callable[[dict[str, torch.Tensor]], Mapping[str, Any]],
    prefix: str = "model.diffusion_model.",
    unused: str = "$^",
) -> dict[str, Traced]:
    """Convert a numbered checkpoint and read off where the rows of diffusers' tensors came from.

    Parameters
    ----------
    original : Original
        The checkpoint.
    expected : mapping of str to tuple of int
        Names and shapes of the tensors that diffusers' class has.
    convert : callable
        The converter.
    prefix : str
        Of the names in the checkpoint.
    unused : str
        Pattern of original tensors that diffusers does not use.

    Raises
    ------
    ValueError
        The converted checkpoint is not diffusers' class's, or rows were lost.
    """
    converted = dict(convert(original.numbered(prefix)))
    if converted.keys() != expected.keys():
        raise ValueError(f"other names: {sorted(converted.keys() ^ expected.keys())}")
    found: dict[str, Traced] = {}
    used: dict[str, int] = {}
    for name, tensor in converted.items():
        if tensor.shape[0] != expected[name][0]:
            raise ValueError(f"{name} has {tensor.shape[0]} rows, not {expected[name][0]}")
        numbers = tensor.reshape(tensor.shape[0], -1)[:, 0].tolist()
        found[name] = Traced(tuple(expected[name]), tuple(place(original, *run) for run in runs(numbers)))
        for weight, _, _, rows, units in found[name].places:
            source = original.shapes[weight]
            if source[1:] != expected[name][1:] and [n for n in source[1:] if n > 1] != [
                n for n in expected[name][1:] if n > 1
            ]:
                raise ValueError(f"{name} has shape {expected[name]}, {weight} has {source}")
            used[weight] = used.get(weight, 0) + source[0] * rows // units
    for name, shape in original.shapes.items():
        if used.get(name, 0) != shape[0] and not re.search(unused, name):
            raise ValueError(f"{used.get(name, 0)} of {shape[0]} rows of {name} are used")
    return found
