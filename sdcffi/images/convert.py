"""Convert images: arrays, Pillow images, paths and bytes to uint8 arrays (H, W, C), and back to Pillow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from .._numbers import naming
from .._quoting import shortened, shown
from .files import decoded, file_content, read, refuse_programs
from .pixels import Alpha, check_mapping, from_array, from_pillow, without_alpha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Alpha", "Box", "ImageLike", "MaskLike", "as_mask", "as_rgb", "to_pillow"]


_MOST_BYTES = 1 << 30  # of a file that is open; files by their paths have a size


class SupportsArray(Protocol):
    """An object that numpy can read, such as a torch tensor on the CPU."""

    def __array__(self) -> Any: ...


class SupportsRead(Protocol):
    """A file that is open for bytes, or an `io.BytesIO`."""

    def read(self, size: int = -1, /) -> bytes: ...


class SupportsArrayInterface(Protocol):
    """An object that numpy can read by its older protocol."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


ImageLike: TypeAlias = (
    "NDArray[Any] | Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview"
    " | SupportsArray | SupportsArrayInterface | SupportsRead"
)
Box: TypeAlias = "tuple[int, int, int, int]"
MaskLike: TypeAlias = "ImageLike | Box"


def as_rgb(image: ImageLike, name: str, alpha: Alpha = "refuse") -> NDArray[np.uint8]:
    """Return an image as the RGB array that the engine takes.

    Parameters
    ----------
    image : image
        One of

        - an array, or an object with `__array_interface__`, `__array__` or a buffer with a shape. The shape is (H, W),
          (H, W, 1), (H, W, 3) or (H, W, 4), channels last. The type is uint8, or any float type from 0 to 1;
        - a Pillow image of any mode with a known full scale, 16 bits included;
        - the path of a file of pixels that Pillow reads (`images.files` has the formats), its bytes, these as base64 or
          in a ``data:`` URL, or an open file: it is read from its beginning.

        Gray images are repeated in three channels. Pillow images are rotated by their EXIF orientation.
    name : str
        Name of the parameter, for messages.
    alpha : str or tuple
        What to do with transparent pixels: ``"refuse"`` the image, ``"ignore"`` the alpha channel, or blend with a
        background colour, given as a name or as ``(red, green, blue)``.

    Returns
    -------
    uint8 array (H, W, 3), C-contiguous
        The given array, or a view of its memory, if it already has this form; else a new array. It may be read-only.

    Raises
    ------
    TypeError
        If the image is of no supported type.
    ValueError
        If its dtype, shape, mode or values are not supported, if its file cannot be read, or if it has transparent
        pixels and `alpha` is ``"refuse"``.
    """
    pixels = _pixels(image, name, is_mask=False)
    if pixels.shape[2] == 4:
        pixels = without_alpha(pixels, name, alpha)
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def as_mask(image: ImageLike, name: str, alpha: Alpha = "refuse") -> NDArray[np.uint8]:
    """Return a mask as a uint8 array (H, W, 1): 255 is generated anew, 0 is kept.

    Parameters
    ----------
    image : image
        As in `as_rgb`, or a bool array. Three channels must be equal. Values between 0 and 255 stay as they are, but
        the engine takes values from 128 on as white and all others as black.
    name : str
        As in `as_rgb`.
    alpha : str or tuple
        What to do with transparent pixels: with ``"refuse"`` the alpha channel is the mask, as in AUTOMATIC1111's web
        interface: what is painted on a transparent ground is generated anew. Else as in `as_rgb`.

    Returns
    -------
    uint8 array (H, W, 1), C-contiguous
        The given array, or a view of its memory, if it already has this form; else a new array.

    Raises
    ------
    TypeError
        As in `as_rgb`.
    ValueError
        As in `as_rgb`; also if the mask has colours, or if its highest value is 1, which the engine takes as black.
    """
    pixels = _pixels(image, name, is_mask=True)
    if pixels.shape[2] == 4:
        is_mask = alpha == "refuse" and pixels[..., 3].min() < 255
        pixels = pixels[..., 3:] if is_mask else without_alpha(pixels, name, alpha)
    if pixels.shape[2] == 3:
        if (pixels[..., :2] != pixels[..., 1:]).any():
            raise ValueError(f"{name} has colours; pass one channel, such as pixels[..., 0] or image.convert('L')")
        pixels = pixels[..., :1]
    if pixels.max() == 1:
        raise ValueError(f"{name} has no value above 1, and white is 255; pass a bool array, or multiply by 255")
    return np.ascontiguousarray(pixels)


def box_mask(box: Sequence[int], size: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """Return a mask that is white in a box.

    Parameters
    ----------
    box : tuple of int
        ``(left, top, right, bottom)`` in pixels. `right` and `bottom` are excluded, as in Pillow.
    size : tuple of int
        Width and height of the mask, in pixels.
    name : str
        Name of the parameter, for messages.

    Returns
    -------
    uint8 array (H, W, 1), C-contiguous
        A new array: 255 in the box, 0 elsewhere.

    Raises
    ------
    TypeError
        If the box is not four integers.
    ValueError
        If the box is empty or reaches outside of the mask.
    """
    width, height = size
    if len(box) != 4 or not all(isinstance(side, (int, np.integer)) and type(side) is not bool for side in box):
        raise TypeError(f"{name} must be an image or a box (left, top, right, bottom) of integers, not {shown(box)}")
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"{name} must be a box inside the image, (0, 0, {width}, {height}), not {shown(tuple(box))}")
    mask = np.zeros((height, width, 1), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def to_pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    """Copy a uint8 array (H, W, 3) into a new Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels)


def _pixels(image: Any, name: str, is_mask: bool) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        return from_array(np.asarray(image), name, is_mask)
    from PIL import Image

    if isinstance(image, (str, os.PathLike)):
        image = decoded(read(image, name), name)
    elif isinstance(image, Image.Image):
        _load(image, name)
    elif hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return from_array(_numbers(image, name), name, is_mask)
    else:
        try:
            buffer = memoryview(image)
        except TypeError:
            buffer = memoryview(file_content(image, name))
        if buffer.ndim != 1:
            return from_array(_numbers(buffer, name), name, is_mask)
        check_mapping(buffer, name)
        image = decoded(buffer, name)
    return from_pillow(image, name)


def _numbers(source: Any, name: str) -> NDArray[Any]:
    try:
        with naming(name):  # the object's own code runs, such as that of a tensor on a GPU
            return np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is a {type(source).__name__} that numpy cannot read: {shortened(error)}; convert it to an array"
            " first"
        ) from error


def _load(image: Image.Image, name: str) -> None:
    refuse_programs(image, name)
    try:
        image.load()
    except Exception as error:  # decoders raise any kind of exception on damaged files
        raise ValueError(f"{name} cannot be read as an image: {shortened(error) or type(error).__name__}") from error
