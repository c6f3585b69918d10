"""What families with a flow have in common: from noise to the decoded image."""

from __future__ import annotations

from typing import Any

import torch
from network_cases import Case, picture

from .autoencoders import Pixels, encoded, pixels
from .loop import euler, guided, noise

__all__ = ["Flow", "image_ids", "packed", "unpacked"]

Tensor = torch.Tensor


class Flow:
    """A family with a flow.

    Attributes
    ----------
    channels, factor : int
        Channels of the latent, and pixels in one of its.
    """

    channels = 16
    factor = 8

    def text(self, prompt: str) -> Any:
        """Return the condition."""
        raise NotImplementedError

    def predict(self, x: Tensor, level: float, text: Any, case: Case) -> Tensor:
        """Return the network's velocity."""
        raise NotImplementedError

    def decode(self, x: Tensor) -> Pixels:
        return pixels(self.autoencoder.decode(x).sample)  # type: ignore[attr-defined]

    def shape(self, case: Case) -> tuple[int, ...]:
        return (1, self.channels, case.height // self.factor, case.width // self.factor)

    def image(self, case: Case, levels: tuple[float, ...]) -> Pixels:
        text = self.text(case.prompt)
        other = self.text(case.negative) if case.cfg != 1 else None
        levels = case.shown(levels)
        start = noise(case.seed, *self.shape(case)) * levels[0]
        if case.strength:
            start = start + (1 - levels[0]) * encoded(self.autoencoder, picture(case))  # type: ignore[attr-defined]

        def slope(x: Tensor, level: float) -> Tensor:
            return guided(
                case.cfg,
                lambda: self.predict(x, level, text, case),
                lambda: self.predict(x, level, other, case),
            )

        return self.decode(euler(start, [*levels, 0.0], slope))


def packed(x: Tensor) -> Tensor:
    """Return the tokens of 2x2 latent pixels: channels first, as FLUX.1 and Qwen-Image have them."""
    _, channels, height, width = x.shape
    x = x.view(1, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(1, height * width // 4, channels * 4)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the latent of `packed` tokens."""
    channels = tokens.shape[-1] // 4
    x = tokens.view(1, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(1, channels, height, width)


def image_ids(height: int, width: int) -> Tensor:
    """Return FLUX.1's positions of tokens: 0, row, column."""
    ids = torch.zeros(height, width, 3)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None]
    return ids.reshape(-1, 3)
