"""The loop around a network: Euler's steps from the engine's noise, with guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

__all__ = ["euler", "guided", "noise"]

Tensor = torch.Tensor
Predict = Callable[[Tensor, float], Tensor]


def noise(seed: int, *shape: int) -> Tensor:
    """Return what the engine begins with where its random numbers are those of the CPU."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def euler(x: Tensor, levels: Sequence[float], slope: Predict) -> Tensor:
    """Go down the noise levels; `slope` is the derivative by the level."""
    for level, following in pairwise(levels):
        x = x + (following - level) * slope(x, level)
    return x


def guided(cfg: float, conditional: Callable[[], Tensor], unconditional: Callable[[], Tensor]) -> Tensor:
    """Return the guided prediction; without guidance, the network runs once."""
    found = conditional()
    if cfg == 1:
        return found
    other = unconditional()
    return other + cfg * (found - other)
