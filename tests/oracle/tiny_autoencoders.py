"""Tiny autoencoders that diffusers has no class for: TAEF2 and TAEHV, after their author's taesd.py and taehv.py."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .files import Weights

__all__ = ["Taef2", "Taehv"]

Tensor = torch.Tensor


class _Layers:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


class Taef2(_Layers):
    """The tiny autoencoder of FLUX.2."""

    def block(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.pool.0.weight" in self.weights:
            pooled = self.conv(f"{name}.pool.0", x)
            norm = F.group_norm(pooled, 4, self.weights[f"{name}.pool.1.weight"], self.weights[f"{name}.pool.1.bias"])
            x = x + self.conv(f"{name}.pool.3", norm.relu())
        inner = x
        for index in (0, 2, 4):
            inner = self.conv(f"{name}.conv.{index}", inner)
            inner = inner.relu() if index < 4 else inner
        return (inner + x).relu()

    def decode(self, x: Tensor) -> Tensor:
        """Return an image of -1 to 1, of tokens with 32 channels in 2x2 latent pixels."""
        x = F.pixel_shuffle(x, 2)
        x = self.conv("decoder.layers.0", (x / 3).tanh() * 3).relu()
        for first in (2, 7, 12):
            for index in range(first, first + 3):
                x = self.block(f"decoder.layers.{index}", x)
            x = self.conv(f"decoder.layers.{first + 4}", F.interpolate(x, scale_factor=2))
        x = self.block("decoder.layers.17", x)
        return self.conv("decoder.layers.18", x) * 2 - 1


class Taehv(_Layers):
    """The tiny autoencoder of videos; what it works on may be squares of pixels (`patch`)."""

    def __init__(self, weights: Weights, patch: int = 1) -> None:
        super().__init__(weights)
        self.patch = patch

    def memory(self, name: str, x: Tensor) -> Tensor:
        past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        inner = torch.cat([x, past], 1)
        for index in (0, 2, 4):
            inner = self.conv(f"{name}.conv.{index}", inner)
            inner = inner.relu() if index < 4 else inner
        return (inner + x).relu()

    def decode(self, x: Tensor) -> Tensor:
        """Return frames (frames, 3, height, width) of 0 to 1; the latent has (1, channels, frames, height, width)."""
        x = x[0].transpose(0, 1)
        x = self.conv("decoder.1", (x / 3).tanh() * 3).relu()
        for level, stride in enumerate((1, 2, 2)):
            first = 3 + 6 * level
            for index in range(first, first + 3):
                x = self.memory(f"decoder.{index}", x)
            x = self.conv(f"decoder.{first + 4}.conv", F.interpolate(x, scale_factor=2))
            x = x.reshape(-1, x.shape[1] // stride, *x.shape[2:])
            x = self.conv(f"decoder.{first + 5}", x)
        x = self.conv("decoder.22", x.relu())
        if self.patch > 1:
            x = F.pixel_shuffle(x, self.patch)
        return x[3:].clamp(0, 1)
