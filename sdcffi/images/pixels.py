"""Numbers to pixels: numpy arrays and Pillow images to uint8 (H, W, C), where it is known what their numbers mean.

uint8 counts to 255, a float to 1, bool is black or white; 16 bits count to 65535 where a picture format says so. What
else an array holds is its owner's to know, and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["MOST_SIDE", "Alpha", "from_array", "from_pillow", "parse_alpha", "without_alpha"]

Alpha: TypeAlias = "str | tuple[int, int, int]"

MOST_SIDE = 16384  # pixels; what stands beyond it overflows counts of the engine, or ends in minutes of allocation
_FULL_16_BIT = 65535
_OF_16_BIT = ("PNG", "PPM")  # formats whose 16-bit files Pillow gives as 32-bit integers, scaled to 65535
_ORIENTATION = 0x0112  # of EXIF


def from_array(array: NDArray[Any], name: str, is_mask: bool = False) -> NDArray[np.uint8]:
    """Give an array's pixels, the array itself where it is uint8.

    Parameters
    ----------
    array : array
        Shape (H, W) or (H, W, 1|3|4); uint8, or a float type from 0 to 1; a mask may be bool.
    name : str
        What to call it in messages.
    is_mask : bool

    Returns
    -------
    uint8 array (H, W, 1|3|4)
        A view where no number had to be changed.

    Raises
    ------
    ValueError
        With dtype, shape and what is legal.
    """
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    is_number = array.dtype == np.uint8 or array.dtype.kind == "f" or (is_mask and array.dtype == np.bool_)
    if not is_picture or not is_number or 0 in array.shape:
        legal = f"a {'bool, ' if is_mask else ''}uint8 or float (0 to 1) array of shape (H, W) or (H, W, 1, 3 or 4)"
        raise ValueError(f"{name} must be {legal}, not {array.dtype} {array.shape}{_hint(array)}")
    check_sides(name, array.shape[1], array.shape[0])
    if array.dtype.kind == "f":
        array = _from_float(array, name)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    return array[..., None] if array.ndim == 2 else array


def _hint(array: NDArray[Any]) -> str:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return "; channels come last: numpy.moveaxis(pixels, 0, -1)"
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        return "; divide it by its full scale, such as pixels / 65535"
    return ""


def check_sides(name: str, width: int, height: int) -> None:
    """Refuse a picture that is empty or huge."""
    if min(width, height) < 1 or max(width, height) > MOST_SIDE:
        raise ValueError(f"{name} must have from 1 to {MOST_SIDE} pixels a side, not {width}x{height}")


def _from_float(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype.itemsize < 4:  # numpy works on half precision through software
        array = array.astype(np.float32)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(f"{name} has floats, which must be from 0 to 1, not from {low} to {high}")
    scaled: NDArray[np.float32] = np.multiply(array, 255, dtype=np.float32, casting="same_kind")
    scaled += 0.5
    return scaled.astype(np.uint8)


def from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Give a Pillow image's pixels, turned upright by its EXIF orientation.

    Parameters
    ----------
    image : Image
        Of any mode that can be made gray, RGB or RGBA. 16-bit ones are scaled to 8 bits, not clipped as by Pillow;
        modes ``"I"`` and ``"F"`` are taken from 16-bit files, and with numbers from 0 to 1. Colour profiles are not
        applied.
    name : str
        What to call it in messages.

    Returns
    -------
    uint8 array (H, W, 1|3|4)
        A copy.

    Raises
    ------
    ValueError
        If the mode does not say what its numbers mean.
    """
    from PIL import ImageOps

    check_sides(name, *image.size)
    source = image.format
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and source in _OF_16_BIT):
        return _from_16_bit(image)
    if image.mode == "F":
        return _from_float(np.asarray(image), name)[..., None]
    if image.mode == "I":
        low, high = image.getextrema()
        raise ValueError(
            f"{name} is of mode 'I' (int32, from {low} to {high}), whose full scale is not known; give an array"
            " divided by it, or an image of mode I;16, L, RGB or RGBA"
        )
    if image.mode not in ("L", "RGB", "RGBA") or _has_transparency(image):
        image = _converted(image)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _from_16_bit(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image).astype(np.uint32)
    gray = ((values + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if key is None:
        return gray[..., None]
    return np.stack([gray, gray, gray, np.where(values == key, 0, 255).astype(np.uint8)], axis=2)


def _has_transparency(image: Image.Image) -> bool:
    """As `Image.has_transparency_data`, which Pillow 10.0 has not."""
    in_palette = image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    return image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info or in_palette


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # which Pillow makes nothing else of
        image = image.convert("LA")
    return image.convert("RGBA" if _has_transparency(image) else "L" if image.mode == "1" else "RGB")


def parse_alpha(alpha: object) -> Alpha:
    """Give ``"refuse"``, ``"ignore"`` or a colour of three numbers from 0 to 255.

    Raises
    ------
    TypeError, ValueError
        For anything else, with the legal set.
    """
    legal = "'refuse', 'ignore', a colour's name ('white', '#ff8000') or three integers from 0 to 255"
    if isinstance(alpha, (tuple, list)):
        numbers = tuple(alpha)
        if len(numbers) != 3 or not all(type(number) is int and 0 <= number <= 255 for number in numbers):
            raise ValueError(f"alpha must be {legal}, not {alpha!r}")
        return numbers
    if not isinstance(alpha, str):
        raise TypeError(f"alpha must be {legal}, not {alpha!r}")
    if alpha in ("refuse", "ignore"):
        return alpha
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(alpha)[:3]
    except ValueError:
        raise ValueError(f"alpha must be {legal}, not {alpha!r}") from None
    return red, green, blue


def without_alpha(pixels: NDArray[np.uint8], name: str, alpha: Alpha) -> NDArray[np.uint8]:
    """Give the colours of pixels with an alpha channel (H, W, 4).

    Parameters
    ----------
    pixels : uint8 array (H, W, 4)
    name : str
        What to call it in messages.
    alpha : str or tuple
        See `parse_alpha`. An alpha channel that is 255 everywhere is left out in any case.

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
            f"{name} is transparent in places, and it is not known what to show there: give alpha= a colour to lay it"
            " on, such as 'white', or alpha='ignore' to take its colours as they are"
        )
    share = opacity[..., 0].astype(np.uint16)
    result = np.empty_like(colours, order="C")
    for channel, ground in enumerate(alpha):  # one by one: numpy is slow along axes of three
        mixed = colours[..., channel] * share + np.uint16(ground) * (255 - share) + 128
        result[..., channel] = (mixed + (mixed >> 8)) >> 8  # by 255, rounded
    return result
