"""How far two pictures are apart, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "compare"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two pictures are apart.

    Parameters
    ----------
    mean : float
        Mean absolute difference of the samples, 0 to 255.
    psnr : float
        Peak signal-to-noise ratio in dB, ``10 log10(255**2 / mean squared error)``; infinite for equal pictures.
    changed : float
        Share of the pixels of which at least one channel differs, 0 to 1.
    """

    mean: float
    psnr: float
    changed: float


def compare(one: Pixels, other: Pixels) -> Difference:
    """Measure how far two pictures of the same shape are apart.

    Parameters
    ----------
    one, other : numpy.ndarray
        ``uint8``, shape ``(height, width, channels)``.

    Returns
    -------
    Difference

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"pictures of different shapes: {one.shape} and {other.shape}")
    delta = one.astype(np.float64) - other.astype(np.float64)
    error = float(np.mean(delta**2))
    return Difference(
        mean=float(np.mean(np.abs(delta))),
        psnr=float(10 * np.log10(255**2 / error)) if error else float("inf"),
        changed=float(np.mean(np.any(delta != 0, axis=-1))),
    )
