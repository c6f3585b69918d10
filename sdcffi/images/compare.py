"""Measure the difference between two images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "compare"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference between two images.

    Parameters
    ----------
    mean : float
        Mean absolute difference of the channel values, from 0 to 255.
    psnr : float
        Peak signal-to-noise ratio in dB, ``10 log10(255**2 / mean squared error)``; infinite for equal images.
    largest : int
        Largest difference of a channel value, from 0 to 255.
    changed : float
        Fraction of pixels in which at least one channel differs, from 0 to 1.
    """

    mean: float
    psnr: float
    largest: int
    changed: float


def compare(one: Pixels, other: Pixels) -> Difference:
    """Measure the difference between two images of the same shape.

    Parameters
    ----------
    one, other : numpy.ndarray
        ``uint8`` arrays of shape ``(height, width, channels)``.

    Returns
    -------
    Difference

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"images must have the same shape to be compared, not {one.shape} and {other.shape}")
    delta = np.maximum(one, other) - np.minimum(one, other)
    counts = np.bincount(delta.reshape(-1), minlength=256)
    values = np.arange(256)
    error = float(counts @ values**2 / delta.size)
    return Difference(
        mean=float(counts @ values / delta.size),
        psnr=float(10 * np.log10(255**2 / error)) if error else float("inf"),
        largest=int(delta.max(initial=0)),
        changed=float(np.mean(delta.any(axis=-1))),
    )
