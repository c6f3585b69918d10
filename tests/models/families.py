"""A small model with random weights of each family that the engine knows, in the names of the original files.

`FAMILIES` has a writer for each. Every kind of layer of a family is there at least once and has an effect on the image,
but for what only the text reaches where the text encoder is T5: it is left out, so the prompt is zeros, and what
multiplies it (`txt_in.weight`, `text_embedding.0.weight`) has no effect. `text_models` has small models with T5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import sd1_model
import sdxl_model
import text_shapes
import tiny_model
import transformer_shapes
import wan_model
from full_size import Layout, UNet
from sparse import SIGNAL, Shapes, random_rows, write_random

from sdcffi import ContextParams

IMAGE: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 1}
VIDEO: dict[str, Any] = {**IMAGE, "video_frames": 1}
_PREFIX = "model.diffusion_model."
SD2 = UNet((1, 2, 4, 4), (1, 1, 1, 0), 1, 1024, linear_projection=True)


@dataclass(frozen=True)
class FamilyModel:
    """A model of one family.

    Attributes
    ----------
    engine, call : mapping
        Keywords of `Engine`, and of `generate` or `generate_video` beside the prompt.
    weights : Path
        The safetensors file with the diffusion model's weights that have values. Where the engine wants many more
        blocks than one, those are zeros in another file.
    prefix : str
        What the names in `weights` lack of the engine's names.
    """

    family: str
    engine: Mapping[str, Any]
    call: Mapping[str, Any]
    is_video: bool
    weights: Path
    prefix: str = ""
    text: Mapping[str, Path] = field(default_factory=dict)


def _unet(family: str, layout: Layout, directory: Path, gain: float) -> FamilyModel:
    tensors = {name: shape for name, shape in layout.tensors.items() if not name.startswith("first_stage_model.")}
    path = write_random(tensors, directory / f"{family}.safetensors", gain=gain)
    engine = {"model": path, "taesd": sd1_model.write_taesd(directory / "taesd.safetensors", gain=0.3)}
    return FamilyModel(family, engine, IMAGE, False, path)


def sd1(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    return _unet("sd1", full_size.sd1(), directory, gain)


def sd2(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    layout = Layout()
    full_size.open_clip(layout.named("text_encoder", "cond_stage_model.model."), 1024, 24)
    full_size.unet(layout, SD2)
    return _unet("sd2", layout, directory, gain)


def sdxl(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    """Segmind-Vega, the smallest of this kind: no attention in the middle block."""
    return _unet("sdxl", sdxl_model.vega(), directory, gain)


def _transformer(
    family: str,
    shapes: Shapes,
    directory: Path,
    *,
    gain: float,
    width: int = 0,
    zeros: Callable[[str], bool] | None = None,
    text: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
    **engine: Any,
) -> FamilyModel:
    """Write a transformer and its text encoders.

    `width` is that of its tokens, where that is large, and `zeros` tells the names that go into a file of zeros.
    """
    kept = {name: shape for name, shape in shapes.items() if not (zeros and zeros(name))}
    weights = write_random(kept, directory / f"{family}.safetensors", width=width, gain=gain)
    encoders = {
        key: write_random(encoder, directory / f"{family}-{key}.safetensors", gain=gain)
        for key, encoder in (text or {}).items()
    }
    if zeros:
        rest = ((_PREFIX + name, shape) for name, shape in shapes.items() if zeros(name))
        engine["model"] = _write_zeros(rest, directory / f"{family}-zeros.gguf")
    engine = {"diffusion_model": weights, **encoders, **engine}
    is_video = family.startswith("wan")
    return FamilyModel(family, engine, VIDEO if is_video else IMAGE, is_video, weights, _PREFIX, encoders)


def _write_zeros(shapes: Iterable[tuple[str, tuple[int, ...]]], path: Path) -> Path:
    """Blocks that change nothing: matrices of Q2_K, which take a sixth of the memory."""
    weights = wan_model.Weights(0, wan_model.Q2_K)
    for name, shape in shapes:
        weights.tensors[name] = shape if len(shape) == 2 and shape[0] > 1 else np.zeros(shape, np.float32)
    return weights.write(path)


def _taesd(directory: Path, channels: int) -> Path:
    return sd1_model.write_taesd(directory / f"taesd{channels}.safetensors", channels, gain=0.5)


def _taehv(directory: Path, size: wan_model.Size = wan_model.WAN21) -> Path:
    gain, brightness = (0.5, 0.5) if size is wan_model.TI2V else (0.35, 0.3)
    return wan_model.write_autoencoder(directory / f"taehv{size.latent}.gguf", size, gain=gain, brightness=brightness)


def flux(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    text = {"clip_l": text_shapes.clip_l(), "t5xxl": text_shapes.NO_T5}
    return _transformer("flux", transformer_shapes.flux(), directory, gain=gain, text=text, taesd=_taesd(directory, 16))


def chroma(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    """The mask of the prompt is off: without T5 it hides all of the text."""
    text = {"t5xxl": text_shapes.NO_T5}
    taesd = _taesd(directory, 16)
    return _transformer(
        "chroma",
        transformer_shapes.chroma(),
        directory,
        gain=gain,
        text=text,
        taesd=taesd,
        context=ContextParams(chroma_use_dit_mask=False),
    )


def ovis(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    text = {"llm": text_shapes.qwen3(transformer_shapes.TEXT)}
    return _transformer("ovis", transformer_shapes.ovis(), directory, gain=gain, text=text, taesd=_taesd(directory, 16))


def flux2(directory: Path) -> FamilyModel:
    model = tiny_model.write_model(directory)
    return FamilyModel("flux2", model.engine_arguments(), IMAGE, False, model.diffusion_model, "", {"llm": model.llm})


def sd3(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    """Stable Diffusion 3.5 medium at the least depth.

    Block 0 has a second attention, block 23 lacks half its layers, and the others are zeros.
    """
    kept = ("joint_blocks.0.", "joint_blocks.23.")
    return _transformer(
        "sd3",
        transformer_shapes.sd3(dual=1),
        directory,
        gain=gain,
        width=1536,
        zeros=lambda name: name.startswith("joint_blocks.") and not name.startswith(kept),
        text={"clip_l": text_shapes.clip_l()},
        clip_g=_clip_g(directory / "clip_g.gguf"),
        taesd=_taesd(directory, 16),
    )


def _clip_g(path: Path) -> Path:
    """The text encoder without which the engine cannot join the pooled texts: blind to words but for their places."""
    shapes, weights = text_shapes.clip_g(), wan_model.Weights(3, wan_model.Q2_K)
    rng = np.random.default_rng(3)
    for name, shape in shapes.items():
        zeros = "token_embedding" in name or (".layers." in name and ".layers.0." not in name)
        if zeros and len(shape) == 2:
            weights.tensors[name] = shape
        else:
            value = np.zeros(shape, np.float32 if len(shape) == 1 else np.float16)
            for first, rows in [] if zeros else random_rows(name, shape, rng):
                value[first : first + len(rows)] = rows
            weights.tensors[name] = value
    return weights.write(path)


def qwen_image(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    """Two blocks, as the last one's text leads nowhere; the second's feed-forwards are zeros but for biases."""
    shapes = transformer_shapes.qwen_image(layers=2)
    second = re.compile(r"transformer_blocks\.1\.(img|txt)_mlp\..*weight")
    return _transformer(
        "qwen_image",
        shapes,
        directory,
        gain=gain,
        width=3072,
        zeros=lambda name: second.fullmatch(name) is not None,
        text={"llm": text_shapes.qwen2_vl()},
        taesd=_taehv(directory),
    )


def z_image(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    text = {"llm": text_shapes.qwen3(2560)}
    kept = ("layers.0.", "noise_refiner.0.", "context_refiner.0.")
    return _transformer(
        "z_image",
        transformer_shapes.z_image(),
        directory,
        gain=gain,
        width=3840,
        zeros=lambda name: name.startswith(("layers.", "noise_", "context_")) and not name.startswith(kept),
        text=text,
        taesd=_taesd(directory, 16),
    )


def anima(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    text = {"llm": text_shapes.qwen3(1024)}
    taesd = _taehv(directory)
    return _transformer("anima", transformer_shapes.anima(), directory, gain=gain, width=2048, text=text, taesd=taesd)


def ernie(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    """The engine has no tiny autoencoder for it: this one is FLUX.2's, a quarter as wide."""
    text = {"llm": text_shapes.ministral(transformer_shapes.TEXT)}
    decoder, encoder = Layout(), Layout()
    full_size.autoencoder(decoder, base=32, latent=32)
    full_size.autoencoder(encoder, latent=32)  # its width is fixed
    tensors = {**encoder.tensors, **{name: shape for name, shape in decoder.tensors.items() if ".decoder." in name}}
    tensors = {name.partition(".")[2]: shape for name, shape in tensors.items()}
    vae = write_random(tensors, directory / "vae.safetensors")
    shapes = transformer_shapes.ernie()
    name = "x_embedder.proj.weight"  # read before the head's width, which is divided by the width that it tells
    first = write_random({_PREFIX + name: shapes[name]}, directory / "ernie-width.safetensors")
    return _transformer("ernie", shapes, directory, gain=gain, text=text, vae=vae, model=first)


def _wan(family: str, directory: Path, shapes: Shapes, size: wan_model.Size, gain: float, **engine: Any) -> FamilyModel:
    taesd = _taehv(directory, size)
    return _transformer(
        family,
        shapes,
        directory,
        gain=gain,
        width=size.dim,
        zeros=lambda name: name.startswith("blocks.") and not name.startswith("blocks.0."),
        text={"t5xxl": text_shapes.NO_T5},
        taesd=taesd,
        **engine,
    )


def wan_t2v(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    return _wan("wan_t2v", directory, transformer_shapes.wan(), wan_model.WAN21, gain)


def wan_i2v(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    vision = wan_model.write_vision(directory / "vision.gguf")
    model = _wan("wan_i2v", directory, transformer_shapes.wan(i2v=True), wan_model.WAN21, gain, clip_vision=vision)
    rng = np.random.default_rng(0)
    start = rng.integers(0, 256, (64, 64, 3), np.uint8)
    return FamilyModel(**{**vars(model), "call": {**model.call, "init_image": start}})


def wan_ti2v(directory: Path, gain: float = SIGNAL) -> FamilyModel:
    shapes = transformer_shapes.wan(transformer_shapes.TI2V, latent=48)
    return _wan("wan_ti2v", directory, shapes, wan_model.TI2V, gain)


FAMILIES: Mapping[str, Callable[..., FamilyModel]] = {
    write.__name__: write
    for write in (
        *(sd1, sd2, sdxl, sd3, flux, chroma, flux2, ovis, qwen_image, z_image, anima, ernie),
        *(wan_t2v, wan_i2v, wan_ti2v),
    )
}
