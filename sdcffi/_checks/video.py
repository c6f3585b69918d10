"""Check a call that generates a video; the checks that it shares with images are in `_checks.sampling`."""

from __future__ import annotations

from typing import Any

from .._models.architectures import Architecture
from .._models.files import Model
from .._numbers import check_integer, check_number
from .._warnings import warn
from ..images.convert import Alpha
from ..images.resize import Resize
from ..params.video import VideoParams
from .inputs import generated_size, requested_size, take_video_images
from .samplers import check_samplers
from .sampling import (
    MOST_SCALE,
    MOST_STEPS,
    check_call,
    check_fit,
    check_guidance,
    warn_of_size,
)

__all__ = ["check_video"]

_MOST_FRAMES = 10_000
_FRAMES_STEP = 4  # frames per latent frame, after the first one
_HIGH_NOISE_READ = {"guidance", "sample_method", "sample_steps", "eta"}


def check_video(
    params: VideoParams, model: Model, defaults: VideoParams, resize: Resize = "error", alpha: Alpha = "refuse"
) -> VideoParams:
    """Check one call against its model, and convert its input images.

    Parameters
    ----------
    params : VideoParams
    model : Model
        The result of `check_context`. Properties that it does not know are not checked.
    defaults : VideoParams
        The engine's own.
    resize : str
    alpha : str or tuple
        See `take_video_images`.

    Returns
    -------
    VideoParams
        The call, its images as `take_video_images` returns them.

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
    check_call(params, model, defaults)
    check_integer("video_frames", params.video_frames, 1, _MOST_FRAMES)
    check_number("vace_strength", params.vace_strength, 0, MOST_SCALE)
    check_number("moe_boundary", params.moe_boundary, 0, 1)
    params = take_video_images(params, model, resize, alpha)
    whole = defaults.updated(params)
    size = requested_size(whole)
    _check_high_noise(params, model)
    _check_images(params, generated_size(*size, model), model)
    _warn_of_frames(params.video_frames, model)
    warn_of_size(size, model)
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
        check_samplers(sample, model, "high_noise_")


def _check_images(params: VideoParams, size: tuple[int, int], model: Model) -> None:
    images = {"init_image": params.init_image, "end_image": params.end_image}
    images |= {f"control_frames[{index}]": frame for index, frame in enumerate(params.control_frames or ())}
    for name, image in images.items():
        if image is not None:
            _check_given(name, image, size, model)


def _check_given(name: str, image: Any, size: tuple[int, int], model: Model) -> None:
    kind, architecture = name.partition("[")[0], model.architecture
    if architecture and kind not in architecture.video_inputs:
        legal = ", ".join(architecture.video_inputs) or "none"
        raise ValueError(f"{architecture.title} does not read {kind}; its input images are: {legal}")
    if model.encodes is False:
        raise ValueError(f"{kind} needs an autoencoder with an encoder, and vae_decode_only=False in the context")
    check_fit(name, image, size, model)


def _warn_of_frames(frames: int | None, model: Model) -> None:
    if frames is None:  # what the engine makes of its own default is its own affair
        return
    made = (frames - 1) // _FRAMES_STEP * _FRAMES_STEP + 1
    title = model.architecture.title if model.architecture else "the model"
    if made != frames:
        warn(
            f"{title} generates a multiple of {_FRAMES_STEP} frames plus one, so the result will have {made} frames,"
            f" not {frames}; pass video_frames={made} to avoid this warning"
        )
