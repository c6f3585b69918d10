"""Autoencoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderTiny

from .files import fill, read

__all__ = ["encoded", "pixels", "tiny"]

Pixels = npt.NDArray[np.uint8]


def tiny(path: Path, channels: int) -> AutoencoderTiny:
    """Return TAESD, or with 16 channels TAEF1."""
    with torch.device("meta"):
        model = AutoencoderTiny(latent_channels=channels)
    return fill(model, read(path))


def pixels(image: torch.Tensor) -> Pixels:
    """Return an image of -1 to 1, shape (1, 3, height, width), as the engine writes it."""
    values = ((image[0] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    return (values * 255 + 0.5).astype(np.uint8)


def encoded(autoencoder: AutoencoderTiny, image: Pixels) -> torch.Tensor:
    """Return the latent of an image."""
    values = torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255
    latent: torch.Tensor = autoencoder.encode(values * 2 - 1).latents
    return latent
