"""Refuse a bad call before native code sees it: numbers, prompts, pictures, and what does not go together."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._model_file import Model, read_file
from ._prompt import check_prompt
from ._ranges import check_integer, check_integers, check_number
from .images import check_pixels
from .params import Cache, Hires, ImageParams, PhotoMaker, SampleParams, SkipLayerGuidance, Tiling

__all__ = ["check_image"]

_MOST_PIXELS = 16384  # a side; what stands beyond it overflows counts of the engine, or ends in minutes of allocation
_MOST_STEPS = 10_000
_MOST_BATCH = 10_000
_MOST_SCALE = 1000  # of guidance and the like: real ones are below 50, and single precision overflows later
_LEAST_REFERENCE = 64  # pixels a side; smaller ones divide by zero in tiled encoding
_DEFAULT_SIZE = 512  # sd_img_gen_params_init
_CACHES_OF_DIT = ("easycache", "dbcache", "taylorseer", "cache_dit")
_IDLE_FOR_DIT = ("ucache",), f"spectrum, {', '.join(_CACHES_OF_DIT)}"
_CACHED = 0.15, 0.95  # parts of the steps; sd_cache_params_init


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
    check_integers(1, _MOST_PIXELS, width=params.width, height=params.height)
    check_integer("batch_count", params.batch_count, 1, _MOST_BATCH)
    check_integer("clip_skip", params.clip_skip, -1, 100)
    check_number("strength", params.strength, 0, 1)
    check_number("control_strength", params.control_strength, 0, _MOST_SCALE)
    _check_sampling(params.sample_params or SampleParams(), model)
    _check_pictures(params, model)
    _check_photo_maker(params.pm_params, model)
    _check_tiling(params.vae_tiling_params)
    _check_cache(params.cache, model)
    _check_hires(params.hires)
    _warn_of_size(params, model)
    return params


def _check_sampling(sample: SampleParams, model: Model) -> None:
    guidance = sample.guidance
    check_integer("steps", sample.sample_steps, 1, _MOST_STEPS)
    check_number("eta", sample.eta, 0, _MOST_SCALE)
    check_integer("shifted_timestep", sample.shifted_timestep, 0, 1000)
    check_number("flow_shift", sample.flow_shift, 0, _MOST_SCALE)
    if sample.sample_method == "tcd":
        check_number("eta", sample.eta, 0, 1, "of the sampler tcd")
    if guidance:
        check_number("cfg_scale", guidance.txt_cfg, -_MOST_SCALE, _MOST_SCALE)
        check_number("guidance.img_cfg", guidance.img_cfg, -_MOST_SCALE, _MOST_SCALE)
        check_number("guidance", guidance.distilled_guidance, 0, _MOST_SCALE)
        _check_slg(guidance.slg)
    if sample.custom_sigmas is not None:
        _check_sigmas(sample.custom_sigmas)
    else:
        _check_scheduler(sample, model)


def _check_scheduler(sample: SampleParams, model: Model) -> None:
    reasons = {
        "karras": "it divides by steps - 1",
        "exponential": "it divides by steps - 1",
        "gits": "its table begins with 2",
    }
    reason = reasons.get(str(sample.scheduler))
    if sample.sample_steps == 1 and reason:
        raise ValueError(f"steps must be at least 2 with the scheduler {sample.scheduler!r} ({reason}), not 1")
    if sample.scheduler == "ays" and model.architecture and not model.architecture.has_ays:
        raise ValueError(
            "scheduler 'ays' has tables for Stable Diffusion 1 and XL and Stable Video Diffusion, none for"
            f" {model.architecture.title}"
        )


def _check_sigmas(sigmas: Any) -> None:
    values = _sequence("custom_sigmas", sigmas)
    for index, sigma in enumerate(values):
        check_number(f"custom_sigmas[{index}]", sigma, 0, 1e6)
    if not 2 <= len(values) <= _MOST_STEPS + 1:
        raise ValueError(f"custom_sigmas must have from 2 to {_MOST_STEPS + 1} values, not {len(values)}")
    for index in range(len(values) - 1):
        if values[index] <= 0:
            raise ValueError(f"custom_sigmas[{index}] must be above 0 (only the last may be 0), not {values[index]!r}")
        if values[index + 1] >= values[index]:
            raise ValueError(
                f"custom_sigmas must fall, but [{index + 1}] is {values[index + 1]!r} after {values[index]!r}"
            )


def _check_slg(slg: SkipLayerGuidance | None) -> None:
    if slg is None:
        return
    check_number("slg.scale", slg.scale, -_MOST_SCALE, _MOST_SCALE)
    check_number("slg.layer_start", slg.layer_start, 0, 1)
    check_number("slg.layer_end", slg.layer_end, 0, 1)
    if slg.layers is not None:
        for index, layer in enumerate(_sequence("slg.layers", slg.layers)):
            check_integer(f"slg.layers[{index}]", layer, 0, 999)


def _check_pictures(params: ImageParams, model: Model) -> None:
    for name, channels in {"init_image": 3, "mask_image": 1, "control_image": 3}.items():
        _check_picture(name, getattr(params, name), channels)
    references = _sequence("ref_images", params.ref_images) if params.ref_images is not None else ()
    for index, reference in enumerate(references):
        _check_picture(f"ref_images[{index}]", reference, 3, _LEAST_REFERENCE)
    if params.mask_image is not None and params.init_image is None:
        raise ValueError("mask_image needs init_image")
    if params.mask_image is not None and params.init_image is not None:
        mask, init = params.mask_image.shape[:2], params.init_image.shape[:2]
        if mask != init:
            raise ValueError(f"mask_image is {mask[1]}x{mask[0]} pixels, init_image {init[1]}x{init[0]}; make them one")
    if params.control_image is not None and model.takes_hint is False:
        raise ValueError("control_image needs a ControlNet: give Engine control_net=")
    if references:
        _check_references(params, references)
    _check_fit(params)
    if (params.init_image is not None or references) and model.encodes is False:
        name = "init_image" if params.init_image is not None else "ref_images"
        raise ValueError(f"{name} needs an autoencoder with an encoder, and vae_decode_only=False in the context")
    if references and model.architecture and not model.architecture.takes_references:
        raise ValueError(f"ref_images: {model.architecture.title} takes none; use init_image")


def _check_references(params: ImageParams, references: Sequence[Any]) -> None:
    """Their latents are read in patches; scaled to the picture's area, a side must not round to no pixel."""
    area = min(1024**2, (params.width or _DEFAULT_SIZE) * (params.height or _DEFAULT_SIZE))
    for index, reference in enumerate(references):
        height, width = reference.shape[:2]
        if not params.auto_resize_ref_image and (height % 16 or width % 16):
            raise ValueError(
                f"ref_images[{index}] must have a multiple of 16 pixels a side, not {width}x{height}; scale it, or give"
                " params=ImageParams(auto_resize_ref_image=True)"
            )
        if params.auto_resize_ref_image and math.sqrt(area * min(height, width) / max(height, width)) < 16:
            raise ValueError(f"ref_images[{index}] is {width}x{height}: too narrow to be scaled to {area} pixels")


def _check_fit(params: ImageParams) -> None:
    """The engine scales a picture of another size by repeating pixels, and does not keep its aspect."""
    width, height = params.width or _DEFAULT_SIZE, params.height or _DEFAULT_SIZE
    for name in ("init_image", "control_image"):
        picture = getattr(params, name)
        if picture is None or picture.shape[:2] == (height, width):
            continue
        asked = f"{name} is {picture.shape[1]}x{picture.shape[0]} pixels, the result {width}x{height}"
        if not 0.98 < picture.shape[1] * height / (picture.shape[0] * width) < 1.02:
            raise ValueError(f"{asked}: another aspect; crop or scale it first, or set width and height")
        warnings.warn(f"{asked}: the engine scales it by repeating pixels; scale it first", stacklevel=5)


def _check_picture(name: str, picture: Any, channels: int, least: int = 1) -> None:
    if picture is None:
        return
    check_pixels(picture, name, channels)
    if not picture.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: use numpy.ascontiguousarray")
    height, width = picture.shape[:2]
    if not least <= min(height, width) or max(height, width) > _MOST_PIXELS:
        raise ValueError(f"{name} must have from {least} to {_MOST_PIXELS} pixels a side, not {width}x{height}")


def _check_photo_maker(params: PhotoMaker | None, model: Model) -> None:
    if params is None:
        return
    check_number("pm_params.style_strength", params.style_strength, 0, 100)
    pictures = _sequence("pm_params.id_images", params.id_images) if params.id_images is not None else ()
    for index, picture in enumerate(pictures):
        _check_picture(f"pm_params.id_images[{index}]", picture, 3)
    if pictures and model.files and not any(file.slot == "photo_maker_path" for file in model.files):
        raise ValueError("pm_params.id_images needs PhotoMaker: give Engine photo_maker=")
    if params.id_embed_path is not None:
        read_file("pm_params.id_embed", Path(params.id_embed_path))


def _check_tiling(tiling: Tiling | None) -> None:
    if tiling is None:
        return
    check_number("tiling.target_overlap", tiling.target_overlap, 0, 0.5)
    for name in ("tile_size_x", "tile_size_y"):
        check_integer(f"tiling.{name}", getattr(tiling, name), 0, _MOST_PIXELS)
        if 0 < (getattr(tiling, name) or 0) < 4:
            raise ValueError(f"tiling.{name} must be 0 (the engine's 32) or at least 4, not {getattr(tiling, name)!r}")
    for name in ("rel_size_x", "rel_size_y"):
        check_number(f"tiling.{name}", getattr(tiling, name), 0, _MOST_SCALE)


def _check_cache(cache: Cache | None, model: Model) -> None:
    if cache is None:
        return
    if not isinstance(cache.mode, str):
        raise TypeError(f"cache.mode must be a name such as 'easycache', not {cache.mode!r}")
    if model.architecture:
        idle, others = (_CACHES_OF_DIT, "ucache, spectrum") if model.architecture.is_unet else _IDLE_FOR_DIT
        if cache.mode in idle:
            raise ValueError(f"cache.mode {cache.mode!r} does nothing for {model.architecture.title}; {others} do")
    for name in ("start_percent", "end_percent", "spectrum_stop_percent", "spectrum_w"):
        check_number(f"cache.{name}", getattr(cache, name), 0, 1)
    start = _CACHED[0] if cache.start_percent is None else cache.start_percent
    end = _CACHED[1] if cache.end_percent is None else cache.end_percent
    if cache.mode in ("easycache", "ucache") and not start < end:
        raise ValueError(f"cache.end_percent must be above start_percent {start!r}, not {end!r}")
    for name in ("reuse_threshold", "error_decay_rate", "residual_diff_threshold", "spectrum_flex_window"):
        check_number(f"cache.{name}", getattr(cache, name), 0)
    check_number("cache.spectrum_lam", cache.spectrum_lam, 0)
    for name in ("Fn_compute_blocks", "Bn_compute_blocks", "max_warmup_steps", "spectrum_warmup_steps"):
        check_integer(f"cache.{name}", getattr(cache, name), 0, _MOST_STEPS)
    for name in ("max_cached_steps", "max_continuous_cached_steps"):
        check_integer(f"cache.{name}", getattr(cache, name), -1, _MOST_STEPS, "-1 is no limit")
    for name in ("taylorseer_n_derivatives", "taylorseer_skip_interval", "spectrum_m", "spectrum_window_size"):
        check_integer(f"cache.{name}", getattr(cache, name), 1, 100)
    if cache.scm_mask and not re.fullmatch(r"[01](,[01])*", cache.scm_mask):
        raise ValueError(f"cache.scm_mask must be like '1,1,0,1', not {cache.scm_mask!r}")


def _check_hires(hires: Hires | None) -> None:
    if hires is None or not hires.enabled:
        return
    check_number("hires.denoising_strength", hires.denoising_strength, 0, 1)
    check_number("hires.scale", hires.scale, 0, 16)
    for name in ("target_width", "target_height"):
        check_integer(f"hires.{name}", getattr(hires, name), 0, _MOST_PIXELS)
    check_integer("hires.steps", hires.steps, 0, _MOST_STEPS)
    check_integer("hires.upscale_tile_size", hires.upscale_tile_size, 1, _MOST_PIXELS)
    if hires.scale == 0 and not hires.target_width and not hires.target_height:
        raise ValueError("hires.scale must be above 0 where no target size is given, not 0")
    if hires.upscaler == "Model" and hires.model_path is None:
        raise ValueError("hires.upscaler 'Model' needs hires.model_path")
    if hires.model_path is not None:
        read_file("hires.model", Path(hires.model_path))


def _sequence(name: str, values: Any) -> Sequence[Any]:
    is_sequence = isinstance(values, Sequence) or getattr(values, "ndim", 0) >= 1
    if isinstance(values, (str, bytes)) or not is_sequence:
        raise TypeError(f"{name} must be a sequence, not {values!r}")
    return values  # type: ignore[no-any-return]


def _warn_of_size(params: ImageParams, model: Model) -> None:
    multiple = model.pixel_multiple
    if multiple is None or (params.hires and params.hires.enabled):
        return
    asked = params.width or _DEFAULT_SIZE, params.height or _DEFAULT_SIZE
    width, height = (math.ceil(side / multiple) * multiple for side in asked)
    if (width, height) != asked and model.architecture:
        warnings.warn(
            f"asked for {asked[0]}x{asked[1]} pixels; {model.architecture.title} draws in multiples of {multiple}:"
            f" {width}x{height} will come out",
            stacklevel=4,
        )
