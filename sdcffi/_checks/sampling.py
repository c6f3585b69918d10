"""Refuse what neither a picture nor a video can be made with: the denoising loop, pictures given, tiles, reuse."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from .._models.files import Model
from .._numbers import check_integer, check_number
from .._warnings import warn
from ..images.convert import check_pixels
from ..images.pixels import MOST_SIDE
from ..params.sampling import Cache, SampleParams, SkipLayerGuidance, Tiling

__all__ = [
    "MOST_SCALE",
    "MOST_STEPS",
    "check_cache",
    "check_fit",
    "check_guidance",
    "check_picture",
    "check_preview",
    "check_sampling",
    "check_tiling",
    "sequence",
    "warn_of_size",
]

MOST_STEPS = 10_000
MOST_SCALE = 1000  # of guidance and the like: real ones are below 50, and single precision overflows later
_CACHED = 0.15, 0.95  # parts of the steps; sd_cache_params_init


def check_sampling(sample: SampleParams, model: Model) -> None:
    """Check the denoising loop."""
    check_integer("steps", sample.sample_steps, 1, MOST_STEPS)
    check_integer("shifted_timestep", sample.shifted_timestep, 0, 1000)
    check_number("flow_shift", sample.flow_shift, 0, MOST_SCALE)
    check_guidance(sample)
    if sample.custom_sigmas is not None:
        _check_sigmas(sample.custom_sigmas)
    else:
        _check_scheduler(sample, model)


def check_guidance(sample: SampleParams, prefix: str = "") -> None:
    """Check eta and guidance; `prefix` stands before their names."""
    guidance = sample.guidance
    check_number(f"{prefix}eta", sample.eta, 0, MOST_SCALE)
    if sample.sample_method == "tcd":
        check_number(f"{prefix}eta", sample.eta, 0, 1, "of the sampler tcd")
    if guidance:
        check_number(f"{prefix}cfg_scale", guidance.txt_cfg, -MOST_SCALE, MOST_SCALE)
        check_number(f"{prefix}guidance.img_cfg", guidance.img_cfg, -MOST_SCALE, MOST_SCALE)
        check_number(f"{prefix}guidance", guidance.distilled_guidance, 0, MOST_SCALE)
        _check_slg(guidance.slg, prefix)


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
    values = sequence("custom_sigmas", sigmas)
    for index, sigma in enumerate(values):
        check_number(f"custom_sigmas[{index}]", sigma, 0, 1e6)
    if not 2 <= len(values) <= MOST_STEPS + 1:
        raise ValueError(f"custom_sigmas must have from 2 to {MOST_STEPS + 1} values, not {len(values)}")
    for index in range(len(values) - 1):
        if values[index] <= 0:
            raise ValueError(f"custom_sigmas[{index}] must be above 0 (only the last may be 0), not {values[index]!r}")
        if values[index + 1] >= values[index]:
            raise ValueError(
                f"custom_sigmas must fall, but [{index + 1}] is {values[index + 1]!r} after {values[index]!r}"
            )


def _check_slg(slg: SkipLayerGuidance | None, prefix: str) -> None:
    if slg is None:
        return
    check_number(f"{prefix}slg.scale", slg.scale, -MOST_SCALE, MOST_SCALE)
    check_number(f"{prefix}slg.layer_start", slg.layer_start, 0, 1)
    check_number(f"{prefix}slg.layer_end", slg.layer_end, 0, 1)
    if slg.layers is not None:
        for index, layer in enumerate(sequence(f"{prefix}slg.layers", slg.layers)):
            check_integer(f"{prefix}slg.layers[{index}]", layer, 0, 999)


def check_picture(name: str, picture: Any, channels: int, least: int = 1) -> None:
    """Check a picture that is given, for how it lies in memory and its size."""
    if picture is None:
        return
    check_pixels(picture, name, channels)
    if not picture.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: use numpy.ascontiguousarray")
    height, width = picture.shape[:2]
    if not least <= min(height, width) or max(height, width) > MOST_SIDE:
        raise ValueError(f"{name} must have from {least} to {MOST_SIDE} pixels a side, not {width}x{height}")


def check_fit(name: str, picture: Any, size: tuple[int, int], model: Model) -> None:
    """Check a picture that is to fill the result: the engine scales by repeating pixels, and not by the aspect."""
    if picture is None or picture.shape[1::-1] == size:
        return
    multiples = f", in multiples of {model.pixel_multiple}" if model.pixel_multiple else ""
    raise ValueError(
        f"{name} is {picture.shape[1]}x{picture.shape[0]} pixels, the result {size[0]}x{size[1]}{multiples}; give"
        " resize= 'fit', 'crop', 'pad' or 'stretch' to bring it to size, or another width and height"
    )


def warn_of_size(asked: tuple[int, int], model: Model) -> None:
    """Warn where the engine rounds width and height up, with what will come out."""
    if model.architecture is None:
        return
    multiple = model.architecture.pixel_multiple
    width, height = (math.ceil(side / multiple) * multiple for side in asked)
    if (width, height) != asked:
        warn(
            f"asked for {asked[0]}x{asked[1]} pixels; {model.architecture.title} draws in multiples of {multiple}:"
            f" {width}x{height} will come out"
        )


def check_tiling(tiling: Tiling | None) -> None:
    """Check decoding in tiles."""
    if tiling is None:
        return
    check_number("tiling.target_overlap", tiling.target_overlap, 0, 0.5)
    for name in ("tile_size_x", "tile_size_y"):
        check_integer(f"tiling.{name}", getattr(tiling, name), 0, MOST_SIDE)
        if 0 < (getattr(tiling, name) or 0) < 4:
            raise ValueError(f"tiling.{name} must be 0 (the engine's 32) or at least 4, not {getattr(tiling, name)!r}")
    for name in ("rel_size_x", "rel_size_y"):
        check_number(f"tiling.{name}", getattr(tiling, name), 0, MOST_SCALE)


def check_cache(cache: Cache | None, model: Model) -> None:
    """Check reuse between steps."""
    if cache is None:
        return
    if not isinstance(cache.mode, str):
        raise TypeError(f"cache.mode must be a name such as 'easycache', not {cache.mode!r}")
    kind = model.architecture
    if kind and cache.mode in kind.idle_caches:
        raise ValueError(f"cache.mode {cache.mode!r} does nothing for {kind.title}; {', '.join(kind.acting_caches)} do")
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
        check_integer(f"cache.{name}", getattr(cache, name), 0, MOST_STEPS)
    for name in ("max_cached_steps", "max_continuous_cached_steps"):
        check_integer(f"cache.{name}", getattr(cache, name), -1, MOST_STEPS, "-1 is no limit")
    for name in ("taylorseer_n_derivatives", "taylorseer_skip_interval", "spectrum_m", "spectrum_window_size"):
        check_integer(f"cache.{name}", getattr(cache, name), 1, 100)
    if cache.scm_mask and not re.fullmatch(r"[01](,[01])*", cache.scm_mask):
        raise ValueError(f"cache.scm_mask must be like '1,1,0,1', not {cache.scm_mask!r}")


def sequence(name: str, values: Any) -> Sequence[Any]:
    """Refuse what is no sequence, or a text."""
    is_sequence = isinstance(values, Sequence) or getattr(values, "ndim", 0) >= 1
    if isinstance(values, (str, bytes)) or not is_sequence:
        raise TypeError(f"{name} must be a sequence, not {values!r}")
    return values  # type: ignore[no-any-return]


def check_preview(mode: str | None, model: Model) -> None:
    """Refuse previews that the model has no means for; names are left to the engine's own list.

    Raises
    ------
    ValueError
        If there is no tiny autoencoder, in place of which the engine would take the whole one.
    """
    if mode == "tae" and model.files and "taesd" not in model.parts:
        raise ValueError("preview='tae' needs a tiny autoencoder: give Engine taesd=. Legal without: proj, vae")
