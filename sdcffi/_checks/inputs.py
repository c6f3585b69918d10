"""The pictures of one call, from whatever the caller gave to arrays of the size that is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .._models.files import Model
from .._numbers import check_integers
from ..images.convert import Alpha, as_mask, as_rgb, box_mask
from ..images.pixels import MOST_SIDE, parse_alpha
from ..images.resize import Resize, check_rule, fitted_size, resized
from ..params.image import ImageParams
from ..params.video import VideoParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.uint8]

__all__ = ["LEAST_REFERENCE", "REFERENCE_MULTIPLE", "drawn_size", "take_pictures", "take_video_pictures"]

_Params = TypeVar("_Params", ImageParams, VideoParams)

LEAST_REFERENCE = 64  # pixels a side; smaller ones divide by zero in tiled encoding
REFERENCE_MULTIPLE = 16
_DEFAULT_SIZE = 512  # sd_img_gen_params_init
_ANY_MULTIPLE = 64  # a multiple of every model's


def drawn_size(params: ImageParams | VideoParams, model: Model) -> tuple[int, int]:
    """Give width and height that the engine draws: those asked for, rounded up to the model's multiples.

    Where a model's own are not known, to multiples of 64.
    """
    multiple = model.pixel_multiple or _ANY_MULTIPLE
    width, height = params.width or _DEFAULT_SIZE, params.height or _DEFAULT_SIZE
    return math.ceil(width / multiple) * multiple, math.ceil(height / multiple) * multiple


def take_pictures(params: ImageParams, model: Model, resize: Resize = "error", alpha: Alpha = "refuse") -> ImageParams:
    """Convert the pictures of a call, see `images.as_rgb`, and bring them to size, see `images.resize`.

    Parameters
    ----------
    params : ImageParams
        Its pictures may be anything that `Engine.generate` takes.
    model : Model
    resize : str
        A rule of `images.resize`. Reference images keep their own size: they are brought to the nearest multiples of
        16 pixels, at least 64, unless the engine is asked to scale them.
    alpha : str or tuple
        See `images.as_rgb`.

    Returns
    -------
    ImageParams
        With pictures as uint8 arrays (H, W, 3), the mask (H, W, 1). A size that was not asked for is that of
        `init_image`, else of the first of `ref_images`, else of `control_image`, rounded up to the model's multiples;
        a side that was not, by the same picture's aspect.

    Raises
    ------
    TypeError, ValueError
        If one cannot be taken without guessing. Sizes are left to `check_image`.
    """
    check_rule(resize)
    alpha = parse_alpha(alpha)
    converted = _converted(params, alpha)
    pictures: list[Any] = [converted.init_image, *(converted.ref_images or ()), converted.control_image]
    leading = next((picture for picture in pictures if picture is not None), None)
    if leading is None:
        return converted
    check_integers(1, MOST_SIDE, width=params.width, height=params.height)
    sized = _with_size(converted, model, leading)
    return sized if resize == "error" else _with_resized(sized, model, resize)


def take_video_pictures(
    params: VideoParams, model: Model, resize: Resize = "error", alpha: Alpha = "refuse"
) -> VideoParams:
    """Do as `take_pictures` for a video: all pictures are brought to its size."""
    check_rule(resize)
    alpha = parse_alpha(alpha)
    single = {name: getattr(params, name) for name in ("init_image", "end_image")}
    changes: dict[str, Any] = {name: as_rgb(image, name, alpha) for name, image in single.items() if image is not None}
    if params.control_frames is not None:
        changes["control_frames"] = _several("control_frames", params.control_frames, alpha)
    pictures = [changes[name] for name in single if name in changes] + changes.get("control_frames", [])
    if not pictures:
        return params
    check_integers(1, MOST_SIDE, width=params.width, height=params.height)
    sized = _with_size(replace(params, **changes), model, pictures[0])
    if resize == "error":
        return sized
    size = drawn_size(sized, model)
    if resize == "fit":
        size = fitted_size(pictures[0].shape[1::-1], size, model.pixel_multiple or _ANY_MULTIPLE)
    for name, value in changes.items():
        several = isinstance(value, list)
        brought = [resized(item, size, resize) for item in (value if several else [value])]
        changes[name] = brought if several else brought[0]
    return replace(sized, **changes, width=size[0], height=size[1])


def _converted(params: ImageParams, alpha: Alpha) -> ImageParams:
    changes: dict[str, Any] = {
        name: as_rgb(getattr(params, name), name, alpha)
        for name in ("init_image", "control_image")
        if getattr(params, name) is not None
    }
    if params.mask_image is not None:
        changes["mask_image"] = _mask(params.mask_image, changes.get("init_image"), alpha)
    if params.ref_images is not None:
        changes["ref_images"] = _several("ref_images", params.ref_images, alpha)
    if params.pm_params is not None and getattr(params.pm_params, "id_images", None) is not None:
        photographs = _several("pm_params.id_images", params.pm_params.id_images, alpha)
        changes["pm_params"] = replace(params.pm_params, id_images=photographs)
    return replace(params, **changes) if changes else params


def _mask(mask: Any, init: Pixels | None, alpha: Alpha) -> Pixels:
    if init is None:
        raise ValueError("mask_image needs init_image")
    if isinstance(mask, (tuple, list)):
        return box_mask(mask, (init.shape[1], init.shape[0]), "mask_image")
    return as_mask(mask, "mask_image", alpha)


def _several(name: str, images: Any, alpha: Alpha) -> list[Pixels]:
    if isinstance(images, (str, bytes, bytearray)) or not isinstance(images, Iterable):
        raise TypeError(f"{name} must be a sequence of pictures, not {images!r}")
    if getattr(images, "ndim", 4) != 4:
        raise TypeError(f"{name} must be a sequence of pictures, not an array of shape {images.shape}")  # type: ignore[attr-defined]
    return [as_rgb(item, f"{name}[{index}]", alpha) for index, item in enumerate(images)]


def _with_size(params: _Params, model: Model, leading: Pixels) -> _Params:
    if params.width is not None and params.height is not None:
        return params
    height, width = leading.shape[:2]
    if params.height is not None:
        width = max(1, round(params.height * width / height))
    elif params.width is not None:
        height = max(1, round(params.width * height / width))
    drawn = drawn_size(replace(params, width=width, height=height), model)
    return replace(
        params,
        width=drawn[0] if params.width is None else params.width,
        height=drawn[1] if params.height is None else params.height,
    )


def _with_resized(params: ImageParams, model: Model, rule: Resize) -> ImageParams:
    changes: dict[str, Any] = {}
    size = drawn_size(params, model)
    leading: Any = params.control_image if params.init_image is None else params.init_image
    if rule == "fit" and leading is not None:
        size = fitted_size((leading.shape[1], leading.shape[0]), size, model.pixel_multiple or _ANY_MULTIPLE)
        changes["width"], changes["height"] = size
    _check_aspect(params.mask_image, params.init_image)
    for name in ("init_image", "mask_image", "control_image"):
        picture = getattr(params, name)
        if picture is not None:
            changes[name] = resized(picture, size, rule)
    references: Any = params.ref_images
    if references and not params.auto_resize_ref_image:
        changes["ref_images"] = [_legal_reference(picture, rule) for picture in references]
    return replace(params, **changes)


def _check_aspect(mask: Any, init: Any) -> None:
    """Of the same aspect, to a pixel, both stay in line whatever becomes of them."""
    if mask is None:
        return
    (mask_height, mask_width), (height, width) = mask.shape[:2], init.shape[:2]
    if abs(mask_width * height - width * mask_height) > max(mask_width, mask_height, width, height):
        raise ValueError(
            f"mask_image is {mask_width}x{mask_height} pixels, init_image {width}x{height}: another aspect, so it is"
            " not known what lies where"
        )


def _legal_reference(picture: Pixels, rule: Resize) -> Pixels:
    sides: Sequence[int] = picture.shape[1::-1]
    scale = max(1.0, LEAST_REFERENCE / min(sides)) / REFERENCE_MULTIPLE
    least = LEAST_REFERENCE // REFERENCE_MULTIPLE
    width, height = (max(least, round(side * scale)) * REFERENCE_MULTIPLE for side in sides)
    return picture if max(width, height) > MOST_SIDE else resized(picture, (width, height), rule)
