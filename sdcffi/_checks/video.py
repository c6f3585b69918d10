"""Check a call that generates a video; the checks that it shares with images are in `_checks.sampling`."""

from __future__ import annotations

from typing import Any

from .._models.architectures import Architecture
from .._models.files import Model
from .._numbers import check_integer, check_integers, check_number
from .._warnings import warn
from ..images.pixels import MOST_SIDE
from ..params.sampling import SampleParams
from ..params.video import VideoParams
from .inputs import DEFAULT_SIZE, generated_size
from .prompt import check_prompt
from .sampling import (
    MOST_SCALE,
    MOST_STEPS,
    check_cache,
    check_fit,
    check_given_image,
    check_guidance,
    check_sampling,
    check_tiling,
    sequence,
    warn_of_size,
)

__all__ = ["check_video"]

_MOST_FRAMES = 10_000
_DEFAULT_FRAMES = 6  # sd_vid_gen_params_init
_FRAMES_STEP = 4  # frames per latent frame, after the first one
_HIGH_NOISE_READ = {"guidance", "sample_method", "sample_steps", "eta"}


def check_video(params: VideoParams, model: Model) -> VideoParams:
    """Check one call against its model.

    Parameters
    ----------
    params : VideoParams
    model : Model
        The result of `check_context`. Properties that it does not know are not checked.

    Returns
    -------
    VideoParams
        The given parameters.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is not in its legal set, or does not fit the model or another value.

    Warns
    -----
    UserWarning
        If the engine will round the size or the number of frames, with those of the result.
    """
    _check_model(model.architecture)
    check_prompt("prompt", params.prompt)
    check_prompt("negative_prompt", params.negative_prompt)
    check_integers(1, MOST_SIDE, width=params.width, height=params.height)
    check_integer("video_frames", params.video_frames, 1, _MOST_FRAMES)
    check_integer("clip_skip", params.clip_skip, -1, 100)
    check_number("strength", params.strength, 0, 1)
    check_number("vace_strength", params.vace_strength, 0, MOST_SCALE)
    check_number("moe_boundary", params.moe_boundary, 0, 1)
    check_sampling(params.sample_params or SampleParams(), model)
    _check_high_noise(params, model)
    _check_images(params, model)
    check_tiling(params.vae_tiling_params)
    check_cache(params.cache, model)
    _warn_of_rounding(params, model)
    return params


def _check_model(architecture: Architecture | None) -> None:
    if architecture is None:
        return
    if not architecture.is_video:
        raise ValueError(f"{architecture.title} generates images only: use generate()")
    if not architecture.name.startswith("wan"):
        raise ValueError(f"the engine generates no videos with {architecture.title}: load a Wan model")


def _check_high_noise(params: VideoParams, model: Model) -> None:
    sample = params.high_noise_sample_params
    given = sample.given() if sample else {}
    asked = [f"high_noise.{name}" for name in given] + ["moe_boundary"] * (params.moe_boundary is not None)
    asked += [f"LoRA {lora.path} with is_high_noise" for lora in params.loras or () if lora.is_high_noise]
    if asked and model.has_high_noise is False:
        raise ValueError(f"{asked[0]} needs a high-noise model: pass high_noise_diffusion_model= to Engine")
    if unread := sorted(given.keys() - _HIGH_NOISE_READ):
        legal = ", ".join(sorted(_HIGH_NOISE_READ))
        raise ValueError(f"high_noise.{unread[0]} is ignored by the engine; legal are {legal}")
    if sample:
        check_integer("high_noise_steps", sample.sample_steps, -1, MOST_STEPS, "-1: moe_boundary decides")
        check_guidance(sample, "high_noise_")


def _check_images(params: VideoParams, model: Model) -> None:
    images = {"init_image": params.init_image, "end_image": params.end_image}
    frames = () if params.control_frames is None else sequence("control_frames", params.control_frames)
    images.update({f"control_frames[{index}]": frame for index, frame in enumerate(frames)})
    for name, image in images.items():
        if image is not None:
            _check_given(name, image, params, model)


def _check_given(name: str, image: Any, params: VideoParams, model: Model) -> None:
    check_given_image(name, image, 3)
    kind, architecture = name.partition("[")[0], model.architecture
    if architecture and kind not in architecture.video_inputs:
        legal = ", ".join(architecture.video_inputs) or "none"
        raise ValueError(f"{architecture.title} does not read {kind}; its input images are: {legal}")
    if model.encodes is False:
        raise ValueError(f"{kind} needs an autoencoder with an encoder, and vae_decode_only=False in the context")
    check_fit(name, image, generated_size(params, model), model)


def _warn_of_rounding(params: VideoParams, model: Model) -> None:
    frames = _DEFAULT_FRAMES if params.video_frames is None else params.video_frames
    made = (frames - 1) // _FRAMES_STEP * _FRAMES_STEP + 1
    title = model.architecture.title if model.architecture else "the model"
    if params.video_frames is not None and made != frames:
        warn(
            f"{title} generates a multiple of {_FRAMES_STEP} frames plus one, so the result will have {made} frames,"
            f" not {frames}; pass video_frames={made} to avoid this warning"
        )
    warn_of_size((params.width or DEFAULT_SIZE, params.height or DEFAULT_SIZE), model)
