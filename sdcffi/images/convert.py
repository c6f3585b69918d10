"""Pictures on their way in and out: Pillow, arrays, paths and bytes to uint8 arrays (H, W, C), and back.

Nothing here knows of the engine.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from .._files import unreadable
from ..errors import PathNotFoundError
from .pixels import Alpha, from_array, from_pillow, without_alpha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Alpha", "Box", "ImageLike", "MaskLike", "as_mask", "as_rgb", "check_pixels", "to_pillow"]


class SupportsArray(Protocol):
    """What gives its numbers to numpy, such as a torch tensor on the CPU."""

    def __array__(self) -> Any: ...


class SupportsArrayInterface(Protocol):
    """The same by the older protocol, without a call."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


ImageLike: TypeAlias = (
    "NDArray[Any] | Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview"
    " | SupportsArray | SupportsArrayInterface"
)
Box: TypeAlias = "tuple[int, int, int, int]"
MaskLike: TypeAlias = "ImageLike | Box"


def as_rgb(image: ImageLike, name: str, alpha: Alpha = "refuse") -> NDArray[np.uint8]:
    """Give a picture as the engine takes it.

    Parameters
    ----------
    image : picture
        One of

        - an array, or what has `__array_interface__`, `__array__` or a buffer with a shape: (H, W), (H, W, 1),
          (H, W, 3) or (H, W, 4), channels last; uint8, or any float type from 0 to 1;
        - a Pillow image of any mode that says what its numbers mean, 16 bits included;
        - the path of a file that Pillow reads, or the bytes of one.

        Gray ones are repeated in three channels; Pillow's are turned upright by their EXIF orientation.
    name : str
        What to call it in messages.
    alpha : str or tuple
        What becomes of transparency: ``"refuse"``, ``"ignore"`` (take the colours as they are), or a colour to lay
        the picture on, as a name or ``(red, green, blue)``.

    Returns
    -------
    uint8 array (H, W, 3), C-contiguous
        The array itself, or a view of the same memory, where it already is one; else a copy. It may be read-only.

    Raises
    ------
    TypeError, ValueError
        If it cannot be taken without guessing, with dtype, shape and what is legal.
    """
    pixels = _taken(image, name, is_mask=False)
    if pixels.shape[2] == 4:
        pixels = without_alpha(pixels, name, alpha)
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def as_mask(image: ImageLike, name: str, alpha: Alpha = "refuse") -> NDArray[np.uint8]:
    """Give a mask as a uint8 array (H, W, 1): 255 is drawn anew, 0 is kept.

    Parameters
    ----------
    image : picture
        As in `as_rgb`, or a bool array; with three channels if they are equal. Values between stay as they are, but
        the engine has only two: what is 128 or more is white to it.
    name, alpha : str
        As in `as_rgb`.

    Raises
    ------
    TypeError, ValueError
        As in `as_rgb`; if it has colours; or if its highest value is 1, which is black to the engine.
    """
    pixels = _taken(image, name, is_mask=True)
    if pixels.shape[2] == 4:
        pixels = without_alpha(pixels, name, alpha)
    if pixels.shape[2] == 3:
        if (pixels[..., :2] != pixels[..., 1:]).any():
            raise ValueError(f"{name} has colours; give one channel, such as pixels[..., 0] or image.convert('L')")
        pixels = pixels[..., :1]
    if pixels.max() == 1:
        raise ValueError(f"{name} has no value above 1, and 255 is white; give a bool array, or times 255")
    return np.ascontiguousarray(pixels)


def box_mask(box: Sequence[int], size: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """Give a mask that is white in a box.

    Parameters
    ----------
    box : tuple of int
        ``(left, top, right, bottom)`` in pixels, the last two just outside, as in Pillow.
    size : tuple of int
        Width and height of the mask.
    name : str
        What to call it in messages.

    Raises
    ------
    TypeError, ValueError
        If it is no box, or not within the picture.
    """
    width, height = size
    if len(box) != 4 or not all(isinstance(side, (int, np.integer)) and type(side) is not bool for side in box):
        raise TypeError(f"{name} must be a picture or a box (left, top, right, bottom) of integers, not {box!r}")
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"{name} must be a box within the picture, (0, 0, {width}, {height}), not {tuple(box)!r}")
    mask = np.zeros((height, width, 1), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


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


def _taken(image: Any, name: str, is_mask: bool) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        return from_array(np.asarray(image), name, is_mask)
    from PIL import Image

    if isinstance(image, (str, os.PathLike)):
        image = _opened(_read(image, name), name)
    elif isinstance(image, Image.Image):
        _load(image, name)
    elif hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return from_array(_numbers(image, name), name, is_mask)
    else:
        try:
            buffer = memoryview(image)
        except TypeError:
            raise TypeError(
                f"{name} must be an array, a Pillow image, a path or bytes of a file, not {type(image).__name__}"
            ) from None
        if buffer.ndim != 1:
            return from_array(_numbers(buffer, name), name, is_mask)
        image = _opened(buffer, name)
    return from_pillow(image, name)


def _numbers(source: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as error:  # it is the object's own code, such as that of a tensor on a GPU
        raise TypeError(f"{name} is a {type(source).__name__} that gives numpy no array: {error}") from error


def _read(path: str | os.PathLike[str], name: str) -> bytes:
    place = os.path.expanduser(os.fspath(path))
    if not os.path.exists(place):
        raise PathNotFoundError(f"{name}: {place} does not exist")
    if not os.path.isfile(place):
        raise ValueError(f"{name}: {place} is not a file")
    try:
        with open(place, "rb") as file:
            return file.read()
    except OSError as error:
        raise unreadable(f"{name} cannot be read: {error}", error) from error


def _opened(content: bytes | memoryview, name: str) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:  # whose message is the object's address
        raise ValueError(f"{name} cannot be read as a picture: it is in no format that Pillow knows") from error
    except Exception as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    _load(image, name)
    return image


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
