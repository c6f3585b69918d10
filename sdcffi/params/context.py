"""The parameters of a model that is loaded: `sd_ctx_params_t`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._public import public
from .struct import StrPath, Struct

__all__ = ["PRECISIONS", "ContextParams", "Embedding"]

PRECISIONS = ("exact", "fast")  # how the CPU multiplies; the first is the default


@public
@dataclass(frozen=True, kw_only=True)
class Embedding(Struct):
    """A textual-inversion embedding: `sd_embedding_t`.

    Parameters
    ----------
    name : str
        The word in the prompt that uses the embedding.
    path : path
        The embedding's file.
    """

    C_STRUCT = "sd_embedding_t"
    KEYWORD = "embeddings"
    TAKEN_LATER = frozenset({"path"})
    name: str
    path: StrPath


@public
@dataclass(frozen=True, kw_only=True)
class ContextParams(Struct):
    """What is loaded and where it runs: `sd_ctx_params_t`.

    `Engine` has a keyword for what is used most; the rest is given as ``Engine(context=ContextParams(...))``. A path
    that is None is not loaded. Any other field that is None keeps the engine's default, unless its description says
    otherwise.

    Parameters
    ----------
    model_path : path, optional
        Whole checkpoint, or a diffusers directory.
    clip_l_path : path, optional
        Text encoder CLIP-L.
    clip_g_path : path, optional
        Text encoder CLIP-G.
    t5xxl_path : path, optional
        Text encoder T5-XXL, or UMT5-XXL for Wan.
    llm_path : path, optional
        Language model that is the text encoder.
    clip_vision_path : path, optional
        Vision encoder CLIP.
    llm_vision_path : path, optional
        Vision encoder of the language model.
    diffusion_model_path : path, optional
        Diffusion model alone; it also needs text encoders and an autoencoder.
    high_noise_diffusion_model_path : path, optional
        Wan 2.2's second diffusion model, for the steps of high noise.
    vae_path : path, optional
        Autoencoder (VAE).
    taesd_path : path, optional
        Tiny autoencoder: fast, with less detail.
    control_net_path : path, optional
        ControlNet model.
    photo_maker_path : path, optional
        PhotoMaker model.
    embeddings : sequence of Embedding, optional
        Textual-inversion embeddings.
    tensor_type_rules : str, optional
        Weight types by tensor name: ``"regex=type,..."``.
    vae_decode_only : bool, optional
        Leave the autoencoder's encoder out, which image input needs. None: it is kept. Newer engines always keep it:
        True is an `UnsupportedParameterError`.
    free_params_immediately : bool, optional
        Free weights after they are used, so that the engine serves one call only. None: they are kept. Newer engines
        always keep them, and True is an `UnsupportedParameterError`.
    n_threads : int, optional
        Number of CPU threads, 1 to 512. The process ends if the system refuses to start them. None: the physical cores
        that the process may use, in place of the engine's own count.
    precision : str, optional
        How the CPU multiplies matrices and convolves: ``"exact"`` (in single precision) or ``"fast"`` (values rounded
        to 13 bits, to 8 beside quantised weights, or to bfloat16, as the processor is faster at; sums in single
        precision). None: ``"exact"``. A GPU has its own way.
    wtype : str, optional
        Weight type to convert to while loading: ``"q8_0"``, ``"f16"``, ... None: as in the file.
    rng_type : str, optional
        Random numbers of the first noise: ``"cuda"`` (as in AUTOMATIC1111), ``"cpu"`` (as in ComfyUI and PyTorch) or
        ``"std_default"``.
    sampler_rng_type : str, optional
        Random numbers of the noise that samplers add. None: as `rng_type`.
    prediction : str, optional
        What the model predicts: ``"eps"``, ``"v"``, ``"edm_v"``, ``"sd3_flow"``, ... None: found out from the model.
    lora_apply_mode : str, optional
        How LoRAs are applied: ``"immediately"`` (merged into the weights), ``"at_runtime"`` (computed beside them, or
        with changed copies of them) or ``"auto"`` (at run time if weights are quantised).
    offload_params_to_cpu : bool, optional
        Keep the weights in main memory, and copy them to the GPU when they are needed.
    keep_clip_on_cpu : bool, optional
        Run the text encoders on the CPU.
    keep_control_net_on_cpu : bool, optional
        Run the ControlNet on the CPU.
    keep_vae_on_cpu : bool, optional
        Run the autoencoder on the CPU.
    enable_mmap : bool, optional
        Map the files into memory instead of reading them, for weights that the CPU uses as they are stored. The files
        must not be written to meanwhile.
    flash_attn : bool, optional
        Flash attention everywhere: less memory, different rounding. The CPU does so anyway, in single precision.
    diffusion_flash_attn : bool, optional
        Flash attention in the diffusion model only. The CPU does so anyway, in single precision.
    diffusion_conv_direct : bool, optional
        Convolve directly in the diffusion model: less memory. The CPU does so anyway.
    vae_conv_direct : bool, optional
        Convolve directly in the autoencoder: less memory. The CPU does so anyway.
    tae_preview_only : bool, optional
        Use the tiny autoencoder for previews only.
    circular_x : bool, optional
        Wrap around the left and right edges: images that tile horizontally.
    circular_y : bool, optional
        Wrap around the upper and lower edges: images that tile vertically.
    force_sdxl_vae_conv_scale : bool, optional
        Scale values in SDXL's autoencoder, which can otherwise leave the range of half precision.
    chroma_use_dit_mask : bool, optional
        Mask padded tokens in Chroma's transformer.
    chroma_use_t5_mask : bool, optional
        Mask padded tokens in Chroma's text encoder. On by default, as the model was trained.
    qwen_image_zero_cond_t : bool, optional
        Use time step 0 for the reference images of Qwen-Image-Edit.
    chroma_t5_mask_pad : int, optional
        Padding of Chroma's text mask, in tokens.
    max_vram : float, optional
        GPU memory that a computation may use, in gigabytes, at least 0. A larger one is split into parts that fit. 0
        is no limit. Ignored without `offload_params_to_cpu`, and on the CPU.
    """

    C_STRUCT = "sd_ctx_params_t"
    NOT_IN_C = frozenset({"precision"})
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
    precision: str | None = None
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
