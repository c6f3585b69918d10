"""Check a call that generates images: numbers, prompts, input images, and how they go together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._models.files import Model, read_file
from .._models.upscaler_file import read_network
from .._numbers import check_integer, check_number
from .._quoting import shown
from .._references import local_path
from .._warnings import warn, warn_of_unused
from ..images.convert import Alpha
from ..images.pixels import MOST_SIDE
from ..images.resize import Resize
from ..params.image import Hires, ImageParams, PhotoMaker
from .inputs import (
    LEAST_REFERENCE,
    REFERENCE_MULTIPLE,
    generated_size,
    requested_size,
    scales_references,
    take_images,
)
from .prompt import MOST_BACKTRACK
from .sampling import (
    MOST_SCALE,
    MOST_STEPS,
    check_call,
    check_fit,
    warn_of_size,
)

__all__ = ["MASK_BLUR", "check_image", "with_network"]

MASK_BLUR = 4.0  # pixels, as in AUTOMATIC1111's web interface
_MOST_BLUR = 1000  # pixels
_MOST_BATCH = 10_000
_UPSCALERS_OF_PIXELS = ("Lanczos", "Nearest", "Model")


def check_image(
    params: ImageParams, model: Model, defaults: ImageParams, resize: Resize = "error", alpha: Alpha = "refuse"
) -> ImageParams:
    """Check one call against its model, and convert its input images.

    Parameters
    ----------
    params : ImageParams
    model : Model
        The result of `check_context`. Properties that it does not know are not checked.
    defaults : ImageParams
        The engine's own.
    resize : str
    alpha : str or tuple
        See `take_images`.

    Returns
    -------
    ImageParams
        The call, its images as `take_images` returns them, with a mask also `mask_blur` and `paste_back`, and the path
        of a network that was given by reference.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is not in its legal set, or does not fit the model or another value.

    Warns
    -----
    UserWarning
        If the engine will round the size up, with the size of the result; or if a strength is ignored for want of its
        image.
    """
    if model.is_video and model.architecture:
        raise ValueError(f"{model.architecture.title} generates videos only: use generate_video()")
    check_call(params, model, defaults)
    check_integer("batch_count", params.batch_count, 1, _MOST_BATCH)
    check_integer("comma_backtrack", params.comma_backtrack, 0, MOST_BACKTRACK)
    check_number("control_strength", params.control_strength, 0, MOST_SCALE)
    scales = scales_references(params, model, defaults)
    params = with_network(_with_paste(take_images(params, model, resize, alpha, scales=scales)))
    whole = defaults.updated(params)
    size = requested_size(whole)
    _check_images(params, size, model, scales)
    _check_photo_maker(params.pm_params, params.prompt or "", model)
    _check_hires(whole.hires, size, model)
    if not (params.hires and params.hires.enabled):
        warn_of_size(size, model)
    _warn_of_idle(params, defaults)
    return params


def _with_paste(params: ImageParams) -> ImageParams:
    """Check how the original is put back outside of the mask, and fill in the defaults, for the record."""
    check_number("mask_blur", params.mask_blur, 0, _MOST_BLUR)
    if params.mask_image is not None:
        blur = MASK_BLUR if params.mask_blur is None else float(params.mask_blur)
        return replace(params, mask_blur=blur, paste_back=params.paste_back is not False)
    for name in ("mask_blur", "paste_back"):
        if getattr(params, name) is not None:
            raise ValueError(f"{name} needs mask_image: pass both")
    return params


def with_network(params: ImageParams) -> ImageParams:
    """Return the parameters with the path of the second pass's network, which may be given by reference."""
    hires = params.hires
    if hires is None or not hires.enabled or hires.model_path is None:
        return params
    return replace(params, hires=replace(hires, model_path=local_path(hires.model_path, "hires.model")))


def _warn_of_idle(params: ImageParams, defaults: ImageParams) -> None:
    """Warn of strengths without their image; the engine's own, which `replay` passes on, ask for nothing."""
    for name, image in {"strength": "init_image", "control_strength": "control_image"}.items():
        value, usual = getattr(params, name), getattr(defaults, name)
        same = value is None or (usual is not None and math.isclose(value, usual, rel_tol=1e-6))
        if not same and getattr(params, image) is None:
            warn(f"{name}={value} is ignored without {image}: pass {image}= too, or leave {name} out")


def _check_images(params: ImageParams, size: tuple[int, int], model: Model, scales: bool) -> None:
    references: Any = params.ref_images or ()
    _check_mask(params.mask_image, params.init_image)
    if params.control_image is not None and model.takes_hint is False:
        raise ValueError("control_image needs a ControlNet: pass control_net= to Engine")
    if references:
        _check_references(references, size, scales)
    _check_fit(params, size, model)
    if (params.init_image is not None or references) and model.encodes is False:
        name = "init_image" if params.init_image is not None else "ref_images"
        raise ValueError(f"{name} needs an autoencoder with an encoder, and vae_decode_only=False in the context")
    if references and model.architecture and not model.architecture.takes_references:
        raise ValueError(f"{model.architecture.title} takes no ref_images: use init_image")


def _check_mask(mask: Any, init: Any) -> None:
    if mask is not None and mask.shape[:2] != init.shape[:2]:
        raise ValueError(
            f"mask_image is {mask.shape[1]}x{mask.shape[0]} pixels, init_image is {init.shape[1]}x{init.shape[0]}; make"
            " them the same size, or pass resize='fit', 'crop', 'pad' or 'stretch'"
        )


def _check_references(references: Sequence[Any], size: tuple[int, int], scales: bool) -> None:
    """Refuse sizes that the engine cannot split into patches, or that it would scale to a side of 0 pixels."""
    area = min(1024**2, size[0] * size[1])
    for index, reference in enumerate(references):
        height, width = reference.shape[:2]
        if min(height, width) < LEAST_REFERENCE:
            raise ValueError(
                f"ref_images[{index}] must have sides of at least {LEAST_REFERENCE} pixels, not {width}x{height}"
            )
        if not scales and (height % REFERENCE_MULTIPLE or width % REFERENCE_MULTIPLE):
            raise ValueError(
                f"ref_images[{index}] must have sides that are multiples of 16 pixels, not {width}x{height}; pass"
                " resize='fit', 'crop', 'pad' or 'stretch'"
            )
        if scales and math.sqrt(area * min(height, width) / max(height, width)) < 16:
            raise ValueError(f"ref_images[{index}] is {width}x{height} pixels, too narrow to be scaled: crop it first")


def _check_fit(params: ImageParams, asked: tuple[int, int], model: Model) -> None:
    size = generated_size(*asked, model)
    for name in ("init_image", "control_image"):
        check_fit(name, getattr(params, name), size, model)
        if getattr(params, name) is not None and model.pixel_multiple is None and asked != size:
            raise ValueError(
                f"width and height must be multiples of 64 with {name}, not {asked[0]} and {asked[1]}: for this model"
                " it is unknown what other sizes are rounded up to"
            )


def _check_photo_maker(params: PhotoMaker | None, prompt: str, model: Model) -> None:
    if params is None:
        return
    check_number("pm_params.style_strength", params.style_strength, 0, 100)
    images = params.id_images or ()
    if images and model.files and not any(file.slot == "photo_maker_path" for file in model.files):
        raise ValueError("pm_params.id_images needs PhotoMaker: pass photo_maker= to Engine")
    if images and (len(re.findall(r"\bimg\b", prompt)) != 1 or not re.search(r"\w\s+img\b", prompt)):
        raise ValueError(
            "pm_params.id_images needs the word 'img' exactly once in the prompt, after the word for the person, as in"
            f" 'a man img', not {shown(prompt)}"
        )
    if params.id_embed_path is not None:
        read_file("pm_params.id_embed", Path(params.id_embed_path))


def _check_hires(hires: Hires | None, size: tuple[int, int], model: Model) -> None:
    if hires is None or not hires.enabled:
        return
    if hires.upscaler == "None":
        raise ValueError(
            "hires.upscaler must not be 'None', with which there is no second pass: use 'Lanczos' or 'Latent', or leave"
            " hires out"
        )
    check_number("hires.denoising_strength", hires.denoising_strength, 0, 1)
    if hires.denoising_strength == 0:
        raise ValueError("hires.denoising_strength must be above 0, not 0: at 0 the second pass changes nothing")
    check_number("hires.scale", hires.scale, 0, 16)
    for name in ("target_width", "target_height"):
        check_integer(f"hires.{name}", getattr(hires, name), 0, MOST_SIDE)
    check_integer("hires.steps", hires.steps, 0, MOST_STEPS)
    check_integer("hires.upscale_tile_size", hires.upscale_tile_size, 1, MOST_SIDE)
    if not hires.target_width and not hires.target_height:
        _check_scale(hires.scale, size)
    if hires.upscaler == "Model" and hires.model_path is None:
        raise ValueError("hires.upscaler 'Model' needs hires.model_path")
    if hires.model_path is not None:
        network = read_network("hires.model", Path(hires.model_path))
        warn_of_unused(network.unused, str(network.path))
    if hires.upscaler in _UPSCALERS_OF_PIXELS and model.encodes is False:
        raise ValueError(
            f"hires.upscaler {shown(hires.upscaler)} needs an autoencoder with an encoder, and vae_decode_only=False in"
            " the context; or use an upscaler whose name begins with 'Latent'"
        )


def _check_scale(scale: float | None, size: tuple[int, int]) -> None:
    if not scale:
        raise ValueError("hires.scale must be above 0, not 0, unless a target size is given")
    width, height = (round(side * scale) for side in size)
    if not min(width, height) >= 1 or max(width, height) > MOST_SIDE:
        raise ValueError(f"hires.scale {shown(scale)} gives {width}x{height} pixels; use sides from 1 to {MOST_SIDE}")
