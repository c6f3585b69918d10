"""Pictures on their way in and out: Pillow, numpy, paths and bytes to checked uint8 arrays (H, W, C), and back.

Nothing here knows of the engine.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["ImageLike", "as_mask", "as_rgb", "check_pixels", "to_pillow"]

ImageLike: TypeAlias = "NDArray[Any] | Image.Image | str | os.PathLike[str] | bytes"


def as_rgb(image: ImageLike, name: str) -> NDArray[np.uint8]:
    """Give a picture as the engine takes it.

    Parameters
    ----------
    image : array, Pillow image, path or bytes of a file
        Arrays are uint8 (H, W, 3). Anything that Pillow reads is turned upright by its EXIF orientation and made RGB.
    name : str
        What to call it in messages.

    Returns
    -------
    uint8 array (H, W, 3), C-contiguous
        The array itself where it already is one, else a copy.

    Raises
    ------
    TypeError, ValueError
        If it cannot be taken without guessing.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, name, 3)
    return np.asarray(_opened(image, name).convert("RGB"))


def as_mask(image: ImageLike, name: str) -> NDArray[np.uint8]:
    """Give a mask as a uint8 array (H, W, 1): 255 is drawn anew, 0 is kept. See `as_rgb`."""
    if isinstance(image, np.ndarray):
        return _checked(image[..., None] if image.ndim == 2 else image, name, 1)
    return np.asarray(_opened(image, name).convert("L"))[..., None]


def to_pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    """Copy a uint8 array (H, W, 3) into a Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels)


def check_pixels(pixels: Any, name: str, channels: int) -> None:
    """Refuse what is not a uint8 array (H, W, `channels`) with pixels."""
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"{name} must be a uint8 array of shape (H, W, {channels}), not {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels or 0 in pixels.shape:
        raise ValueError(f"{name} must be a uint8 array of shape (H, W, {channels}), not {pixels.dtype} {pixels.shape}")


def _checked(pixels: NDArray[Any], name: str, channels: int) -> NDArray[np.uint8]:
    check_pixels(pixels, name, channels)
    return np.ascontiguousarray(pixels)


def _opened(image: Any, name: str) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(image, (str, os.PathLike)):
        path = Path(image).expanduser()
        if not path.is_file():
            raise ValueError(f"{name}: {path} is not a file")
        image = path.read_bytes()
    if isinstance(image, bytes):
        try:
            image = Image.open(io.BytesIO(image))
            image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    if not isinstance(image, Image.Image):
        raise TypeError(f"{name} must be an array, a Pillow image, a path or bytes of a file, not {type(image)}")
    return ImageOps.exif_transpose(image)
