"""Resize an input image to the size of the result. The engine would repeat pixels and change the aspect ratio.

=============  ==============================================  ================================================
rule           input image                                     size of the result
=============  ==============================================  ================================================
``"error"``    used as it is; a different size is refused      as requested, rounded up to the model's multiple
``"stretch"``  scaled to that size; the aspect ratio changes   the same
``"crop"``     scaled to cover that size, cropped equally      the same
``"pad"``      scaled to fit into it, centred on black bars    the same
``"fit"``      scaled to fit into that size                    that of the scaled image, to the nearest multiple
=============  ==============================================  ================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from .._quoting import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RULES", "Resize", "check_rule", "fitted_size", "resized"]

Resize: TypeAlias = Literal["error", "fit", "crop", "pad", "stretch"]
Size: TypeAlias = "tuple[int, int]"  # width, height
RULES: tuple[Resize, ...] = ("crop", "stretch", "pad")  # rules that bring an image to a given size; "fit" then crops


def check_rule(rule: object) -> Resize:
    """Return the name of a rule, given in any case, and refuse anything else.

    Raises
    ------
    ValueError
        With the legal names.
    """
    word = rule.lower() if isinstance(rule, str) else None
    found: Resize | None = next((name for name in get_args(Resize) if name == word), None)
    if found is None:
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}, not {shown(rule)}")
    return found


def fitted_size(image: Size, within: Size, multiple: int) -> Size:
    """Return the largest size with an image's aspect ratio inside another size, each side to the nearest multiple.

    Parameters
    ----------
    image, within : tuple of int
        Width and height, in pixels. Those of `within` are multiples of `multiple`.
    multiple : int
        In pixels, at least 1.
    """
    scale = min(within[0] / image[0], within[1] / image[1])
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in image)
    return width, height


def resized(pixels: NDArray[np.uint8], size: Size, rule: Resize) -> NDArray[np.uint8]:
    """Return an image in another size.

    Images (three channels) are filtered with Lanczos' kernel. Masks (one channel) are filtered with a box, which
    averages when it shrinks and repeats pixels when it enlarges, so that edges do not ring and no pixel is skipped.

    Parameters
    ----------
    pixels : uint8 array (H, W, 1 or 3)
    size : tuple of int
        Width and height of the result, in pixels.
    rule : str
        ``"stretch"``, ``"pad"`` or ``"crop"``. ``"fit"`` crops too, to `fitted_size`, and loses less than half a
        multiple.

    Returns
    -------
    uint8 array (H, W, 1 or 3), C-contiguous
        The given array if it already has that size; else a new array.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    if rule == "stretch":
        return _scaled(pixels, size, (0, 0, width, height))
    if rule == "pad":
        return _padded(pixels, size)
    scale = max(size[0] / width, size[1] / height)
    left, top = (width - size[0] / scale) / 2, (height - size[1] / scale) / 2
    return _scaled(pixels, size, (max(0.0, left), max(0.0, top), min(width, width - left), min(height, height - top)))


def _padded(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    whole = np.zeros((size[1], size[0], pixels.shape[2]), np.uint8)
    whole[top : top + inner[1], left : left + inner[0]] = _scaled(pixels, inner, (0, 0, width, height))
    return whole


def _scaled(pixels: NDArray[np.uint8], size: Size, box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    from PIL import Image

    is_mask = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if is_mask else pixels)
    kernel = Image.Resampling.BOX if is_mask else Image.Resampling.LANCZOS
    scaled = np.asarray(image.resize(size, kernel, box=box))
    return scaled[..., None] if is_mask else scaled
