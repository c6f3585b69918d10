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
    """Images of a person for PhotoMaker: `sd_pm_params_t`.

    Parameters
    ----------
    id_images : sequence of images, optional
        Photographs of the person. None: PhotoMaker is not used.
    id_embed_path : path, optional
        File with the identity embedding, for PhotoMaker version 2.
    style_strength : float, optional
        Strength of the style relative to the person, in percent, 0 to 100. None: the engine's default.
    """

    C_STRUCT = "sd_pm_params_t"
    KEYWORD = "pm_params"
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
        True, the default, generates a second pass. False does not.
    upscaler : str, optional
        How the result of the first pass is enlarged. In latent space: ``"Latent"`` (bilinear; what None means),
        ``"Latent (nearest)"``, ``"Latent (nearest-exact)"``, ``"Latent (antialiased)"``, ``"Latent (bicubic)"`` or
        ``"Latent (bicubic antialiased)"``. As decoded image: ``"Lanczos"``, ``"Nearest"`` or ``"Model"``. ``"None"``:
        no second pass.
    model_path : path, optional
        Upscaling network for the upscaler ``"Model"``, as for `Upscaler`; its result is resized to the target size.
    scale : float, optional
        Factor on width and height, unless a target size is given. None: the engine's default.
    target_width : int, optional
        Target width in pixels, in place of `scale`.
    target_height : int, optional
        Target height in pixels, in place of `scale`.
    steps : int, optional
        Number of steps of the second pass. None: as many as in the first pass.
    denoising_strength : float, optional
        How much the second pass changes the result of the first, above 0 and up to 1. None: the engine's 0.7.
    upscale_tile_size : int, optional
        Tile size of the upscaling network, in pixels. None: the engine's default.
    """

    C_STRUCT = "sd_hires_params_t"
    KEYWORD = "hires"
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
    """One call that generates images: `sd_img_gen_params_t`.

    `Engine.generate` has a keyword for what is used most; the rest is given as ``params=ImageParams(...)``.

    Parameters
    ----------
    loras : sequence of Lora, optional
        LoRA adapters. None: none.
    prompt : str, optional
        What to generate, with weights as in ``(text:1.2)`` where the model has them; at most 50,000 bytes in UTF-8,
        without NUL. None: an empty prompt.
    negative_prompt : str, optional
        What to leave out; ignored when `txt_cfg` is 1. None: nothing.
    clip_skip : int, optional
        Layer of CLIP that is read, counted from the last, at least 1, and at most one more than the encoder has. None:
        the model's own.
    comma_backtrack : int, optional
        Number of tokens back from the end of a chunk of CLIP in which a comma ends the chunk, 0 to 74; 0 turns it off.
        Only Stable Diffusion 1, 2 and XL have chunks. None: 20.
    init_image : image, optional
        Image to start from: whatever `Engine.generate` takes; in a `Result`'s parameters, a uint8 array (H, W, 3).
        None: start from noise.
    mask_image : image or box, optional
        Part of `init_image` to generate anew: an image that is white there, or the box ``(left, top, right, bottom)``;
        in a `Result`'s parameters, a uint8 array (H, W, 1). None: all of it.
    mask_blur : float, optional
        Radius in pixels by which the edge of `mask_image` is blurred outwards where the original is put back, 0 to
        1000. None: 4.
    paste_back : bool, optional
        Put the original back outside of the mask. None: True.
    control_image : image, optional
        Image for the ControlNet. None: the ControlNet is not used.
    ref_images : sequence of images, optional
        Reference images of editing models, at least 64 pixels a side, in multiples of 16 unless they are resized. None:
        none.
    auto_resize_ref_image : bool, optional
        Scale reference images to the area of the result. None: the engine's default.
    increase_ref_index : bool, optional
        Give each reference image a number of its own, for models that refer to them by number. None: the engine's
        default.
    width : int, optional
        Width in pixels, at least 1. None: that of the input image, or of the model.
    height : int, optional
        Height in pixels, at least 1. None: that of the input image, or of the model.
    sample_params : SampleParams, optional
        The denoising loop.
    strength : float, optional
        How much to change `init_image`, from 0 (little) to 1 (completely). None: the engine's default.
    seed : int, optional
        Random seed, 0 to 2**63 - 1; image `i` of a batch uses ``seed + i``. None, or a negative number: a random one.
    batch_count : int, optional
        Number of images, at least 1. None: 1.
    control_strength : float, optional
        Weight of the ControlNet, at least 0. None: the engine's default.
    pm_params : PhotoMaker, optional
        PhotoMaker's input.
    vae_tiling_params : Tiling, optional
        Decode and encode in tiles.
    cache : Cache, optional
        Reuse results between steps.
    hires : Hires, optional
        Second pass at a larger size.
    """

    C_STRUCT = "sd_img_gen_params_t"
    NOT_IN_C = frozenset({"comma_backtrack", "mask_blur", "paste_back"})
    loras: Sequence[Lora] | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    clip_skip: int | None = None
    comma_backtrack: int | None = None
    init_image: Pixels | None = None
    ref_images: Sequence[Pixels] | None = None
    auto_resize_ref_image: bool | None = None
    increase_ref_index: bool | None = None
    mask_image: MaskPixels | None = None
    mask_blur: float | None = None
    paste_back: bool | None = None
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
