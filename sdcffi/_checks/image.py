"""Refuse a bad call before native code sees it: numbers, prompts, pictures, and what does not go together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._models.files import Model, read_file
from .._models.upscaler_file import read_network
from .._numbers import check_integer, check_integers, check_number
from ..images.pixels import MOST_SIDE
from ..params.image import Hires, ImageParams, PhotoMaker
from ..params.sampling import SampleParams
from .inputs import LEAST_REFERENCE, REFERENCE_MULTIPLE, drawn_size
from .prompt import check_prompt
from .sampling import (
    MOST_SCALE,
    MOST_STEPS,
    check_cache,
    check_fit,
    check_picture,
    check_sampling,
    check_tiling,
    sequence,
    warn_of_size,
)

__all__ = ["check_image"]

_MOST_BATCH = 10_000
_DEFAULT_SIZE = 512  # sd_img_gen_params_init
_DEFAULT_HIRES_SCALE = 2  # sd_hires_params_init
_UPSCALERS_OF_PIXELS = ("Lanczos", "Nearest", "Model")


def check_image(params: ImageParams, model: Model) -> ImageParams:
    """Check one call against its model.

    Parameters
    ----------
    params : ImageParams
    model : Model
        What `check_context` gave; what it does not know is not checked.

    Returns
    -------
    ImageParams
        The same.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set.

    Warns
    -----
    UserWarning
        Where the engine rounds the size up, with the size that will come out.
    """
    if model.is_video and model.architecture:
        raise ValueError(f"{model.architecture.title} makes videos only; no pictures can be drawn with it")
    check_prompt("prompt", params.prompt)
    check_prompt("negative_prompt", params.negative_prompt)
    check_integers(1, MOST_SIDE, width=params.width, height=params.height)
    check_integer("batch_count", params.batch_count, 1, _MOST_BATCH)
    check_integer("clip_skip", params.clip_skip, -1, 100)
    check_number("strength", params.strength, 0, 1)
    check_number("control_strength", params.control_strength, 0, MOST_SCALE)
    check_sampling(params.sample_params or SampleParams(), model)
    _check_pictures(params, model)
    _check_photo_maker(params.pm_params, params.prompt or "", model)
    check_tiling(params.vae_tiling_params)
    check_cache(params.cache, model)
    _check_hires(params, model)
    _warn_of_size(params, model)
    return params


def _check_pictures(params: ImageParams, model: Model) -> None:
    for name, channels in {"init_image": 3, "mask_image": 1, "control_image": 3}.items():
        check_picture(name, getattr(params, name), channels)
    references = sequence("ref_images", params.ref_images) if params.ref_images is not None else ()
    for index, reference in enumerate(references):
        check_picture(f"ref_images[{index}]", reference, 3, LEAST_REFERENCE)
    if params.mask_image is not None and params.init_image is None:
        raise ValueError("mask_image needs init_image")
    _check_mask(params.mask_image, params.init_image)
    if params.control_image is not None and model.takes_hint is False:
        raise ValueError("control_image needs a ControlNet: give Engine control_net=")
    if references:
        _check_references(params, references)
    _check_fit(params, model)
    if (params.init_image is not None or references) and model.encodes is False:
        name = "init_image" if params.init_image is not None else "ref_images"
        raise ValueError(f"{name} needs an autoencoder with an encoder, and vae_decode_only=False in the context")
    if references and model.architecture and not model.architecture.takes_references:
        raise ValueError(f"ref_images: {model.architecture.title} takes none; use init_image")


def _check_mask(mask: Any, init: Any) -> None:
    if mask is not None and mask.shape[:2] != init.shape[:2]:
        raise ValueError(
            f"mask_image is {mask.shape[1]}x{mask.shape[0]} pixels, init_image {init.shape[1]}x{init.shape[0]}; make"
            " them one, or give resize= 'fit', 'crop', 'pad' or 'stretch'"
        )


def _check_references(params: ImageParams, references: Sequence[Any]) -> None:
    """Their latents are read in patches; scaled to the picture's area, a side must not round to no pixel."""
    area = min(1024**2, (params.width or _DEFAULT_SIZE) * (params.height or _DEFAULT_SIZE))
    for index, reference in enumerate(references):
        height, width = reference.shape[:2]
        if not params.auto_resize_ref_image and (height % REFERENCE_MULTIPLE or width % REFERENCE_MULTIPLE):
            raise ValueError(
                f"ref_images[{index}] must have a multiple of 16 pixels a side, not {width}x{height}; give resize="
                " 'fit', 'crop', 'pad' or 'stretch'"
            )
        if params.auto_resize_ref_image and math.sqrt(area * min(height, width) / max(height, width)) < 16:
            raise ValueError(f"ref_images[{index}] is {width}x{height}: too narrow to be scaled to {area} pixels")


def _check_fit(params: ImageParams, model: Model) -> None:
    size = drawn_size(params, model)
    asked = params.width or size[0], params.height or size[1]
    for name in ("init_image", "control_image"):
        check_fit(name, getattr(params, name), size, model)
        if getattr(params, name) is not None and model.pixel_multiple is None and asked != size:
            raise ValueError(
                f"width and height must be multiples of 64 with {name}, not {asked[0]} and {asked[1]}: what this model"
                " rounds them up to is not known"
            )


def _check_photo_maker(params: PhotoMaker | None, prompt: str, model: Model) -> None:
    if params is None:
        return
    check_number("pm_params.style_strength", params.style_strength, 0, 100)
    pictures = sequence("pm_params.id_images", params.id_images) if params.id_images is not None else ()
    for index, picture in enumerate(pictures):
        check_picture(f"pm_params.id_images[{index}]", picture, 3)
    if pictures and model.files and not any(file.slot == "photo_maker_path" for file in model.files):
        raise ValueError("pm_params.id_images needs PhotoMaker: give Engine photo_maker=")
    if pictures and (len(re.findall(r"\bimg\b", prompt)) != 1 or not re.search(r"\w\s+img\b", prompt)):
        raise ValueError(
            "pm_params.id_images needs the word 'img' once in the prompt, after that for the person, as in 'a man img';"
            f" not {prompt!r}"
        )
    if params.id_embed_path is not None:
        read_file("pm_params.id_embed", Path(params.id_embed_path))


def _check_hires(params: ImageParams, model: Model) -> None:
    hires = params.hires
    if hires is None or not hires.enabled:
        return
    check_number("hires.denoising_strength", hires.denoising_strength, 0, 1)
    if hires.denoising_strength == 0:
        raise ValueError("hires.denoising_strength must be above 0, not 0: the second pass would change nothing")
    check_number("hires.scale", hires.scale, 0, 16)
    for name in ("target_width", "target_height"):
        check_integer(f"hires.{name}", getattr(hires, name), 0, MOST_SIDE)
    check_integer("hires.steps", hires.steps, 0, MOST_STEPS)
    check_integer("hires.upscale_tile_size", hires.upscale_tile_size, 1, MOST_SIDE)
    if not hires.target_width and not hires.target_height:
        _check_scale(params, hires)
    if hires.upscaler == "Model" and hires.model_path is None:
        raise ValueError("hires.upscaler 'Model' needs hires.model_path")
    if hires.model_path is not None:
        read_network("hires.model", Path(hires.model_path))
    if hires.upscaler in _UPSCALERS_OF_PIXELS and model.encodes is False:
        raise ValueError(
            f"hires.upscaler {hires.upscaler!r} needs an autoencoder with an encoder, and vae_decode_only=False in the"
            " context; those that begin with 'Latent' do not"
        )


def _check_scale(params: ImageParams, hires: Hires) -> None:
    scale = _DEFAULT_HIRES_SCALE if hires.scale is None else hires.scale
    if scale == 0:
        raise ValueError("hires.scale must be above 0 where no target size is given, not 0")
    width, height = (round((side or _DEFAULT_SIZE) * scale) for side in (params.width, params.height))
    if not min(width, height) >= 1 or max(width, height) > MOST_SIDE:
        raise ValueError(f"hires.scale {scale!r} makes {width}x{height} pixels; a side has from 1 to {MOST_SIDE}")


def _warn_of_size(params: ImageParams, model: Model) -> None:
    if not (params.hires and params.hires.enabled):
        warn_of_size((params.width or _DEFAULT_SIZE, params.height or _DEFAULT_SIZE), model)
