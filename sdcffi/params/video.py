"""The parameters of a call that generates a video; see `params`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._public import public
from .lora import Lora
from .sampling import Cache, SampleParams, Tiling
from .struct import Pixels, Struct

__all__ = ["VideoParams"]


@public
@dataclass(frozen=True, kw_only=True)
class VideoParams(Struct):
    """One call that generates a video: `sd_vid_gen_params_t`.

    `Engine.generate_video` has a keyword for what is used most; the rest is given as ``params=VideoParams(...)``.

    Parameters
    ----------
    loras : sequence of Lora, optional
        LoRA adapters; those with `is_high_noise` are for the high-noise model. None: none.
    prompt : str, optional
        What to show; at most 50,000 bytes in UTF-8, without NUL. None: an empty prompt.
    negative_prompt : str, optional
        What to leave out; ignored when `txt_cfg` is 1. None: nothing.
    clip_skip, strength : optional
        Ignored for videos.
    init_image : image, optional
        First frame; for a VACE model a reference image. In a `VideoResult`'s parameters, a uint8 array (H, W, 3). None:
        start from noise.
    end_image : image, optional
        Last frame. In a `VideoResult`'s parameters, a uint8 array (H, W, 3). None: the model decides.
    control_frames : sequence of images, optional
        Frames that a VACE model follows. Missing ones are grey; those after the last frame are ignored. In a
        `VideoResult`'s parameters, uint8 arrays (H, W, 3). None: none.
    width : int, optional
        Width in pixels, at least 1. None: that of the input image, or of the model.
    height : int, optional
        Height in pixels, at least 1. None: that of the input image, or of the model.
    sample_params : SampleParams, optional
        The denoising loop; if there are two models, that of the low-noise model.
    high_noise_sample_params : SampleParams, optional
        The loop of the high-noise model of Wan 2.2. Only guidance, `sample_method`, `eta` and `sample_steps` are read.
        With -1 steps, the default, it does the steps whose noise is above `moe_boundary`; with 0, it is not used.
    moe_boundary : float, optional
        Noise level at which the low-noise model takes over, 0 to 1. None: the engine's default.
    seed : int, optional
        Random seed, 0 to 2**63 - 1. None, or a negative number: a random one.
    video_frames : int, optional
        Number of frames; the engine rounds down to one more than a multiple of 4. None: what suits the model.
    vace_strength : float, optional
        Weight of a VACE model's control frames and reference image, at least 0. None: the engine's default.
    vae_tiling_params : Tiling, optional
        Decode and encode in tiles.
    cache : Cache, optional
        Reuse results between steps.
    """

    C_STRUCT = "sd_vid_gen_params_t"
    loras: Sequence[Lora] | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    clip_skip: int | None = None
    init_image: Pixels | None = None
    end_image: Pixels | None = None
    control_frames: Sequence[Pixels] | None = None
    width: int | None = None
    height: int | None = None
    sample_params: SampleParams | None = None
    high_noise_sample_params: SampleParams | None = None
    moe_boundary: float | None = None
    strength: float | None = None
    seed: int | None = None
    video_frames: int | None = None
    vace_strength: float | None = None
    vae_tiling_params: Tiling | None = None
    cache: Cache | None = None
