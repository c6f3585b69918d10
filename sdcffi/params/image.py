"""The parameters of a call that generates images: `sd_img_gen_params_t`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._public import public
from .lora import Lora
from .sampling import Cache, SampleParams, Tiling
from .struct import MaskPixels, Pixels, StrPath, Struct

__all__ = ["Hires", "ImageParams", "PhotoMaker"]


@public
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


@public
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


@public
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
