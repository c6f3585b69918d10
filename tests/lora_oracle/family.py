"""A family of models: its original checkpoint, diffusers' class and the converter between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .rows import Original, Traced, trace

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """A family, or a part of one.

    Attributes
    ----------
    name : str
        The data file's name.
    original : callable
        Returns the original checkpoint: real sizes, two blocks of each kind.
    model : callable
        Returns diffusers' model of the same sizes; it is called for shapes only.
    convert : callable
        The converter.
    prefix : str
        Of the names that the converter takes.
    config : mapping
        What the converter takes as `config`, if anything.
    unused : str
        Pattern of original tensors that diffusers does not use.
    source : str
        What the data rest on. Empty: the converter.
    """

    name: str
    original: Callable[[], Original]
    model: Callable[[], torch.nn.Module]
    convert: Callable[..., Mapping[str, Any]]
    prefix: str = "model.diffusion_model."
    config: Mapping[str, Any] = field(default_factory=dict)
    unused: str = "$^"
    source: str = ""

    def trace(self) -> tuple[Original, dict[str, Traced]]:
        """Return the original checkpoint, and where diffusers' tensors come from."""
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in self.model().state_dict().items()}
        original = self.original()
        keywords = {"config": self.config} if self.config else {}
        return original, trace(
            original, expected, lambda checkpoint: self.convert(checkpoint, **keywords), self.prefix, self.unused
        )
