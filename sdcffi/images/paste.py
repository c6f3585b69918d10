"""Put the original image back outside of a mask, as AUTOMATIC1111's web interface does after it has generated.

Autoencoder and latent cells change an image everywhere, and beyond the edge of the mask. See `apply_overlay` of
AUTOMATIC1111's ``modules/processing.py``, and `mask_for_overlay` for the doubled weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .resize import resized

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["paste_original", "paste_weights"]


def paste_weights(mask: NDArray[np.uint8], blur: float) -> NDArray[np.uint8]:
    """Return the share of the generated image in each pixel, from 0 to 255: twice the blurred mask.

    The share is 255 wherever the blurred mask is 128 or more, so that nothing of the original shows at the inner side
    of an edge. It is never below the mask itself, so that thin lines and corners are generated too.

    Parameters
    ----------
    mask : uint8 array (H, W, 1)
        255 where the generated image is wanted, 0 where the original is.
    blur : float
        Radius in pixels, as of Pillow's `GaussianBlur`; 0 blurs nothing.

    Returns
    -------
    uint8 array (H, W)
    """
    from PIL import Image, ImageFilter

    plane = mask[..., 0]
    blurred = np.asarray(Image.fromarray(plane).filter(ImageFilter.GaussianBlur(blur))) if blur else plane
    doubled = np.minimum(blurred, 127) * 2 + (blurred > 127)
    weights: NDArray[np.uint8] = np.maximum(plane, doubled.astype(np.uint8))
    return weights


def paste_original(
    images: Iterable[NDArray[np.uint8]], original: NDArray[np.uint8], mask: NDArray[np.uint8], blur: float
) -> None:
    """Put the original back outside of the mask, in place; between them, mix as Pillow's `Image.composite` does.

    Parameters
    ----------
    images : iterable of uint8 arrays (H, W, 3)
        What was generated, all of one size.
    original : uint8 array (H, W, 3)
        Image that was generated from. If the images have another size, it is scaled to theirs with Lanczos' kernel.
    mask : uint8 array (H, W, 1)
        Of the original's size. If the images have another size, its blurred edge is scaled to theirs.
    blur : float
        See `paste_weights`.
    """
    weights = paste_weights(mask, blur)
    before = original
    for image in images:
        height, width = image.shape[:2]
        if before.shape[:2] != (height, width):
            before = resized(original, (width, height), "stretch")
            weights = _scaled(paste_weights(mask, blur), (width, height))
        kept = weights == 0
        image[kept] = before[kept]
        mixed = ~kept & (weights < 255)
        share = weights[mixed].astype(np.uint16)[:, None]
        sums = image[mixed] * share + before[mixed] * (255 - share) + np.uint16(128)
        image[mixed] = (sums + (sums >> 8)) >> 8  # division by 255, rounded


def _scaled(weights: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return weights at another size, without the steps that masks have when they are enlarged."""
    from PIL import Image

    return np.asarray(Image.fromarray(weights).resize(size, Image.Resampling.BILINEAR))
