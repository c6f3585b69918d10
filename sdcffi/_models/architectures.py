"""Identify a model's architecture by its tensor names, as `ModelLoader::get_sd_version` of model.cpp does.

An architecture that is not in the table is None and passes every check: the engine may be newer than the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .lora_families import UNET_TEXT

__all__ = ["FAMILIES", "Architecture", "identify"]

_CACHES_OF_UNET = ("ucache",)
_CACHES_OF_DIT = ("easycache", "dbcache", "taylorseer", "cache_dit")


@dataclass(frozen=True)
class Architecture:
    """An architecture of diffusion models: what it needs and what it takes.

    Attributes
    ----------
    name, title : str
        Such as ``"flux2"`` and ``"FLUX.2"``.
    pixel_multiple : int
        The engine rounds width and height up to multiples of it, in pixels: `get_scale_factor` of vae.hpp times
        `get_diffusion_model_down_factor` of stable-diffusion.cpp.
    encoders : tuple of str
        Text encoders that it needs to load and to generate sensible images, as keywords of `Engine`.
    one_of : tuple of str
        Text encoders of which it needs at least one: those that are missing count as zeros.
    has_autoencoder : bool
        Whether it needs an autoencoder. False: it works on pixels.
    is_video : bool
        Whether it generates videos only.
    video_inputs : tuple of str
        Those of `init_image`, `end_image` and `control_frames` that it reads. The engine ignores the others.
    is_unet : bool
        Whether it is a UNet, which takes ControlNets and embeddings.
    takes_references, takes_hint : bool
        Whether it reads `ref_images`, and whether it reads `control_image` without a ControlNet.
    has_ays : bool
        Whether the scheduler ``"ays"`` has a table for it.
    clip_layers : int or None
        Number of layers of its CLIP, of which `clip_skip` chooses one; of two CLIPs the smaller. None: it has none
        whose layers can be chosen.
    """

    name: str
    title: str
    pixel_multiple: int
    encoders: tuple[str, ...]
    one_of: tuple[str, ...] = ()
    has_autoencoder: bool = True
    is_video: bool = False
    is_unet: bool = False
    takes_references: bool = True
    takes_hint: bool = False
    has_ays: bool = False
    video_inputs: tuple[str, ...] = ()
    clip_layers: int | None = None

    @property
    def takes_embeddings(self) -> bool:
        """Whether textual inversion works; the engine mixes up the two buffers of Stable Diffusion XL."""
        return self.name in ("sd1", "sd2")

    @property
    def acting_caches(self) -> tuple[str, ...]:
        """Cache modes that have an effect, by `init_sample_cache_runtime` of sample-cache.cpp."""
        return (*_CACHES_OF_UNET, "spectrum") if self.is_unet else ("spectrum", *_CACHES_OF_DIT)

    @property
    def idle_caches(self) -> tuple[str, ...]:
        """Cache modes that have no effect."""
        return _CACHES_OF_DIT if self.is_unet else _CACHES_OF_UNET


_UNET = Architecture("", "", 64, ("clip_l",), is_unet=True, takes_references=False)
_TABLE = {
    item.name: item
    for item in (
        replace(_UNET, name="sd1", title="Stable Diffusion 1", has_ays=True, clip_layers=12),
        replace(_UNET, name="sd2", title="Stable Diffusion 2", clip_layers=24),
        replace(
            _UNET, name="sdxl", title="Stable Diffusion XL", encoders=("clip_l", "clip_g"), has_ays=True, clip_layers=12
        ),
        Architecture("svd", "Stable Video Diffusion", 64, (), is_video=True, has_ays=True),
        Architecture(
            "sd3", "Stable Diffusion 3", 8, (), ("clip_l", "clip_g", "t5xxl"), takes_references=False, clip_layers=12
        ),
        Architecture("flux", "FLUX.1", 8, ("clip_l", "t5xxl")),
        Architecture("chroma", "Chroma", 8, ("t5xxl",)),
        Architecture("chroma_radiance", "Chroma Radiance", 1, ("t5xxl",), has_autoencoder=False),
        Architecture("ovis_image", "Ovis-Image", 8, ("llm",)),
        Architecture("flux2", "FLUX.2", 16, ("llm",)),
        Architecture("qwen_image", "Qwen-Image", 8, ("llm",)),
        Architecture("anima", "Anima", 8, ("llm",)),
        Architecture("z_image", "Z-Image", 8, ("llm",)),
        Architecture("ernie_image", "ERNIE-Image", 16, ("llm",)),
        Architecture("wan", "Wan", 16, ("t5xxl",), is_video=True),
        Architecture("wan_ti2v", "Wan 2.2 TI2V", 32, ("t5xxl",), is_video=True, video_inputs=("init_image",)),
    )
}
FAMILIES: Mapping[str, Architecture] = _TABLE
"""What is known of each family, by its name."""

# Beginnings of tensor names that only one architecture has, the most specific first.
_MARKS = {
    "nerf_final_layer_conv.": "chroma_radiance",
    "joint_blocks.": "sd3",
    "transformer_blocks.0.img_mod.1.weight": "qwen_image",
    "llm_adapter.blocks.0.cross_attn.q_proj.weight": "anima",
    "double_blocks.0.img_mlp.gate_proj.weight": "ovis_image",
    "cap_embedder.0.weight": "z_image",
    "layers.0.adaLN_sa_ln.weight": "ernie_image",
    "input_blocks.8.0.time_mixer.mix_factor": "svd",
    "double_stream_modulation_img.lin.weight": "flux2",
    "distilled_guidance_layer.in_proj.weight": "chroma",
    "double_blocks.": "flux",
    "blocks.0.cross_attn.norm_k.weight": "wan",
}
_HINT_CHANNELS = (128, 196)  # of img_in, in FLUX.1 Control and Flex.2
_TI2V_CHANNELS, _I2V_CHANNELS = 147456, 184320  # of Wan's patch embedding: input channels times output channels


def identify(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """Identify the architecture of a diffusion model.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shapes, rows first, by tensor name without ``model.diffusion_model.``.

    Returns
    -------
    Architecture or None
        None if it is unknown.
    """
    for mark, name in _MARKS.items():
        if any(tensor.startswith(mark) for tensor in shapes):
            return _variant(_TABLE[name], shapes)
    return _unet(shapes)


def _variant(found: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    channels = shapes.get("img_in.weight", (0,))[-1]
    if found.name == "flux" and channels in _HINT_CHANNELS:
        return replace(found, takes_hint=True)
    return _wan(found, shapes) if found.name == "wan" else found


def _wan(found: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """Distinguish the variants of Wan as `WanRunner` of wan.hpp does."""
    first_last = ("init_image", "end_image")
    channels = math.prod(shapes.get("patch_embedding.weight", ())[:-3])
    if any(name.startswith("img_emb.") for name in shapes):
        return replace(found, title="Wan 2.1 I2V", encoders=("t5xxl", "clip_vision"), video_inputs=first_last)
    if channels == _TI2V_CHANNELS:
        return _TABLE["wan_ti2v"]
    if channels == _I2V_CHANNELS:
        return replace(found, title="Wan 2.2 I2V", video_inputs=first_last)
    if any(name.startswith("vace_blocks.") for name in shapes):
        return replace(found, title="Wan VACE", video_inputs=("init_image", "control_frames"))
    return found


def _unet(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    for name, shape in shapes.items():
        if name.startswith(("input_blocks.", "down_blocks.")) and name.endswith("attn2.to_k.weight") and len(shape) > 1:
            found = _TABLE.get(UNET_TEXT.get(shape[1], ""))
            if found is None:
                return None
            first = shapes.get("input_blocks.0.0.weight") or shapes.get("conv_in.weight") or (0, 0)
            return replace(found, takes_references=first[1:2] == (8,))  # InstructPix2Pix has 4 more, for an image
    return None
