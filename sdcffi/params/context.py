"""The parameters of a model that is loaded: `sd_ctx_params_t`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._public import public
from .struct import StrPath, Struct

__all__ = ["ContextParams", "Embedding"]


@public
@dataclass(frozen=True, kw_only=True)
class Embedding(Struct):
    """A textual-inversion embedding: `name` is the word in the prompt that stands for the file `path`."""

    C_STRUCT = "sd_embedding_t"
    name: str
    path: StrPath


@public
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
