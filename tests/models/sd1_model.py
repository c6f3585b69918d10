"""Models in the shape of Stable Diffusion 1.5 whose images show what is set.

The engine fixes the sizes of this family, so these have hundreds of millions of weights. All are zero, as holes of a
sparse file, but for one path through the network: the text's tokens and the last layer of CLIP, the U-Net's first
convolution and last block, ControlNet's way from the hint to that block. The tiny autoencoder is random throughout.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import full_size
import numpy as np
from full_size import SD1_UNET, Layout, Names, Shape, Values, residual, transformer, write_zeros
from safetensors.numpy import save_file
from tiny_model import CHANNELS, _Builder

UNET = "model.diffusion_model."
# What is not zero: names, and the standard deviation in units of one over the root of the inputs.
_ACTIVE = {
    r".*(token|position|patch)_embedding\.weight|.*token_embedding\.weight": 8.0,
    r".*layers\.11\.mlp\.fc2\.bias": 20.0,
    r".*time_embed\.[02]\.weight": 1.0,
    r".*input_blocks\.0\.0\.weight": 1.0,
    r".*LAST\.0\.(in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection)\.weight": 1.0,
    r".*LAST\.1\.(proj_in|proj_out|.*attn2\.to_.*)\.weight": 2.0,
    r".*LAST\.2\.conv\.weight": 1.0,
    r".*diffusion_model\.out\.2\.weight": 1.0,
    r".*(input_hint_block\.\d+|zero_convs\.0\.0)\.weight": 2.0,
    r"vision_model\.encoder\.layers\.0\.self_attn\.(v|out)_proj\.weight": 2.0,
    r"visual_projection(_2)?\.weight|fuse_module\.mlp[12]\.fc[12]\.weight": 2.0,
}
_NORMS = (
    r".*(final_layer_norm|ln_final|diffusion_model\.out\.0|LAST\.0\.(in|out)_layers\.0|LAST\.1\.(.*\.)?norm\d?)",
    r"vision_model\.(pre_layernorm|post_layernorm|encoder\.layers\.0\.layer_norm1)|fuse_module\..*(layernorm|layer_norm)",
)
_ONES = rf"({'|'.join(_NORMS)})\.weight"


def small() -> Layout:
    """Stable Diffusion 1 with the smallest U-Net that the engine knows, 320 million weights."""
    layout = Layout()
    full_size.clip(layout.named("text_encoder", "cond_stage_model.transformer."))
    names = layout.named("unet", UNET)
    names.linear("time_embed.0", "", 1280, 320)
    names.linear("time_embed.2", "", 1280, 1280)
    names.conv("input_blocks.0.0", "", 320, 4, 3)
    _block(names, "input_blocks.1", 320, 320)
    names.conv("input_blocks.3.0.op", "", 320, 320, 3)
    _block(names, "input_blocks.4", 320, 640)
    names.conv("input_blocks.6.0.op", "", 640, 640, 3)
    _block(names, "input_blocks.7", 640, 1280)
    _block(names, "output_blocks.0", 2560, 1280)
    _block(names, "output_blocks.1", 1920, 1280)
    names.conv("output_blocks.2.1.conv", "", 1280, 1280, 3)
    _block(names, "output_blocks.3", 1920, 640)
    _block(names, "output_blocks.4", 960, 640)
    names.conv("output_blocks.5.2.conv", "", 640, 640, 3)
    _block(names, "output_blocks.6", 960, 320)
    _block(names, "output_blocks.7", 640, 320)
    names.norm("out.0", "", 320)
    names.conv("out.2", "", 4, 320, 3)
    return layout


def _block(names: Names, name: str, inp: int, out: int) -> None:
    residual(names, f"{name}.0", "", inp, out, 1280)
    transformer(names, f"{name}.1", "", out, 1, SD1_UNET)


def whole(channels: int = 4) -> Layout:
    """Stable Diffusion 1.5; with 9 channels an inpainting model, with 8 InstructPix2Pix."""
    layout = full_size.sd1()
    layout.tensors[f"{UNET}input_blocks.0.0.weight"] = (320, channels, 3, 3)
    layout.tensors = {name: shape for name, shape in layout.tensors.items() if not name.startswith("first_stage")}
    return layout


def control_net() -> dict[str, Shape]:
    """ControlNet: the U-Net's first half, with a way in for the hint and ways out to the second half."""
    unet = {name.removeprefix(UNET): shape for name, shape in whole().tensors.items() if name.startswith(UNET)}
    tensors = {name: shape for name, shape in unet.items() if not name.startswith(("out.", "output_blocks."))}
    names = Layout().named("control", "")
    widths = (3, 16, 16, 32, 32, 96, 96, 256, 320)
    for i, (inp, out) in enumerate(itertools.pairwise(widths)):
        names.conv(f"input_hint_block.{2 * i}", "", out, inp, 3)
    for i, multiple in enumerate((1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4)):
        names.conv(f"zero_convs.{i}.0", "", 320 * multiple, 320 * multiple, 1)
    names.conv("middle_block_out.0", "", 1280, 1280, 1)
    return {f"control_model.{name}": shape for name, shape in {**tensors, **names.layout.tensors}.items()}


def write(
    tensors: Mapping[str, Shape], path: Path, last: str | None = None, changes: Mapping[str, Values] | None = None
) -> Path:
    """Write a model with the values that are not zero; `last` as for `values`, `changes` take the place of values."""
    return write_zeros(tensors, path, values(tensors, last) | dict(changes or {}))


def values(tensors: Mapping[str, Shape], last: str | None = None) -> dict[str, Values]:
    """The values that are not zero.

    `last` is a pattern for the blocks of the U-Net's path; None takes the last one of `small` or `whole`.
    """
    rng = np.random.default_rng(0)
    if last is None:
        last = rf"output_blocks\.{11 if f'{UNET}output_blocks.11.0.in_layers.0.weight' in tensors else 7}\."
    drawn = {name: _values(re.sub(last, "LAST.", name), shape, rng) for name, shape in tensors.items()}
    return {name: value for name, value in drawn.items() if value is not None}


def _values(name: str, shape: Shape, rng: np.random.Generator) -> Values | None:
    if re.fullmatch(_ONES, name):
        return np.ones(shape)
    for pattern, gain in _ACTIVE.items():
        if re.fullmatch(pattern, name):
            inputs = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
            return rng.standard_normal(shape, np.float32) * np.float32(gain * inputs**-0.5)
    return None


def write_taesd(path: Path, latent: int = 4, *, gain: float = 0.8) -> Path:
    """The tiny autoencoder of Stable Diffusion 1, or with 16 channels that of FLUX.1, made as the demonstration's."""
    b = _Builder(np.random.default_rng(1))

    def block(name: str) -> None:
        for j in (0, 2, 4):
            b.mirrored_conv(f"{name}.conv.{j}", CHANNELS, CHANNELS, 3)

    b.conv("encoder.layers.0", CHANNELS, 3, 3)
    block("encoder.layers.1")
    for first in (2, 6, 10):
        b.mirrored_conv(f"encoder.layers.{first}", CHANNELS, CHANNELS, 3, bias=None)
        for j in range(1, 4):
            block(f"encoder.layers.{first + j}")
    b.conv("encoder.layers.14", latent, CHANNELS, 3)

    b.split_conv("decoder.layers.0", CHANNELS, latent, 3)
    for first in (2, 7, 12):
        for j in range(3):
            block(f"decoder.layers.{first + j}")
        b.mirrored_conv(f"decoder.layers.{first + 4}", CHANNELS, CHANNELS, 3, bias=None)
    block("decoder.layers.17")
    b.joined_conv("decoder.layers.18", 3, CHANNELS, 3, bias=0.5, gain=gain)
    save_file(b.tensors, path)
    return path


def write_embedding(path: Path, dtype: str, stored: str | None = None) -> Path:
    """A textual-inversion embedding of two vectors, with the precision of `dtype`."""
    vectors = np.random.default_rng(2).standard_normal((2, 768)) * 8 * 768**-0.5
    save_file({"emb_params": vectors.astype(dtype).astype(stored or dtype)}, path)
    return path
