"""Parameters of the denoising loop, for images and videos; `params` has all of the engine's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._public import public
from .struct import Struct

__all__ = ["Cache", "Guidance", "SampleParams", "SkipLayerGuidance", "Tiling"]


@public
@dataclass(frozen=True, kw_only=True)
class Tiling(Struct):
    """Decode and encode in tiles, which takes less memory: `sd_tiling_params_t`.

    Parameters
    ----------
    enabled : bool
        True, the default, decodes and encodes in tiles. False does not.
    tile_size_x : int, optional
        Width of a tile in latent pixels, at least 4. 0 or None: the engine's 32.
    tile_size_y : int, optional
        Height of a tile in latent pixels, at least 4. 0 or None: the engine's 32.
    target_overlap : float, optional
        Part of a tile that is blended with its neighbour, 0 to 0.5. Tiles are as many as that takes, and spread evenly;
        a larger part comes nearer to the image that is decoded at once. None: 0.5.
    rel_size_x : float, optional
        Width of a tile: up to 1, as a part of the image; above 1, as a number of tiles. 0 or None: `tile_size_x`.
    rel_size_y : float, optional
        Height of a tile: up to 1, as a part of the image; above 1, as a number of tiles. 0 or None: `tile_size_y`.
    """

    C_STRUCT = "sd_tiling_params_t"
    KEYWORD = "tiling"
    enabled: bool = True
    tile_size_x: int | None = None
    tile_size_y: int | None = None
    target_overlap: float | None = None
    rel_size_x: float | None = None
    rel_size_y: float | None = None


@public
@dataclass(frozen=True, kw_only=True)
class SkipLayerGuidance(Struct):
    """Skip-layer guidance (Stable Diffusion 3.5): `sd_slg_params_t`.

    Parameters
    ----------
    layers : sequence of int, optional
        Numbers of the layers that the extra pass skips. None: none.
    layer_start : float, optional
        Part of the steps after which skip-layer guidance starts, 0 to 1. None: the engine's default.
    layer_end : float, optional
        Part of the steps after which skip-layer guidance ends, 0 to 1. None: the engine's default.
    scale : float, optional
        Strength of skip-layer guidance; 0 turns it off. None: the engine's default, which is off.
    """

    C_STRUCT = "sd_slg_params_t"
    KEYWORD = "slg"
    layers: Sequence[int] | None = None
    layer_start: float | None = None
    layer_end: float | None = None
    scale: float | None = None


@public
@dataclass(frozen=True, kw_only=True)
class Guidance(Struct):
    """How strictly the image follows the prompt: `sd_guidance_params_t`.

    Parameters
    ----------
    txt_cfg : float, optional
        Classifier-free guidance: how strictly the image follows the prompt. 1 turns it off and halves the work. None:
        what suits the model.
    img_cfg : float, optional
        How strictly the result follows the input image, for instruction-editing models. None: as `txt_cfg`.
    distilled_guidance : float, optional
        Guidance value that distilled models (FLUX.1 dev) take as input. None: what suits the model.
    slg : SkipLayerGuidance, optional
        Skip-layer guidance.
    """

    C_STRUCT = "sd_guidance_params_t"
    txt_cfg: float | None = None
    img_cfg: float | None = None
    distilled_guidance: float | None = None
    slg: SkipLayerGuidance | None = None


@public
@dataclass(frozen=True, kw_only=True)
class SampleParams(Struct):
    """The denoising loop: `sd_sample_params_t`.

    Parameters
    ----------
    guidance : Guidance, optional
        How strictly the image follows the prompt.
    scheduler : str, optional
        Spacing of the noise levels: ``"discrete"``, ``"karras"``, ``"simple"``, ``"beta"``, ... None: the engine's
        choice for the model. For flow models ``"discrete"`` is the schedule of the model's family.
    sample_method : str, optional
        Sampler: ``"euler"``, ``"euler_a"``, ``"dpm++2m"``, ``"unipc"``, ... None: what suits the model.
    sample_steps : int, optional
        Number of denoising steps, at least 1. None: what suits the model.
    eta : float, optional
        Amount of noise added back at each step, for samplers that add noise; at most 1 for tcd and ddim_trailing.
        None: the sampler's own, which is 1 for euler_a, dpm++2s_a, er_sde and those with ``sde`` in their names, and 0
        for others (`resolve_eta` of stable-diffusion.cpp).
    shifted_timestep : int, optional
        Timestep shift of NitroSD models (based on SDXL), 0 to 1000; 0 turns it off. Other models ignore it. None: the
        engine's default, which is off.
    custom_sigmas : sequence of float, optional
        Noise levels from high to low, which replace the scheduler: at least 2, and all but the last at least 1e-6.
        None: the scheduler's.
    flow_shift : float, optional
        Shift of flow models (SD3, Wan). For FLUX, FLUX.2, Chroma and Ovis it is an exponent, so that 0 is no shift;
        for others 1 is none. None: the shift of the model's family, which may depend on size and steps. Schedulers
        with a shift of their own ignore it: ``"flux"`` and ``"flux2"``, where the engine has them.
    guidance_rescale : float, optional
        Part by which the contrast that guidance adds is taken back, 0 to 1; 0.7 is usual for models that start from
        noise alone. None: 0.
    """

    C_STRUCT = "sd_sample_params_t"
    guidance: Guidance | None = None
    scheduler: str | None = None
    sample_method: str | None = None
    sample_steps: int | None = None
    eta: float | None = None
    shifted_timestep: int | None = None
    custom_sigmas: Sequence[float] | None = None
    flow_shift: float | None = None
    guidance_rescale: float | None = None


@public
@dataclass(frozen=True, kw_only=True)
class Cache(Struct):
    """Reuse of results between steps: `sd_cache_params_t`; each mode reads its own fields, and others are refused.

    `Result.cached_steps` has the steps that were reused. A field that is None keeps the default, with which the image
    stays within 35 dB of the one without a cache (``docs/speed.md``).

    Parameters
    ----------
    mode : str
        How results are reused: ``"easycache"``, ``"ucache"``, ``"dbcache"``, ``"taylorseer"``, ``"cache_dit"`` or
        ``"spectrum"``.
    reuse_threshold : float, optional
        EasyCache and UCache: largest estimated error with which a step is reused. None: 0.05 and 0.25.
    start_percent : float, optional
        EasyCache and UCache: part of the steps after which reuse starts, 0 to 1.
    end_percent : float, optional
        EasyCache and UCache: part of the steps after which reuse ends, 0 to 1.
    error_decay_rate : float, optional
        UCache: factor on the summed error at each step, 0 to 1; 1 keeps all of it.
    use_relative_threshold : bool, optional
        UCache: measure the error relative to the output.
    reset_error_on_compute : bool, optional
        UCache: reset the summed error at each step that is computed.
    Fn_compute_blocks, Bn_compute_blocks : int, optional
        Refused: the engine reuses results of the whole network, not of its blocks.
    residual_diff_threshold : float, optional
        DBCache and Cache-DiT: largest relative change of the network's input, since it was last computed, with which a
        step is reused.
    max_warmup_steps : int, optional
        DBCache, TaylorSeer and Cache-DiT: number of first steps that are always computed; the last one is too. For the
        steps that `scm_mask` covers, it says so in their place.
    max_cached_steps : int, optional
        DBCache, TaylorSeer and Cache-DiT: largest number of steps that are not computed; -1 is no limit.
    max_continuous_cached_steps : int, optional
        DBCache, TaylorSeer and Cache-DiT: largest number of steps in a row that are not computed; -1 is no limit.
    taylorseer_n_derivatives : int, optional
        TaylorSeer and Cache-DiT: order of the extrapolation, in derivatives.
    taylorseer_skip_interval : int, optional
        TaylorSeer: compute one step in this many.
    scm_mask : str, optional
        DBCache, TaylorSeer and Cache-DiT: for each step, whether to compute it (1) or to reuse (0): ``"1,1,0,1"``. The
        first step is always computed.
    scm_policy_dynamic : bool, optional
        True reuses a step with 0 in `scm_mask` only where the mode would. False always reuses it.
    spectrum_w : float, optional
        Spectrum: share of the Chebyshev forecast, 0 to 1; the rest is the Taylor forecast.
    spectrum_m : int, optional
        Spectrum: degree of the Chebyshev polynomial.
    spectrum_lam : float, optional
        Spectrum: ridge regularisation of the fit.
    spectrum_window_size : int, optional
        Spectrum: at first, compute one step in this many.
    spectrum_flex_window : float, optional
        Spectrum: number that the window grows by at each computed step.
    spectrum_warmup_steps : int, optional
        Spectrum: number of first steps that are always computed.
    spectrum_stop_percent : float, optional
        Spectrum: part of the steps after which every step is computed, 0 to 1.
    """

    C_STRUCT = "sd_cache_params_t"
    KEYWORD = "cache"
    mode: str
    reuse_threshold: float | None = None
    start_percent: float | None = None
    end_percent: float | None = None
    error_decay_rate: float | None = None
    use_relative_threshold: bool | None = None
    reset_error_on_compute: bool | None = None
    Fn_compute_blocks: int | None = None
    Bn_compute_blocks: int | None = None
    residual_diff_threshold: float | None = None
    max_warmup_steps: int | None = None
    max_cached_steps: int | None = None
    max_continuous_cached_steps: int | None = None
    taylorseer_n_derivatives: int | None = None
    taylorseer_skip_interval: int | None = None
    scm_mask: str | None = None
    scm_policy_dynamic: bool | None = None
    spectrum_w: float | None = None
    spectrum_m: int | None = None
    spectrum_lam: float | None = None
    spectrum_window_size: int | None = None
    spectrum_flex_window: float | None = None
    spectrum_warmup_steps: int | None = None
    spectrum_stop_percent: float | None = None
