"""Convert numpy arrays and Pillow images to uint8 arrays (H, W, C).

The full scale of uint8 is 255, that of floats is 1, and bool is black or white. The full scale of 16 bits is 65535 if
the image format says so. Other arrays are refused, since their full scale is unknown.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .._quoting import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["MOST_SIDE", "Alpha", "check_mapping", "from_array", "from_pillow", "parse_alpha", "without_alpha"]

Alpha: TypeAlias = "str | tuple[int, int, int]"

MOST_SIDE = 16384  # pixels; above it the engine's counters overflow, or allocation takes minutes
_OF_16_BIT = ("PNG", "PPM")  # formats whose 16-bit files Pillow reads as 32-bit integers with full scale 65535
_ORIENTATION = 0x0112  # of EXIF


def from_array(array: NDArray[Any], name: str, is_mask: bool = False) -> NDArray[np.uint8]:
    """Return the pixels of an array.

    Parameters
    ----------
    array : array
        Shape (H, W) or (H, W, 1|3|4); uint8, or a float type from 0 to 1; a mask may be bool.
    name : str
        Name of the parameter, for messages.
    is_mask : bool

    Returns
    -------
    uint8 array (H, W, 1|3|4)
        A view of the given array if it is uint8; else a new array.

    Raises
    ------
    ValueError
        If the dtype, the shape or the values are not supported.
    """
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    is_number = array.dtype == np.uint8 or array.dtype.kind == "f" or (is_mask and array.dtype == np.bool_)
    if not has_shape or not is_number or 0 in array.shape:
        legal = f"a {'bool, ' if is_mask else ''}uint8 or float (0 to 1) array of shape (H, W) or (H, W, 1, 3 or 4)"
        raise ValueError(f"{name} must be {legal}, not {array.dtype} {array.shape}{_hint(array)}")
    check_sides(name, array.shape[1], array.shape[0])
    if check_mapping(array, name):
        array = array.copy()  # as it is now: who writes the file may shorten it
    if array.dtype.kind == "f":
        array = _from_float(array, name)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    return array[..., None] if array.ndim == 2 else array


def check_mapping(source: Any, name: str) -> bool:
    """Return whether memory is that of a mapped file; refuse it if the file has become shorter than the mapping.

    To read behind the end of the file would end the process.

    Raises
    ------
    ValueError
        If it has.
    """
    offset = 0
    while isinstance(source, (np.ndarray, memoryview)):
        offset = getattr(source, "offset", 0) or offset
        source = source.base if isinstance(source, np.ndarray) else source.obj
    if not isinstance(source, mmap.mmap):
        return False
    before = offset - offset % mmap.ALLOCATIONGRANULARITY  # bytes of the file in front of the mapping
    if source.size() < before + len(source):
        raise ValueError(f"{name} is in a file that was truncated after it was mapped: map it again, or pass a copy")
    return True


def _hint(array: NDArray[Any]) -> str:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return "; move the channels last: numpy.moveaxis(pixels, 0, -1)"
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        return "; divide it by its full scale, such as pixels / 65535"
    return ""


def check_sides(name: str, width: int, height: int) -> None:
    """Refuse an image with a side of less than 1 or more than `MOST_SIDE` pixels."""
    if min(width, height) < 1 or max(width, height) > MOST_SIDE:
        raise ValueError(f"{name} must have sides from 1 to {MOST_SIDE} pixels, not {width}x{height}")


def _from_float(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype.itemsize < 4:  # numpy computes half precision in software, slowly
        array = array.astype(np.float32)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also for NaN
        raise ValueError(f"{name} has floats from {low} to {high}; they must be from 0 to 1: scale them first")
    scaled: NDArray[np.float32] = np.multiply(array, 255, dtype=np.float32, casting="same_kind")
    scaled += 0.5
    return scaled.astype(np.uint8)


def from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a Pillow image, rotated by its EXIF orientation.

    Parameters
    ----------
    image : Image
        An image of any mode that can be converted to gray, RGB or RGBA. 16-bit images are scaled to 8 bits (Pillow
        would clip them). Mode ``"I"`` is accepted from 16-bit files, mode ``"F"`` with values from 0 to 1. Colour
        profiles are not applied.
    name : str
        Name of the parameter, for messages.

    Returns
    -------
    uint8 array (H, W, 1|3|4)
        A new array.

    Raises
    ------
    ValueError
        If the full scale of the mode is unknown, or a value is out of range.
    """
    check_sides(name, *image.size)
    source = image.format
    image = _upright(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and source in _OF_16_BIT):
        return _from_16_bit(image)
    if image.mode == "F":
        return _from_float(np.asarray(image), name)[..., None]
    if image.mode == "I":
        low, high = image.getextrema()
        raise ValueError(
            f"{name} has mode 'I' (int32, here from {low} to {high}) with an unknown full scale; pass an array divided"
            " by its full scale, or an image of mode I;16, L, RGB or RGBA"
        )
    if image.mode not in ("L", "RGB", "RGBA") or _has_transparency(image):
        image = _converted(image)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation; one that cannot be read is none."""
    from PIL import Image

    turns = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow's reader raises any kind of exception on damaged data
        return image
    if type(orientation) is not int or not 2 <= orientation <= 8:
        return image
    return image.transpose(Image.Transpose[turns[orientation - 2]])


def _from_16_bit(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image).astype(np.uint32)
    gray = ((values + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if key is None:
        return gray[..., None]
    return np.stack([gray, gray, gray, np.where(values == key, 0, 255).astype(np.uint8)], axis=2)


def _has_transparency(image: Image.Image) -> bool:
    """Do what `Image.has_transparency_data` does, which Pillow 10.0 lacks."""
    in_palette = image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    return image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info or in_palette


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # the only conversion that Pillow has for it
        image = image.convert("LA")
    return image.convert("RGBA" if _has_transparency(image) else "L" if image.mode == "1" else "RGB")


def parse_alpha(alpha: object) -> Alpha:
    """Return ``"refuse"``, ``"ignore"``, or a colour as three integers from 0 to 255.

    Parameters
    ----------
    alpha : str or tuple
        One of those words, a colour's name as Pillow knows it, or three integers.

    Raises
    ------
    TypeError
        If it is neither a string nor a sequence of numbers.
    ValueError
        If it is not in the legal set.
    """
    legal = "'refuse', 'ignore', a colour's name ('white', '#ff8000') or three integers from 0 to 255"
    if isinstance(alpha, (tuple, list)):
        numbers = tuple(alpha)
        if len(numbers) != 3 or not all(type(number) is int and 0 <= number <= 255 for number in numbers):
            raise ValueError(f"alpha must be {legal}, not {shown(alpha)}")
        return numbers
    if not isinstance(alpha, str):
        raise TypeError(f"alpha must be {legal}, not {shown(alpha)}")
    if alpha.lower() in ("refuse", "ignore"):
        return alpha.lower()
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(alpha)[:3]
    except ValueError:
        raise ValueError(f"alpha must be {legal}, not {shown(alpha)}") from None
    return red, green, blue


def without_alpha(pixels: NDArray[np.uint8], name: str, alpha: Alpha) -> NDArray[np.uint8]:
    """Return the colours of pixels with an alpha channel (H, W, 4).

    Parameters
    ----------
    pixels : uint8 array (H, W, 4)
    name : str
        Name of the parameter, for messages.
    alpha : str or tuple
        See `parse_alpha`. It is ignored if the alpha channel is 255 everywhere.

    Returns
    -------
    uint8 array (H, W, 3)
        A view of `pixels` if nothing is blended; else a new array.

    Raises
    ------
    ValueError
        If a pixel is transparent and `alpha` is ``"refuse"``.
    """
    colours, opacity = pixels[..., :3], pixels[..., 3:]
    alpha = parse_alpha(alpha)
    if alpha == "ignore" or opacity.min() == 255:
        return colours
    if isinstance(alpha, str):
        raise ValueError(
            f"{name} has transparent pixels: pass alpha='white' (or another background colour), or alpha='ignore' to"
            " drop the alpha channel"
        )
    share = opacity[..., 0].astype(np.uint16)
    result = np.empty_like(colours, order="C")
    for channel, ground in enumerate(alpha):  # one at a time: numpy is slow along an axis of length 3
        mixed = colours[..., channel] * share + np.uint16(ground) * (255 - share) + 128
        result[..., channel] = (mixed + (mixed >> 8)) >> 8  # division by 255, rounded
    return result
