"""The part of `Engine` that makes videos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .._checks.context import resolve_seed
from .._checks.inputs import take_video_images
from .._checks.video import check_video
from .._process.aio import as_coroutine, as_stream
from ..events import LogFunction, PreviewFunction, ProgressFunction
from ..images.convert import Alpha, ImageLike
from ..images.movies import check_rate
from ..images.resize import Resize
from ..params.lora import LoraLike
from ..params.sampling import Cache, Guidance, SampleParams, SkipLayerGuidance, Tiling
from ..params.video import VideoParams
from .drawing import Drawing
from .results import VideoResult

__all__ = ["VideoGeneration"]


class VideoGeneration(Drawing):
    """`Engine.generate_video` and its asynchronous forms."""

    def generate_video(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        video_frames: int | None = None,
        fps: float = 16,
        steps: int | None = None,
        cfg_scale: float | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        eta: float | None = None,
        flow_shift: float | None = None,
        seed: int | None = None,
        init_image: ImageLike | None = None,
        end_image: ImageLike | None = None,
        control_frames: Sequence[ImageLike] | None = None,
        resize: Resize = "error",
        alpha: Alpha = "refuse",
        vace_strength: float | None = None,
        high_noise: SampleParams | None = None,
        high_noise_steps: int | None = None,
        high_noise_cfg_scale: float | None = None,
        high_noise_sampler: str | None = None,
        moe_boundary: float | None = None,
        loras: Iterable[LoraLike] | None = None,
        lora_tags: bool = True,
        strict: bool = True,
        tiling: Tiling | None = None,
        cache: Cache | None = None,
        slg: SkipLayerGuidance | None = None,
        params: VideoParams | None = None,
        preview: str | None = None,
        preview_interval: int = 1,
        preview_noisy: bool = False,
        timeout: float | None = None,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        on_preview: PreviewFunction | None = None,
    ) -> VideoResult:
        """Make a video with a model of the Wan family; what is not told here is as of `generate`.

        Parameters
        ----------
        prompt : str
            What to show.
        negative_prompt : str, optional
            What to leave out; acts where `cfg_scale` is not 1.
        width, height : int, optional
            Pixels, at least 1. None: the engine's 512. Rounded up to a multiple of 16 (Wan 2.2 TI2V: 32), with a
            warning.
        video_frames : int, optional
            Number of frames, at least 1; the engine makes one more than a multiple of 4 and rounds down, with a
            warning. None: the engine's 6, of which it makes 5.
        fps : float
            Frames a second at which the result is saved, above 0; the model does not see it. Wan 2.1 was trained on
            16, Wan 2.2 TI2V on 24.
        steps, cfg_scale, guidance, sampler, scheduler, eta : optional
            The denoising loop; of the low-noise model where there are two.
        flow_shift : float, optional
            Shift of the noise levels. None: the model's own, 5.
        seed : int, optional
            0 to 2**63 - 1. None or a negative one draws one at random, which stands in the result.
        init_image, end_image : picture, optional
            First frame (of I2V and TI2V models) and last one (of I2V models); for a VACE model `init_image` is a
            picture to refer to. The engine passes over what a model does not read; here that is an error.
        control_frames : sequence of pictures, optional
            What a VACE model follows, frame by frame; missing ones are grey, those behind the last frame are not read.
        resize, alpha : optional
            How pictures are brought to the video's size, and what becomes of transparent pixels. Where no size is
            given it is that of the first picture.
        vace_strength : float, optional
            Weight of `control_frames` and of the picture to refer to. None: the engine's 1.
        high_noise : SampleParams, optional
            The loop of the high-noise model of Wan 2.2 (``high_noise_diffusion_model=`` of the engine): its guidance,
            sampler, eta and steps; the keywords below win. None: the engine's own, not those of the low-noise model.
        high_noise_steps : int, optional
            Its steps, in addition to `steps`. None or -1: those of `steps` whose noise is above `moe_boundary`; 0
            leaves the model out.
        high_noise_cfg_scale : float, optional
            Its classifier-free guidance. None: the engine's 7.
        high_noise_sampler : str, optional
            Its sampler. None: the model's own.
        moe_boundary : float, optional
            Noise level, 0 to 1, at which the low-noise model takes over. None: the engine's 0.875.
        loras, lora_tags, strict : optional
            Adapters; those with `is_high_noise`, in tags ``<lora:|high_noise|name:weight>``, are for that model.
        tiling, cache, slg : optional
            Decoding in tiles, reuse between steps, skip-layer guidance.
        params : VideoParams, optional
            Anything else, by its C name; the keywords above win.
        preview, preview_interval, preview_noisy, timeout, on_log, on_progress, on_preview : optional
            As of `generate`; a preview has several frames.

        Returns
        -------
        VideoResult
            Its arrays own their native memory.

        Raises
        ------
        TypeError, ValueError, LoraError, GenerationError, NativeError, NativeCrashError
            As of `generate`.
        CancelledError, GenerationTimeoutError
            If the call was stopped.
        """
        check_rate(fps)
        prompt, checked = self._adapters(prompt, loras, params, lora_tags)
        keywords = VideoParams(
            loras=checked,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            video_frames=video_frames,
            seed=seed,
            moe_boundary=moe_boundary,
            vace_strength=vace_strength,
            init_image=init_image,
            end_image=end_image,
            control_frames=control_frames,
            vae_tiling_params=tiling,
            cache=cache,
            sample_params=SampleParams(
                guidance=Guidance(txt_cfg=cfg_scale, distilled_guidance=guidance, slg=slg),
                scheduler=scheduler,
                sample_method=sampler,
                sample_steps=steps,
                eta=eta,
                flow_shift=flow_shift,
            ),
            high_noise_sample_params=_high_noise(
                high_noise, high_noise_steps, high_noise_cfg_scale, high_noise_sampler
            ),
        )
        given = take_video_images((params or VideoParams()).updated(keywords), self._model, resize, alpha)
        given = check_video(given, self._model)
        given = replace(given, seed=resolve_seed(given.seed, None))
        listeners, previews = self._hearing(preview, preview_interval, preview_noisy, on_log, on_progress, on_preview)
        drawn = self._draw("generate_video", given, checked, strict, listeners, previews, timeout)
        assert given.seed is not None
        return VideoResult(drawn.arrays, fps, given.seed, drawn.params, drawn.loras, drawn.seconds, drawn.origin)

    agenerate_video = as_coroutine(
        generate_video,
        """Make a video without blocking the event loop; parameters, result and errors are those of `generate_video`.

        Cancelling the task stops the call. The caller's functions are called on another thread.
        """,
    )
    stream_video = as_stream(
        generate_video,
        """Make a video as an asynchronous generator of `Log`, `Progress` and `Preview`, and at last the `VideoResult`.

        Parameters and errors are those of `generate_video`, without its `on_` functions. Leaving the loop stops the
        call.
        """,
    )


def _high_noise(
    given: SampleParams | None, steps: int | None, cfg_scale: float | None, sampler: str | None
) -> SampleParams | None:
    guidance = None if cfg_scale is None else Guidance(txt_cfg=cfg_scale)
    keywords = SampleParams(sample_steps=steps, sample_method=sampler, guidance=guidance)
    return (given or SampleParams()).updated(keywords) if given or keywords.given() else None
