"""Convert the input images of a call to arrays of the size that the engine generates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .._models.files import Model
from .._numbers import items_of
from .._quoting import shown
from ..images.convert import Alpha, as_mask, as_rgb, box_mask
from ..images.pixels import MOST_SIDE, parse_alpha
from ..images.resize import Resize, check_rule, fitted_size, resized
from ..params.image import ImageParams
from ..params.video import VideoParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.uint8]

__all__ = [
    "LEAST_REFERENCE",
    "REFERENCE_MULTIPLE",
    "generated_size",
    "requested_size",
    "scales_references",
    "take_images",
    "take_video_images",
]

_Params = TypeVar("_Params", ImageParams, VideoParams)

LEAST_REFERENCE = 64  # pixels per side; with smaller images tiled encoding divides by zero
REFERENCE_MULTIPLE = 16
_ANY_MULTIPLE = 64  # pixels; a multiple of every model's


def generated_size(width: int, height: int, model: Model) -> tuple[int, int]:
    """Return the size that the engine generates: the requested one, rounded up to the model's multiple.

    Parameters
    ----------
    width, height : int
        In pixels.
    model : Model
        If its multiple is unknown, 64 is used, which is a multiple of every model's.

    Returns
    -------
    tuple of int
        Width and height, in pixels.
    """
    multiple = model.pixel_multiple or _ANY_MULTIPLE
    return math.ceil(width / multiple) * multiple, math.ceil(height / multiple) * multiple


def requested_size(params: ImageParams | VideoParams) -> tuple[int, int]:
    """Return the width and height of a call in which both are set, in pixels."""
    assert params.width is not None
    assert params.height is not None
    return params.width, params.height


def scales_references(params: ImageParams, model: Model, defaults: ImageParams) -> bool:
    """Return whether the engine scales reference images to the area of the result.

    Parameters
    ----------
    params : ImageParams
        The call, which decides if it says so.
    model : Model
    defaults : ImageParams
        The engine's own. One that scales references keeps the size of Anima's (`REF_IMAGE_PRESETS`).
    """
    if params.auto_resize_ref_image is not None:
        return params.auto_resize_ref_image
    keeps = model.architecture is not None and model.architecture.name == "anima"
    return bool(defaults.auto_resize_ref_image) and not keeps


def take_images(
    params: ImageParams, model: Model, resize: Resize = "error", alpha: Alpha = "refuse", *, scales: bool = False
) -> ImageParams:
    """Convert the input images of a call with `images.convert`, and resize them with `images.resize`.

    Parameters
    ----------
    params : ImageParams
        Its images may be anything that `Engine.generate` takes.
    model : Model
    resize : str
        A rule of `images.resize`. Reference images keep their own size, rounded to the nearest multiples of 16 pixels
        and at least 64, unless the engine scales them.
    alpha : str or tuple
        See `as_rgb`.
    scales : bool
        Whether the engine scales reference images, see `scales_references`.

    Returns
    -------
    ImageParams
        A copy with images as uint8 arrays (H, W, 3) and the mask as (H, W, 1). If neither width nor height is given,
        they are those of `init_image`, else of the first of `ref_images`, else of `control_image`, rounded up to the
        model's multiple. If one is given, the other follows from the aspect ratio of that image.

    Raises
    ------
    TypeError, ValueError
        If an image is not supported, see `as_rgb`. Numbers are left to `check_image`.
    """
    resize = check_rule(resize)
    alpha = parse_alpha(alpha)
    converted = _converted(params, alpha)
    images: list[Any] = [converted.init_image, *(converted.ref_images or ()), converted.control_image]
    leading = next((image for image in images if image is not None), None)
    if leading is None:
        return converted
    sized = _with_size(converted, model, leading)
    return sized if resize == "error" else _with_resized(sized, model, resize, scales)


def take_video_images(
    params: VideoParams, model: Model, resize: Resize = "error", alpha: Alpha = "refuse"
) -> VideoParams:
    """Do what `take_images` does, for a video: all images get the video's size.

    Returns
    -------
    VideoParams
        A copy with images as uint8 arrays (H, W, 3). A size that is not given follows from the first image.
    """
    resize = check_rule(resize)
    alpha = parse_alpha(alpha)
    single = {name: getattr(params, name) for name in ("init_image", "end_image")}
    changes: dict[str, Any] = {name: as_rgb(image, name, alpha) for name, image in single.items() if image is not None}
    if params.control_frames is not None:
        changes["control_frames"] = _several("control_frames", params.control_frames, alpha)
    images = [changes[name] for name in single if name in changes] + changes.get("control_frames", [])
    if not images:
        return params
    sized = _with_size(replace(params, **changes), model, images[0])
    if resize == "error":
        return sized
    size = generated_size(*requested_size(sized), model)
    if resize == "fit":
        size = fitted_size(images[0].shape[1::-1], size, model.pixel_multiple or _ANY_MULTIPLE)
    for name, value in changes.items():
        several = isinstance(value, list)
        scaled = [resized(item, size, resize) for item in (value if several else [value])]
        changes[name] = scaled if several else scaled[0]
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
    if params.pm_params is not None and params.pm_params.id_images is not None:
        photographs = _several("pm_params.id_images", params.pm_params.id_images, alpha)
        changes["pm_params"] = replace(params.pm_params, id_images=photographs)
    return replace(params, **changes) if changes else params


def _mask(mask: Any, init: Pixels | None, alpha: Alpha) -> Pixels:
    if init is None:
        raise ValueError("mask_image needs init_image: pass both")
    if isinstance(mask, (tuple, list)):
        return box_mask(mask, (init.shape[1], init.shape[0]), "mask_image")
    return as_mask(mask, "mask_image", alpha)


def _several(name: str, images: Any, alpha: Alpha) -> list[Pixels]:
    if isinstance(images, (str, bytes, bytearray)) or not isinstance(images, Iterable):
        raise TypeError(f"{name} must be a sequence of images, not {shown(images)}")
    if getattr(images, "ndim", 4) != 4:
        raise TypeError(f"{name} must be a sequence of images, not an array of shape {images.shape}")  # type: ignore[attr-defined]
    return [as_rgb(item, f"{name}[{index}]", alpha) for index, item in enumerate(items_of(name, images))]


def _with_size(params: _Params, model: Model, leading: Pixels) -> _Params:
    if params.width is not None and params.height is not None:
        return params
    height, width = leading.shape[:2]
    if params.height is not None:
        width = max(1, round(params.height * width / height))
    elif params.width is not None:
        height = max(1, round(params.width * height / width))
    size = generated_size(width, height, model)
    return replace(
        params,
        width=size[0] if params.width is None else params.width,
        height=size[1] if params.height is None else params.height,
    )


def _with_resized(params: ImageParams, model: Model, rule: Resize, scales: bool) -> ImageParams:
    changes: dict[str, Any] = {}
    size = generated_size(*requested_size(params), model)
    leading: Any = params.control_image if params.init_image is None else params.init_image
    if rule == "fit" and leading is not None:
        size = fitted_size((leading.shape[1], leading.shape[0]), size, model.pixel_multiple or _ANY_MULTIPLE)
        changes["width"], changes["height"] = size
    _check_aspect(params.mask_image, params.init_image)
    for name in ("init_image", "mask_image", "control_image"):
        image = getattr(params, name)
        if image is not None:
            changes[name] = resized(image, size, rule)
    references: Any = params.ref_images
    if references and not scales:
        changes["ref_images"] = [_legal_reference(image, rule) for image in references]
    return replace(params, **changes)


def _check_aspect(mask: Any, init: Any) -> None:
    """Refuse a mask of another aspect ratio than the image: after resizing they would no longer match."""
    if mask is None:
        return
    (mask_height, mask_width), (height, width) = mask.shape[:2], init.shape[:2]
    if abs(mask_width * height - width * mask_height) > max(mask_width, mask_height, width, height):
        raise ValueError(
            f"mask_image is {mask_width}x{mask_height} pixels, init_image is {width}x{height}; their aspect"
            " ratios must be equal, so that the mask matches the image"
        )


def _legal_reference(image: Pixels, rule: Resize) -> Pixels:
    sides: Sequence[int] = image.shape[1::-1]
    scale = max(1.0, LEAST_REFERENCE / min(sides)) / REFERENCE_MULTIPLE
    least = LEAST_REFERENCE // REFERENCE_MULTIPLE
    width, height = (max(least, round(side * scale)) * REFERENCE_MULTIPLE for side in sides)
    return image if max(width, height) > MOST_SIDE else resized(image, (width, height), rule)
