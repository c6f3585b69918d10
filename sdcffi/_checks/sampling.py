"""Checks that image and video calls share: sampling, guidance, input images, tiling and step caches."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from .._models.files import Model
from .._numbers import check_integer, check_integers, check_number, items_of
from .._quoting import shown
from .._warnings import warn
from ..images.pixels import MOST_SIDE
from ..params.image import ImageParams
from ..params.sampling import SampleParams, SkipLayerGuidance, Tiling
from ..params.video import VideoParams
from .prompt import check_prompt
from .prompt_syntax import warn_of_syntax
from .samplers import check_samplers
from .step_cache import check_cache

__all__ = [
    "MOST_SCALE",
    "MOST_STEPS",
    "check_call",
    "check_fit",
    "check_guidance",
    "check_preview",
    "warn_of_size",
]

MOST_STEPS = 10_000
_LEAST_SIGMA = 1e-6  # noise levels below this change no pixel, and a step between them is a division by nearly 0
_MOST_SIGMA = 1e6
MOST_SCALE = 1000  # of guidance and similar; real values are below 50, far larger ones overflow single precision


def _check_sampling(sample: SampleParams, model: Model) -> None:
    """Check the sampling parameters of a call.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set.
    """
    check_integer("steps", sample.sample_steps, 1, MOST_STEPS)
    check_integer("shifted_timestep", sample.shifted_timestep, 0, 1000)
    check_number("flow_shift", sample.flow_shift, 0, MOST_SCALE)
    check_number("guidance_rescale", sample.guidance_rescale, 0, 1)
    check_guidance(sample)
    if sample.custom_sigmas is not None:
        _check_sigmas(sample.custom_sigmas)
    else:
        _check_scheduler(sample)
    check_samplers(sample, model)


def check_guidance(sample: SampleParams, prefix: str = "") -> None:
    """Check eta and guidance.

    Parameters
    ----------
    sample : SampleParams
    prefix : str, optional
        Beginning of their names in messages.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set.
    """
    guidance = sample.guidance
    check_number(f"{prefix}eta", sample.eta, 0, MOST_SCALE)
    if sample.sample_method in ("tcd", "ddim_trailing"):
        check_number(f"{prefix}eta", sample.eta, 0, 1, f"with the sampler {sample.sample_method}")
    if guidance:
        check_number(f"{prefix}cfg_scale", guidance.txt_cfg, -MOST_SCALE, MOST_SCALE)
        check_number(f"{prefix}guidance.img_cfg", guidance.img_cfg, -MOST_SCALE, MOST_SCALE)
        check_number(f"{prefix}guidance", guidance.distilled_guidance, 0, MOST_SCALE)
        _check_slg(guidance.slg, prefix)


def _check_scheduler(sample: SampleParams) -> None:
    if sample.sample_steps == 1 and sample.scheduler == "gits":
        raise ValueError("steps must be at least 2 with the scheduler 'gits' (its table begins at 2 steps), not 1")


def _check_sigmas(sigmas: Any) -> None:
    values = items_of("custom_sigmas", _sequence("custom_sigmas", sigmas))
    if not 2 <= len(values) <= MOST_STEPS + 1:
        raise ValueError(f"custom_sigmas must have from 2 to {MOST_STEPS + 1} values, not {len(values)}")
    for index, sigma in enumerate(values):
        if sigma is None:
            raise TypeError(f"custom_sigmas[{index}] must be a number, not None")
        check_number(f"custom_sigmas[{index}]", sigma, 0, _MOST_SIGMA)
    for index in range(len(values) - 1):
        first, second = _in_single_precision(values[index]), _in_single_precision(values[index + 1])
        if first < _LEAST_SIGMA:
            raise ValueError(
                f"custom_sigmas[{index}] must be above 0, and at least {_LEAST_SIGMA}, not {shown(values[index])}; only"
                " the last may be 0"
            )
        if second >= first:
            also = " in the engine's single precision" if values[index + 1] < values[index] else ""
            raise ValueError(
                f"custom_sigmas must decrease{also}, but [{index + 1}] is {shown(values[index + 1])} after"
                f" {shown(values[index])}"
            )


def _in_single_precision(value: Any) -> float:
    number: float = struct.unpack("f", struct.pack("f", float(value)))[0]
    return number


def _check_slg(slg: SkipLayerGuidance | None, prefix: str) -> None:
    if slg is None:
        return
    check_number(f"{prefix}slg.scale", slg.scale, -MOST_SCALE, MOST_SCALE)
    check_number(f"{prefix}slg.layer_start", slg.layer_start, 0, 1)
    check_number(f"{prefix}slg.layer_end", slg.layer_end, 0, 1)
    if slg.layers is not None:
        for index, layer in enumerate(_sequence(f"{prefix}slg.layers", slg.layers)):
            check_integer(f"{prefix}slg.layers[{index}]", layer, 0, 999)


def check_fit(name: str, image: Any, size: tuple[int, int], model: Model) -> None:
    """Refuse an input image of another size than the result; the engine would stretch it by repeating pixels.

    Parameters
    ----------
    name : str
        Name of the parameter, for messages.
    image : uint8 array (H, W, C) or None
        The image. None is accepted.
    size : tuple of int
        Width and height of the result, in pixels.
    model : Model

    Raises
    ------
    ValueError
        If the sizes differ.
    """
    if image is None or image.shape[1::-1] == size:
        return
    multiples = f" (in multiples of {model.pixel_multiple})" if model.pixel_multiple else ""
    raise ValueError(
        f"{name} is {image.shape[1]}x{image.shape[0]} pixels, the result is {size[0]}x{size[1]}{multiples}; pass"
        " resize='fit', 'crop', 'pad' or 'stretch' to resize the image, or another width and height"
    )


def warn_of_size(asked: tuple[int, int], model: Model) -> None:
    """Warn if the engine will round the requested width and height up, with the size of the result.

    Parameters
    ----------
    asked : tuple of int
        Requested width and height, in pixels.
    model : Model
        If its architecture is unknown, nothing is checked.
    """
    if model.architecture is None:
        return
    multiple = model.architecture.pixel_multiple
    width, height = (math.ceil(side / multiple) * multiple for side in asked)
    if (width, height) != asked:
        warn(
            f"{model.architecture.title} generates sizes in multiples of {multiple} pixels, so the result will be"
            f" {width}x{height}, not {asked[0]}x{asked[1]}; pass that width and height to avoid this warning"
        )


def _check_tiling(tiling: Tiling | None) -> None:
    """Check the tiling of the autoencoder.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set.
    """
    if tiling is None:
        return
    check_number("tiling.target_overlap", tiling.target_overlap, 0, 0.5)
    for name in ("tile_size_x", "tile_size_y"):
        check_integer(f"tiling.{name}", getattr(tiling, name), 0, MOST_SIDE)
        if 0 < (getattr(tiling, name) or 0) < 4:
            raise ValueError(
                f"tiling.{name} must be 0 (the engine's 32) or at least 4, not {shown(getattr(tiling, name))}"
            )
    for name in ("rel_size_x", "rel_size_y"):
        check_number(f"tiling.{name}", getattr(tiling, name), 0, MOST_SCALE)


def check_call(params: ImageParams | VideoParams, model: Model, defaults: ImageParams | VideoParams) -> None:
    """Check what a call for images and one for a video have in common, but for their input images.

    Parameters
    ----------
    params : ImageParams or VideoParams
        The call.
    model : Model
        The result of `check_context`.
    defaults : ImageParams or VideoParams
        The engine's own.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set.
    """
    kind = model.architecture
    check_prompt("prompt", params.prompt, kind is None or kind.is_unet)
    check_prompt("negative_prompt", params.negative_prompt, kind is None or kind.is_unet)
    warn_of_syntax("prompt", params.prompt)
    warn_of_syntax("negative_prompt", params.negative_prompt)
    check_integers(1, MOST_SIDE, width=params.width, height=params.height)
    if kind and kind.clip_layers:
        most = kind.clip_layers + 1
        check_integer("clip_skip", params.clip_skip, -1, most, f"{kind.title}'s CLIP has {most - 1} layers")
    check_integer("clip_skip", params.clip_skip, -1, 100)
    check_number("strength", params.strength, 0, 1)
    _check_sampling(params.sample_params or SampleParams(), model)
    _check_tiling(params.vae_tiling_params)
    check_cache(params.cache, model, defaults.cache)


def _sequence(name: str, values: Any) -> Sequence[Any]:
    """Return `values`, or refuse anything but a sequence or an array; a text is refused too.

    Raises
    ------
    TypeError
        With the name and the value.
    """
    is_sequence = isinstance(values, Sequence) or getattr(values, "ndim", 0) >= 1
    if isinstance(values, (str, bytes)) or not is_sequence:
        raise TypeError(f"{name} must be a sequence, not {shown(values)}")
    return values  # type: ignore[no-any-return]


def check_preview(mode: str | None, model: Model) -> None:
    """Refuse previews that the model cannot make. The engine checks the names of modes.

    Parameters
    ----------
    mode : str or None
        ``"proj"``, ``"tae"`` or ``"vae"``. None: no previews.
    model : Model

    Raises
    ------
    ValueError
        If the mode is ``"tae"`` and the model has no tiny autoencoder; the engine would use the large one.
    """
    if mode == "tae" and model.files and "taesd" not in model.parts:
        raise ValueError("preview='tae' needs a tiny autoencoder: pass taesd= to Engine, or use 'proj' or 'vae'")
