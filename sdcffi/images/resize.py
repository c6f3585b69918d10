"""Bring a picture to the size that is drawn. The engine itself would repeat pixels and not keep the aspect.

=============  ==================================================  =========================================
rule           what becomes of the picture                         the result's size
=============  ==================================================  =========================================
``"error"``    taken as it is; another size is refused             as asked, rounded up to the model's pixels
``"stretch"``  scaled to that size, its aspect not kept            the same
``"crop"``     scaled to cover that size, cut equally at the ends  the same
``"pad"``      scaled to fit within, in the middle of black bars   the same
``"fit"``      scaled to fit within                                what the picture then has, to the nearest
                                                                   of the model's multiples
=============  ==================================================  =========================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RULES", "Resize", "check_rule", "fitted_size", "resized"]

Resize: TypeAlias = Literal["error", "fit", "crop", "pad", "stretch"]
Size: TypeAlias = "tuple[int, int]"  # width, height
RULES: tuple[Resize, ...] = ("crop", "stretch", "pad")  # by which a picture comes to a size; to fit is to crop


def check_rule(rule: object) -> None:
    """Refuse what is no rule."""
    if not isinstance(rule, str) or rule not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}, not {rule!r}")


def fitted_size(picture: Size, within: Size, multiple: int) -> Size:
    """Give the size with a picture's aspect that fits within another, each side to the nearest multiple.

    Parameters
    ----------
    picture, within : tuple of int
        Width and height; those of `within` are multiples.
    multiple : int
        Pixels.
    """
    scale = min(within[0] / picture[0], within[1] / picture[1])
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in picture)
    return width, height


def resized(pixels: NDArray[np.uint8], size: Size, rule: Resize) -> NDArray[np.uint8]:
    """Give a picture in another size.

    Pictures of three channels are filtered by Lanczos' kernel; masks, of one, by a box, which gives each pixel the
    mean of what it covers and repeats pixels where it enlarges: no ringing beside an edge, nothing passed over.

    Parameters
    ----------
    pixels : uint8 array (H, W, 1 or 3)
    size : tuple of int
        Width and height wanted.
    rule : str
        ``"stretch"``, ``"pad"`` or ``"crop"``. To ``"fit"`` is to crop to `fitted_size`: what is cut away is less
        than half a multiple.

    Returns
    -------
    uint8 array (H, W, 1 or 3), C-contiguous
        The same where it has that size.
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
