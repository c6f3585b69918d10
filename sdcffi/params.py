"""The engine's parameters as frozen dataclasses.

Field names are the C names of `stable-diffusion.h`, so both can be searched for; None always means: leave what the
engine's own `*_params_init` wrote. A field that the built engine does not have is an `UnsupportedParameterError`
when it is set, and is ignored when it is None. Enumerations are given by name, as upstream's sd-cli spells them.
Values are checked when they are carried into the C struct, before any native call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .lora import Lora

__all__ = [
    "Cache",
    "ContextParams",
    "Embedding",
    "Guidance",
    "Hires",
    "ImageParams",
    "PhotoMaker",
    "SampleParams",
    "SkipLayerGuidance",
    "StrPath",
    "Struct",
    "Tiling",
]

StrPath: TypeAlias = "str | os.PathLike[str]"
Pixels: TypeAlias = "NDArray[Any]"
_Struct = TypeVar("_Struct", bound="Struct")


class Struct:
    """Base of the dataclasses that stand for a C struct named `C_STRUCT`."""

    C_STRUCT: ClassVar[str]

    def given(self) -> dict[str, Any]:
        """Give the fields that are set, by name."""
        return {
            item.name: value
            for item in fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, item.name)) is not None
        }

    def updated(self: _Struct, other: _Struct | None) -> _Struct:
        """Give this with the fields that are set in `other`; structs within are updated in turn."""
        changes: dict[str, Any] = {}
        for name, value in other.given().items() if other else ():
            below = getattr(self, name)
            changes[name] = below.updated(value) if isinstance(below, Struct) else value
        return replace(self, **changes)  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class Embedding(Struct):
    """A textual-inversion embedding: `name` is the word in the prompt that stands for the file `path`."""

    C_STRUCT = "sd_embedding_t"
    name: str
    path: StrPath


@dataclass(frozen=True, kw_only=True)
class ContextParams(Struct):
    """What is loaded and where it runs: `sd_ctx_params_t`.

    `Engine` has a keyword for what is used most; the rest is given as ``Engine(context=ContextParams(...))``.

    Parameters
    ----------
    model_path, clip_l_path, clip_g_path, clip_vision_path, t5xxl_path, llm_path, llm_vision_path : path, optional
        A whole checkpoint, and text and vision encoders.
    diffusion_model_path, high_noise_diffusion_model_path : path, optional
        A diffusion model alone; the second one for Wan 2.2.
    vae_path, taesd_path, control_net_path, photo_maker_path : path, optional
        Autoencoder, tiny autoencoder, ControlNet, PhotoMaker.
    embeddings : sequence of Embedding, optional
        Textual-inversion embeddings.
    tensor_type_rules : str, optional
        ``"regex=type,..."``: weight types by tensor name.
    vae_decode_only, free_params_immediately : bool, optional
        The engine's own defaults (true) crash it on image input and on the second call; `Engine` sets false.
    n_threads : int, optional
        CPU threads, 1 to 512: OpenMP ends the process where it gets no more. None: the physical cores, as the engine
        counts them.
    wtype : str, optional
        Weight type to convert to while loading (``"q8_0"``). None: as in the file.
    rng_type, sampler_rng_type : str, optional
        ``"std_default"``, ``"cuda"`` or ``"cpu"``.
    prediction : str, optional
        ``"eps"``, ``"v"``, ``"edm_v"``, ``"sd3_flow"``, ... None: told from the model.
    lora_apply_mode : str, optional
        ``"auto"``, ``"immediately"`` or ``"at_runtime"``.
    offload_params_to_cpu, keep_clip_on_cpu, keep_control_net_on_cpu, keep_vae_on_cpu : bool, optional
        Keep weights, or run a part, outside the GPU.
    enable_mmap : bool, optional
        Read files through a memory map.
    flash_attn, diffusion_flash_attn, diffusion_conv_direct, vae_conv_direct : bool, optional
        Other kernels for attention and convolution.
    tae_preview_only : bool, optional
        Use the tiny autoencoder for previews only.
    circular_x, circular_y : bool, optional
        Pad around the edges: pictures that tile.
    force_sdxl_vae_conv_scale, chroma_use_dit_mask, chroma_use_t5_mask, qwen_image_zero_cond_t : bool, optional
        Switches of single models.
    chroma_t5_mask_pad : int, optional
        Padding of Chroma's text mask, in tokens.
    max_vram : float, optional
        Gigabytes of GPU memory to stay below, at least 0; 0 is no limit.
    """

    C_STRUCT = "sd_ctx_params_t"
    model_path: StrPath | None = None
    clip_l_path: StrPath | None = None
    clip_g_path: StrPath | None = None
    clip_vision_path: StrPath | None = None
    t5xxl_path: StrPath | None = None
    llm_path: StrPath | None = None
    llm_vision_path: StrPath | None = None
    diffusion_model_path: StrPath | None = None
    high_noise_diffusion_model_path: StrPath | None = None
    vae_path: StrPath | None = None
    taesd_path: StrPath | None = None
    control_net_path: StrPath | None = None
    embeddings: Sequence[Embedding] | None = None
    photo_maker_path: StrPath | None = None
    tensor_type_rules: str | None = None
    vae_decode_only: bool | None = None
    free_params_immediately: bool | None = None
    n_threads: int | None = None
    wtype: str | None = None
    rng_type: str | None = None
    sampler_rng_type: str | None = None
    prediction: str | None = None
    lora_apply_mode: str | None = None
    offload_params_to_cpu: bool | None = None
    enable_mmap: bool | None = None
    keep_clip_on_cpu: bool | None = None
    keep_control_net_on_cpu: bool | None = None
    keep_vae_on_cpu: bool | None = None
    flash_attn: bool | None = None
    diffusion_flash_attn: bool | None = None
    tae_preview_only: bool | None = None
    diffusion_conv_direct: bool | None = None
    vae_conv_direct: bool | None = None
    circular_x: bool | None = None
    circular_y: bool | None = None
    force_sdxl_vae_conv_scale: bool | None = None
    chroma_use_dit_mask: bool | None = None
    chroma_use_t5_mask: bool | None = None
    chroma_t5_mask_pad: int | None = None
    qwen_image_zero_cond_t: bool | None = None
    max_vram: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tiling(Struct):
    """Decode and encode in tiles, which takes less memory: `sd_tiling_params_t`.

    Parameters
    ----------
    enabled : bool
        True unless said otherwise.
    tile_size_x, tile_size_y : int, optional
        Tile size in latent pixels.
    target_overlap : float, optional
        Part of a tile that overlaps its neighbour, 0 to 0.5.
    rel_size_x, rel_size_y : float, optional
        Tile size as a part of the picture (up to 1) or as a count of tiles (above 1); 0 uses `tile_size_*`.
    """

    C_STRUCT = "sd_tiling_params_t"
    enabled: bool = True
    tile_size_x: int | None = None
    tile_size_y: int | None = None
    target_overlap: float | None = None
    rel_size_x: float | None = None
    rel_size_y: float | None = None


@dataclass(frozen=True, kw_only=True)
class SkipLayerGuidance(Struct):
    """Skip-layer guidance (Stable Diffusion 3.5): `sd_slg_params_t`.

    Parameters
    ----------
    layers : sequence of int, optional
        Layers that the extra pass leaves out.
    layer_start, layer_end : float, optional
        Part of the steps in which it acts, 0 to 1.
    scale : float, optional
        Strength; 0 is off.
    """

    C_STRUCT = "sd_slg_params_t"
    layers: Sequence[int] | None = None
    layer_start: float | None = None
    layer_end: float | None = None
    scale: float | None = None


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


@dataclass(frozen=True, kw_only=True)
class SampleParams(Struct):
    """The denoising loop: `sd_sample_params_t`.

    Parameters
    ----------
    guidance : Guidance, optional
        How strongly the prompt acts.
    scheduler, sample_method : str, optional
        Names as in sd-cli. None: what the engine takes for the model.
    sample_steps : int, optional
        Denoising steps, at least 1.
    eta : float, optional
        Noise added back at each step, for samplers that do.
    shifted_timestep : int, optional
        For NitroSD models: 0 to 1000, 0 is off.
    custom_sigmas : sequence of float, optional
        Noise levels from high to low, in place of a scheduler: at least 2, above 0 but for the last.
    flow_shift : float, optional
        Shift of flow models (SD3, Wan). None: the model's own.
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


@dataclass(frozen=True, kw_only=True)
class PhotoMaker(Struct):
    """Pictures of a person for PhotoMaker: `sd_pm_params_t`.

    Parameters
    ----------
    id_images : sequence of uint8 arrays (H, W, 3), optional
        Photographs.
    id_embed_path : path, optional
        Identity embedding, for version 2.
    style_strength : float, optional
        Percent, 0 to 100.
    """

    C_STRUCT = "sd_pm_params_t"
    id_images: Sequence[Pixels] | None = None
    id_embed_path: StrPath | None = None
    style_strength: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cache(Struct):
    """Reuse of results between steps: `sd_cache_params_t`; each mode reads its own fields.

    Parameters
    ----------
    mode : str
        ``"easycache"``, ``"ucache"``, ``"dbcache"``, ``"taylorseer"``, ``"cache_dit"``, ``"spectrum"``.
    reuse_threshold, start_percent, end_percent, error_decay_rate : float, optional
        EasyCache and UCache: error allowed, and part of the steps (0 to 1) in which it acts.
    use_relative_threshold, reset_error_on_compute : bool, optional
        UCache: how the error is measured and summed.
    Fn_compute_blocks, Bn_compute_blocks, max_warmup_steps, max_cached_steps : int, optional
        DBCache and Cache-DiT: blocks always computed, and counts of steps.
    max_continuous_cached_steps : int, optional
        DBCache and Cache-DiT: most steps in a row that are not computed.
    residual_diff_threshold : float, optional
        DBCache and Cache-DiT: difference allowed.
    taylorseer_n_derivatives, taylorseer_skip_interval : int, optional
        TaylorSeer.
    scm_mask : str, optional
        Steps to compute, as ``"1,1,0,1"``.
    scm_policy_dynamic : bool, optional
        Whether `scm_mask` may be departed from.
    spectrum_w, spectrum_lam, spectrum_flex_window, spectrum_stop_percent : float, optional
        Spectrum.
    spectrum_m, spectrum_window_size, spectrum_warmup_steps : int, optional
        Spectrum.
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


@dataclass(frozen=True, kw_only=True)
class Hires(Struct):
    """A second pass at a larger size: `sd_hires_params_t`.

    Parameters
    ----------
    enabled : bool
        True unless said otherwise.
    upscaler : str, optional
        How the first picture is enlarged, by sd-cli's names (``"Latent"``, ``"Lanczos"``, ``"Model"``, ...).
    model_path : path, optional
        Upscaling network, for the upscaler ``"Model"``.
    scale : float, optional
        Factor of the size, unless a target is given.
    target_width, target_height : int, optional
        Size in pixels.
    steps : int, optional
        Steps of the second pass. None: as the first.
    denoising_strength : float, optional
        How far the second pass may go away from the first, 0 to 1.
    upscale_tile_size : int, optional
        Tile size of the upscaling network in pixels.
    """

    C_STRUCT = "sd_hires_params_t"
    enabled: bool = True
    upscaler: str | None = None
    model_path: StrPath | None = None
    scale: float | None = None
    target_width: int | None = None
    target_height: int | None = None
    steps: int | None = None
    denoising_strength: float | None = None
    upscale_tile_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageParams(Struct):
    """One call that draws pictures: `sd_img_gen_params_t`.

    `Engine.generate` has a keyword for what is used most; the rest is given as ``params=ImageParams(...)``.

    Parameters
    ----------
    loras : sequence of Lora, optional
        Adapters.
    prompt, negative_prompt : str, optional
        What to draw and what not; at most 50,000 bytes in UTF-8 each, without NUL, weights as in ``(text:1.2)``.
    clip_skip : int, optional
        Last layers of CLIP to leave out, at least 1.
    init_image, mask_image, control_image : uint8 array, optional
        Picture to start from (H, W, 3), part of it to draw anew (H, W, 1), and ControlNet's hint (H, W, 3).
    ref_images : sequence of uint8 arrays (H, W, 3), optional
        Reference pictures of editing models, at least 64 pixels a side; multiples of 16 unless they are resized.
    auto_resize_ref_image, increase_ref_index : bool, optional
        How reference pictures are scaled and numbered.
    width, height : int, optional
        Pixels.
    sample_params : SampleParams, optional
        The denoising loop.
    strength : float, optional
        How far to go away from `init_image`, 0 to 1.
    seed : int, optional
        0 to 2**63 - 1; picture `i` of a batch uses ``seed + i``.
    batch_count : int, optional
        Number of pictures, at least 1.
    control_strength : float, optional
        Weight of ControlNet.
    pm_params : PhotoMaker, optional
        PhotoMaker's input.
    vae_tiling_params : Tiling, optional
        Decode in tiles.
    cache : Cache, optional
        Reuse results between steps.
    hires : Hires, optional
        Second pass at a larger size.
    """

    C_STRUCT = "sd_img_gen_params_t"
    loras: Sequence[Lora] | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    clip_skip: int | None = None
    init_image: Pixels | None = None
    ref_images: Sequence[Pixels] | None = None
    auto_resize_ref_image: bool | None = None
    increase_ref_index: bool | None = None
    mask_image: Pixels | None = None
    width: int | None = None
    height: int | None = None
    sample_params: SampleParams | None = None
    strength: float | None = None
    seed: int | None = None
    batch_count: int | None = None
    control_image: Pixels | None = None
    control_strength: float | None = None
    pm_params: PhotoMaker | None = None
    vae_tiling_params: Tiling | None = None
    cache: Cache | None = None
    hires: Hires | None = None
