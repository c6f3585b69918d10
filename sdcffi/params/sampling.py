"""How the denoising loop runs, for pictures and videos alike; `params` has all of the engine's parameters."""

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
        Decode and encode in tiles: True unless said otherwise.
    tile_size_x : int, optional
        Width of a tile in latent pixels.
    tile_size_y : int, optional
        Height of a tile in latent pixels.
    target_overlap : float, optional
        Part of a tile that overlaps its neighbour, 0 to 0.5.
    rel_size_x : float, optional
        Width of a tile as a part of the picture (up to 1) or as a count of tiles (above 1); 0 uses `tile_size_x`.
    rel_size_y : float, optional
        Height of a tile in the same way; 0 uses `tile_size_y`.
    """

    C_STRUCT = "sd_tiling_params_t"
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
        Layers that the extra pass leaves out.
    layer_start : float, optional
        Part of the steps after which it begins to act, 0 to 1.
    layer_end : float, optional
        Part of the steps after which it ends, 0 to 1.
    scale : float, optional
        Strength; 0 is off.
    """

    C_STRUCT = "sd_slg_params_t"
    layers: Sequence[int] | None = None
    layer_start: float | None = None
    layer_end: float | None = None
    scale: float | None = None


@public
@dataclass(frozen=True, kw_only=True)
class Guidance(Struct):
    """How strongly the prompt acts: `sd_guidance_params_t`.

    Parameters
    ----------
    txt_cfg : float, optional
        Classifier-free guidance by the text; 1 is off.
    img_cfg : float, optional
        The same by the image, for instruction-editing models. None: as `txt_cfg`.
    distilled_guidance : float, optional
        The guidance value that distilled models (FLUX.1 dev) take as input.
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
        How strongly the prompt acts.
    scheduler : str, optional
        How noise levels are spaced: ``"discrete"``, ``"karras"``, ``"simple"``, ... None: what the engine takes for the
        model.
    sample_method : str, optional
        Sampler: ``"euler"``, ``"euler_a"``, ``"dpm++2m"``, ... None: what the engine takes for the model.
    sample_steps : int, optional
        Denoising steps, at least 1.
    eta : float, optional
        Noise added back at each step, for samplers that do. None: the sampler's own, which is 1 for euler_a, dpm++2s_a
        and er_sde, else 0 (`resolve_eta` of stable-diffusion.cpp).
    shifted_timestep : int, optional
        For NitroSD models, of XL's kind: 0 to 1000, 0 is off. Others pass it over.
    custom_sigmas : sequence of float, optional
        Noise levels from high to low, in place of a scheduler: at least 2, above 0 but for the last.
    flow_shift : float, optional
        Shift of flow models (SD3, Wan). None: the model's own (`default_flow_shift` of stable-diffusion.cpp): 1.15
        for FLUX with guidance, 1 without, 5 for Wan, 4 for ERNIE-Image, 3 for others; FLUX.2's goes by the size.
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


@public
@dataclass(frozen=True, kw_only=True)
class Cache(Struct):
    """Reuse of results between steps: `sd_cache_params_t`; each mode reads its own fields.

    Parameters
    ----------
    mode : str
        ``"easycache"``, ``"ucache"``, ``"dbcache"``, ``"taylorseer"``, ``"cache_dit"``, ``"spectrum"``.
    reuse_threshold : float, optional
        EasyCache and UCache: error up to which a step is reused.
    start_percent : float, optional
        EasyCache and UCache: part of the steps after which it begins to act, 0 to 1.
    end_percent : float, optional
        EasyCache and UCache: part of the steps after which it ends, 0 to 1.
    error_decay_rate : float, optional
        UCache: how quickly the summed error is forgotten.
    use_relative_threshold : bool, optional
        UCache: measure the error against the output.
    reset_error_on_compute : bool, optional
        UCache: forget the summed error at each step that is computed.
    Fn_compute_blocks : int, optional
        DBCache and Cache-DiT: first blocks, always computed.
    Bn_compute_blocks : int, optional
        DBCache and Cache-DiT: last blocks, always computed.
    max_warmup_steps : int, optional
        DBCache and Cache-DiT: first steps, always computed.
    max_cached_steps : int, optional
        DBCache and Cache-DiT: most steps that are not computed; -1 is no limit.
    max_continuous_cached_steps : int, optional
        DBCache and Cache-DiT: most steps in a row that are not computed.
    residual_diff_threshold : float, optional
        DBCache and Cache-DiT: difference allowed.
    taylorseer_n_derivatives : int, optional
        TaylorSeer: order of the extrapolation.
    taylorseer_skip_interval : int, optional
        TaylorSeer: a step is computed every so many.
    scm_mask : str, optional
        Steps to compute, as ``"1,1,0,1"``.
    scm_policy_dynamic : bool, optional
        Depart from `scm_mask` where the difference is small. The pinned engine reads the mask, the counts of cached
        steps and TaylorSeer's numbers, and draws as without: its three block caches decide by
        `residual_diff_threshold` and warm-up alone (`CacheDitConditionState`).
    spectrum_w : float, optional
        Spectrum: share of the Chebyshev forecast, 0 to 1; the rest is Taylor's.
    spectrum_m : int, optional
        Spectrum: degree of the Chebyshev polynomial.
    spectrum_lam : float, optional
        Spectrum: ridge regularisation of its fit.
    spectrum_window_size : int, optional
        Spectrum: a step is computed every so many, at first.
    spectrum_flex_window : float, optional
        Spectrum: what the window grows by at each computed step.
    spectrum_warmup_steps : int, optional
        Spectrum: first steps, always computed.
    spectrum_stop_percent : float, optional
        Spectrum: part of the steps after which every step is computed, 0 to 1.
    """

    C_STRUCT = "sd_cache_params_t"
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
