"""The parameters of a call that makes a video; see `params`."""

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
    """One call that makes a video: `sd_vid_gen_params_t`.

    `Engine.generate_video` has a keyword for what is used most; the rest is given as ``params=VideoParams(...)``.

    Parameters
    ----------
    loras : sequence of Lora, optional
        Adapters; those with `is_high_noise` are for the high-noise model.
    prompt, negative_prompt : str, optional
        What to show and what not; at most 50,000 bytes in UTF-8 each, without NUL, weights as in ``(text:1.2)``.
    clip_skip, strength : optional
        In the struct, but not read where videos are made.
    init_image, end_image : uint8 array (H, W, 3), optional
        First and last frame; for a VACE model `init_image` is a reference picture.
    control_frames : sequence of uint8 arrays (H, W, 3), optional
        What a VACE model follows, frame by frame; missing ones are grey, those behind the last frame are not read.
    width, height : int, optional
        Pixels.
    sample_params : SampleParams, optional
        The denoising loop; of the low-noise model where there are two.
    high_noise_sample_params : SampleParams, optional
        The loop of the high-noise model of Wan 2.2: guidance, `sample_method`, `eta` and `sample_steps`, of which -1
        (the engine's own) takes those steps whose noise is above `moe_boundary`, and 0 leaves the model out. The rest
        is not read.
    moe_boundary : float, optional
        Noise level, 0 to 1, at which the low-noise model takes over.
    seed : int, optional
        0 to 2**63 - 1.
    video_frames : int, optional
        Number of frames; the engine rounds down to one more than a multiple of 4.
    vace_strength : float, optional
        Weight of a VACE model's control frames and reference.
    vae_tiling_params : Tiling, optional
        Decode in tiles.
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
