"""What AUTOMATIC1111's web interface does around the generation of a part of an image, and the engine does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..images.paste import paste_original
from ..images.resize import resized

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Region", "filled"]


def filled(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image whose masked part has the colours around it, smoothly; the rest is as it was.

    Parameters
    ----------
    image : uint8 array (H, W, 3)
    mask : uint8 array (H, W, 1)
        255 where the colours are replaced.
    """
    kept = (255 - mask).astype(np.float32) / np.float32(255)
    if not kept.any():
        return np.full_like(image, 127)
    whole: NDArray[np.uint8] = np.clip(_spread(image.astype(np.float32) * kept, kept) + 0.5, 0, 255).astype(np.uint8)
    return whole


def _spread(colours: NDArray[np.float32], shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return colours, each times its share, over those of the image at half its size, and so on to a single pixel."""
    height, width = shares.shape[:2]
    if height == width == 1:
        return (colours / np.maximum(shares, np.float32(1e-9))).astype(np.float32)
    half = (width + 1) // 2, (height + 1) // 2
    behind = _spread(_scaled(colours, half), _scaled(shares, half))
    return colours + (1 - shares) * _scaled(behind, (width, height))


def _scaled(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    from PIL import Image

    kernel = (
        Image.Resampling.BOX if size[0] <= planes.shape[1] and size[1] <= planes.shape[0] else Image.Resampling.BILINEAR
    )
    images = (Image.fromarray(planes[..., index]) for index in range(planes.shape[2]))
    return np.stack([np.asarray(image.resize(size, kernel)) for image in images], axis=2)


@dataclass(frozen=True, eq=False)
class Region:
    """The part of an image around a mask, which is generated at full size and then put back.

    Attributes
    ----------
    original : uint8 array (H, W, 3)
    mask : uint8 array (H, W, 1)
    box : tuple of int
        Left, top, right and bottom of the part.
    blur : float
        Radius of the mask's edge, see `paste_original`.
    """

    original: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    box: tuple[int, int, int, int]
    blur: float

    @classmethod
    def around(
        cls,
        original: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        padding: int,
        size: tuple[int, int],
        blur: float,
    ) -> Region | None:
        """Return the smallest region with all of the mask, its padding, and the aspect ratio of `size`.

        It has another aspect ratio where the image is too small for it. None: the mask is empty.
        """
        rows, columns = np.flatnonzero(mask.any(axis=(1, 2))), np.flatnonzero(mask.any(axis=(0, 2)))
        if not rows.size:
            return None
        height, width = mask.shape[:2]
        top, bottom = max(0, int(rows[0]) - padding), min(height, int(rows[-1]) + 1 + padding)
        left, right = max(0, int(columns[0]) - padding), min(width, int(columns[-1]) + 1 + padding)
        wanted = size[0] / size[1]
        if (right - left) / (bottom - top) < wanted:
            left, right = _widened(left, right, round((bottom - top) * wanted), width)
        else:
            top, bottom = _widened(top, bottom, round((right - left) / wanted), height)
        return cls(original, mask, (left, top, right, bottom), blur)

    def crop(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the region of an image or mask."""
        left, top, right, bottom = self.box
        return np.ascontiguousarray(pixels[top:bottom, left:right])

    def put_back(self, generated: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the whole image with what was generated inside of the mask."""
        left, top, right, bottom = self.box
        whole = self.original.copy()
        whole[top:bottom, left:right] = resized(generated, (right - left, bottom - top), "stretch")
        paste_original([whole], self.original, self.mask, self.blur)
        return whole


def _widened(first: int, last: int, length: int, most: int) -> tuple[int, int]:
    """Return a range of a length around another, moved to be within 0 and `most`."""
    length = min(max(length, last - first), most)
    start = min(max(0, first - (length - (last - first)) // 2), most - length)
    return start, start + length
