"""The engine's parameters as frozen dataclasses.

Field names are the C names of `stable-diffusion.h`, so both can be searched for; None always means: leave what the
engine's own `*_params_init` wrote, `n_threads` excepted. A field that the built engine does not have is an
`UnsupportedParameterError` when it is set, and is ignored when it is None. Enumerations are given by name, as
upstream's sd-cli spells them. Values are checked when they are carried into the C struct, before any native call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._sampling_params import Cache, Guidance, SampleParams, SkipLayerGuidance, Tiling
from ._struct import MaskPixels, Pixels, StrPath, Struct
from ._video_params import VideoParams

if TYPE_CHECKING:
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
    "VideoParams",
]


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
    model_path : path, optional
        A whole checkpoint, or a diffusers directory.
    clip_l_path, clip_g_path, t5xxl_path, llm_path : path, optional
        Text encoder.
    clip_vision_path, llm_vision_path : path, optional
        Vision encoder.
    diffusion_model_path : path, optional
        A diffusion model alone.
    high_noise_diffusion_model_path : path, optional
        Wan 2.2's second diffusion model, for the steps of high noise.
    vae_path : path, optional
        Autoencoder.
    taesd_path : path, optional
        Tiny autoencoder: quick, with less detail.
    control_net_path : path, optional
        ControlNet.
    photo_maker_path : path, optional
        PhotoMaker.
    embeddings : sequence of Embedding, optional
        Textual-inversion embeddings.
    tensor_type_rules : str, optional
        ``"regex=type,..."``: weight types by tensor name.
    vae_decode_only : bool, optional
        Leave the autoencoder's encoder out. The engine's own default (true) crashes it on image input; `Engine` sets
        false.
    free_params_immediately : bool, optional
        Free weights after their use. The engine's own default (true) crashes it on the second call; `Engine` sets
        false.
    n_threads : int, optional
        CPU threads, 1 to 512: the process ends where it gets no more. None: the physical cores that the process
        may use, in place of the engine's own count.
    wtype : str, optional
        Weight type to convert to while loading (``"q8_0"``). None: as in the file.
    rng_type : str, optional
        Where the first noise comes from: ``"cuda"`` (as in the AUTOMATIC1111 interface), ``"cpu"`` (as in ComfyUI and
        PyTorch) or ``"std_default"``.
    sampler_rng_type : str, optional
        The same for noise that samplers add. None: as `rng_type`.
    prediction : str, optional
        ``"eps"``, ``"v"``, ``"edm_v"``, ``"sd3_flow"``, ... None: told from the model.
    lora_apply_mode : str, optional
        ``"auto"``, ``"immediately"`` or ``"at_runtime"``.
    offload_params_to_cpu : bool, optional
        Keep the weights in main memory and bring them to the GPU when needed.
    keep_clip_on_cpu : bool, optional
        Run the text encoders on the CPU.
    keep_control_net_on_cpu : bool, optional
        Run the ControlNet on the CPU.
    keep_vae_on_cpu : bool, optional
        Run the autoencoder on the CPU.
    enable_mmap : bool, optional
        Leave weights that the CPU uses as they are stored in a memory map of their file, which must not be written to
        meanwhile.
    flash_attn : bool, optional
        Flash attention everywhere: less memory, other rounding.
    diffusion_flash_attn : bool, optional
        Flash attention in the diffusion model only.
    diffusion_conv_direct : bool, optional
        Convolutions without an intermediate matrix, in the diffusion model: less memory. On the CPU always.
    vae_conv_direct : bool, optional
        The same in the autoencoder.
    tae_preview_only : bool, optional
        Use the tiny autoencoder for previews only.
    circular_x : bool, optional
        Pad around the left and right edges: pictures that tile in width.
    circular_y : bool, optional
        Pad around the upper and lower edges: pictures that tile in height.
    force_sdxl_vae_conv_scale : bool, optional
        Scale within Stable Diffusion XL's autoencoder, which else leaves half precision's range.
    chroma_use_dit_mask : bool, optional
        Mask padded tokens in Chroma's transformer.
    chroma_use_t5_mask : bool, optional
        Mask padded tokens in Chroma's text encoder.
    qwen_image_zero_cond_t : bool, optional
        Give reference pictures of Qwen-Image-Edit the time step 0.
    chroma_t5_mask_pad : int, optional
        Padding of Chroma's text mask, in tokens.
    max_vram : float, optional
        Gigabytes of GPU memory within which a graph is to run, in parts, at least 0; 0 is no limit. Acts on a GPU with
        `offload_params_to_cpu`.
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
class PhotoMaker(Struct):
    """Pictures of a person for PhotoMaker: `sd_pm_params_t`.

    Parameters
    ----------
    id_images : sequence of pictures, optional
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
class Hires(Struct):
    """A second pass at a larger size: `sd_hires_params_t`.

    Parameters
    ----------
    enabled : bool
        Draw a second pass: True unless said otherwise.
    upscaler : str, optional
        How the first picture is enlarged: the latent by ``"Latent"`` (bilinear; what None means), ``"Latent
        (nearest)"``, ``"Latent (nearest-exact)"``, ``"Latent (antialiased)"``, ``"Latent (bicubic)"`` or ``"Latent
        (bicubic antialiased)"``; the decoded picture by ``"Lanczos"``, ``"Nearest"`` or ``"Model"``. ``"None"``: no
        second pass.
    model_path : path, optional
        Upscaling network, for the upscaler ``"Model"``, as for `Upscaler`; what it makes is resized to the target.
    scale : float, optional
        Factor of the size, unless a target is given.
    target_width : int, optional
        Width in pixels, in place of `scale`.
    target_height : int, optional
        Height in pixels, in place of `scale`.
    steps : int, optional
        Steps of the second pass. None: as the first.
    denoising_strength : float, optional
        How far the second pass may go away from the first, above 0 and up to 1. None: the engine's 0.7.
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
    prompt : str, optional
        What to draw, with weights as in ``(text:1.2)``; at most 50,000 bytes in UTF-8, without NUL.
    negative_prompt : str, optional
        What to leave out; acts where guidance is not 1.
    clip_skip : int, optional
        Last layers of CLIP to leave out, at least 1.
    init_image : picture, optional
        Picture to start from: whatever `Engine.generate` takes; of a `Result`'s parameters, a uint8 array (H, W, 3).
    mask_image : picture or box, optional
        Part of `init_image` to draw anew: white, or within ``(left, top, right, bottom)``; of a `Result`'s parameters,
        a uint8 array (H, W, 1).
    control_image : picture, optional
        ControlNet's hint.
    ref_images : sequence of pictures, optional
        Reference pictures of editing models, at least 64 pixels a side; multiples of 16 unless they are resized.
    auto_resize_ref_image : bool, optional
        Scale reference pictures to the area of the result.
    increase_ref_index : bool, optional
        Number reference pictures apart, for models that tell them by number.
    width : int, optional
        Pixels.
    height : int, optional
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
    mask_image: MaskPixels | None = None
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
