"""Checkpoints of zeros at full size, as sparse files, and the names of what adapters change in them.

Stable Diffusion 1.5 has 2.1 GB by name and SDXL 6.9 GB, under 2 MB on disk: right for checking tensor names, shapes and
LoRA key layouts where the image does not matter. As a program it writes one::

    python full_size.py sd1|sdxl FILE.safetensors
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

Shape = tuple[int, ...]
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Module:
    """A layer that adapters change.

    `part` is what diffusers calls the network ("unet", "text_encoder" or "text_encoder_2"), `name` the layer within it
    as diffusers has it, `original` as the checkpoint has it, and `shape` that of its weight. A norm has one dimension.
    """

    part: str
    name: str
    original: str
    shape: Shape
    bias: bool


@dataclass
class Layout:
    """The tensors of a checkpoint and the modules among them."""

    tensors: dict[str, Shape] = field(default_factory=dict)
    modules: list[Module] = field(default_factory=list)

    def write(self, path: Path) -> Path:
        return write_zeros(self.tensors, path)

    def select(self, part: str, *endings: str) -> list[Module]:
        """The modules of a part whose diffusers names end in one of `endings`."""
        return [module for module in self.modules if module.part == part and module.name.endswith(endings)]

    def named(self, part: str, prefix: str) -> Names:
        return Names(self, part, prefix)


@dataclass(frozen=True)
class Names:
    """Puts layers into a `Layout`, each under its name in the checkpoint and under diffusers' name."""

    layout: Layout
    part: str
    prefix: str  # in the checkpoint, before a module's original name

    def linear(self, original: str, name: str, out: int, inp: int, *, bias: bool = True) -> None:
        self._module(original, name, (out, inp), bias)

    def conv(self, original: str, name: str, out: int, inp: int, kernel: int) -> None:
        self._module(original, name, (out, inp, kernel, kernel), True)

    def norm(self, original: str, name: str, channels: int) -> None:
        self._module(original, name, (channels,), True)

    def tensor(self, name: str, *shape: int) -> None:
        """A tensor that no adapter changes."""
        self.layout.tensors[self.prefix + name] = shape

    def fused(self, original: str, names: Mapping[str, Shape]) -> None:
        """Modules of diffusers that the checkpoint keeps in one matrix, with torch's names of its two tensors."""
        rows = sum(shape[0] for shape in names.values())
        width = next(iter(names.values()))[1]
        self.tensor(f"{original}_weight", rows, width)
        self.tensor(f"{original}_bias", rows)
        self.layout.modules += [Module(self.part, name, original, shape, True) for name, shape in names.items()]

    def _module(self, original: str, name: str, shape: Shape, bias: bool) -> None:
        self.tensor(f"{original}.weight", *shape)
        if bias:
            self.tensor(f"{original}.bias", shape[0])
        self.layout.modules.append(Module(self.part, name, original, shape, bias))


def write_zeros(tensors: Mapping[str, Shape], path: Path, values: Mapping[str, Values] | None = None) -> Path:
    """Write zeros in half precision: a header, and a hole as long as the data, but for tensors that have values."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
        for name, value in (values or {}).items():
            assert value.shape == tensors[name], name
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(value.astype("<f2").tobytes())
    return path


@dataclass(frozen=True)
class UNet:
    """The sizes of a U-Net: `depths` counts the transformer blocks of each level, the last one's in the middle too."""

    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    linear_projection: bool
    label: int = 0
    base: int = 320


SD1_UNET = UNet((1, 2, 4, 4), (1, 1, 1, 0), 1, 768, linear_projection=False)
SDXL_UNET = UNet((1, 2, 4), (0, 2, 10), 10, 2048, linear_projection=True, label=2816)


def sd1() -> Layout:
    layout = Layout()
    clip(layout.named("text_encoder", "cond_stage_model.transformer."))
    unet(layout, SD1_UNET)
    autoencoder(layout)
    return layout


def sdxl() -> Layout:
    layout = sdxl_text()
    unet(layout, SDXL_UNET)
    autoencoder(layout)
    return layout


def sdxl_text() -> Layout:
    """The text encoders of SDXL alone."""
    layout = Layout()
    clip(layout.named("text_encoder", "conditioner.embedders.0.transformer."))
    open_clip(layout.named("text_encoder_2", "conditioner.embedders.1.model."))
    return layout


def clip(names: Names) -> None:
    """CLIP ViT-L/14's text encoder, with the names of transformers."""
    root = "text_model."
    names.tensor(root + "embeddings.token_embedding.weight", 49408, 768)
    names.tensor(root + "embeddings.position_embedding.weight", 77, 768)
    for i in range(12):
        layer = f"{root}encoder.layers.{i}."
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            names.linear(layer + name, layer + name, 768, 768)
        names.linear(layer + "mlp.fc1", layer + "mlp.fc1", 3072, 768)
        names.linear(layer + "mlp.fc2", layer + "mlp.fc2", 768, 3072)
        for name in ("layer_norm1", "layer_norm2"):
            names.norm(layer + name, layer + name, 768)
    names.norm(root + "final_layer_norm", root + "final_layer_norm", 768)


def open_clip(names: Names, width: int = 1280, layers: int = 32) -> None:
    """OpenCLIP ViT-bigG/14's text encoder, with the names of open_clip."""
    names.tensor("token_embedding.weight", 49408, width)
    names.tensor("positional_embedding", 77, width)
    for i in range(layers):
        original, name = f"transformer.resblocks.{i}.", f"text_model.encoder.layers.{i}."
        names.fused(original + "attn.in_proj", {f"{name}self_attn.{part}_proj": (width, width) for part in "qkv"})
        names.linear(original + "attn.out_proj", name + "self_attn.out_proj", width, width)
        names.linear(original + "mlp.c_fc", name + "mlp.fc1", 4 * width, width)
        names.linear(original + "mlp.c_proj", name + "mlp.fc2", width, 4 * width)
        names.norm(original + "ln_1", name + "layer_norm1", width)
        names.norm(original + "ln_2", name + "layer_norm2", width)
    names.norm("ln_final", "text_model.final_layer_norm", width)
    names.tensor("text_projection", width, width)
    names.tensor("logit_scale")


def unet(layout: Layout, sizes: UNet) -> None:
    names = layout.named("unet", "model.diffusion_model.")
    base, levels, time = sizes.base, len(sizes.multipliers), 4 * sizes.base

    names.linear("time_embed.0", "time_embedding.linear_1", time, base)
    names.linear("time_embed.2", "time_embedding.linear_2", time, time)
    if sizes.label:
        names.linear("label_emb.0.0", "add_embedding.linear_1", time, sizes.label)
        names.linear("label_emb.0.2", "add_embedding.linear_2", time, time)
    names.conv("input_blocks.0.0", "conv_in", base, 4, 3)
    skips, width, index = [base], base, 1
    for level, multiplier in enumerate(sizes.multipliers):
        block = f"down_blocks.{level}."
        for i in range(2):
            residual(names, f"input_blocks.{index}.0", f"{block}resnets.{i}", width, multiplier * base, time)
            width = multiplier * base
            if sizes.depths[level]:
                paths = f"input_blocks.{index}.1", f"{block}attentions.{i}"
                transformer(names, *paths, width, sizes.depths[level], sizes)
            skips.append(width)
            index += 1
        if level < levels - 1:
            names.conv(f"input_blocks.{index}.0.op", f"{block}downsamplers.0.conv", width, width, 3)
            skips.append(width)
            index += 1
    residual(names, "middle_block.0", "mid_block.resnets.0", width, width, time)
    transformer(names, "middle_block.1", "mid_block.attentions.0", width, sizes.middle_depth, sizes)
    residual(names, "middle_block.2", "mid_block.resnets.1", width, width, time)
    for up, level in enumerate(reversed(range(levels))):
        block = f"up_blocks.{up}."
        for i in range(3):
            index = 3 * up + i
            out = sizes.multipliers[level] * base
            residual(names, f"output_blocks.{index}.0", f"{block}resnets.{i}", width + skips.pop(), out, time)
            width, part = out, 1
            if sizes.depths[level]:
                paths = f"output_blocks.{index}.1", f"{block}attentions.{i}"
                transformer(names, *paths, width, sizes.depths[level], sizes)
                part = 2
            if level and i == 2:
                names.conv(f"output_blocks.{index}.{part}.conv", f"{block}upsamplers.0.conv", width, width, 3)
    names.norm("out.0", "conv_norm_out", base)
    names.conv("out.2", "conv_out", 4, base, 3)


def residual(names: Names, original: str, name: str, inp: int, out: int, time: int) -> None:
    names.norm(f"{original}.in_layers.0", f"{name}.norm1", inp)
    names.conv(f"{original}.in_layers.2", f"{name}.conv1", out, inp, 3)
    names.linear(f"{original}.emb_layers.1", f"{name}.time_emb_proj", out, time)
    names.norm(f"{original}.out_layers.0", f"{name}.norm2", out)
    names.conv(f"{original}.out_layers.3", f"{name}.conv2", out, out, 3)
    if inp != out:
        names.conv(f"{original}.skip_connection", f"{name}.conv_shortcut", out, inp, 1)


def transformer(names: Names, original: str, name: str, width: int, depth: int, sizes: UNet) -> None:
    def projection(part: str) -> None:
        if sizes.linear_projection:
            names.linear(f"{original}.{part}", f"{name}.{part}", width, width)
        else:
            names.conv(f"{original}.{part}", f"{name}.{part}", width, width, 1)

    names.norm(f"{original}.norm", f"{name}.norm", width)
    projection("proj_in")
    for i in range(depth):
        for part, out, inp, bias in attention_linears(width, sizes.context):
            part = f"transformer_blocks.{i}.{part}"
            names.linear(f"{original}.{part}", f"{name}.{part}", out, inp, bias=bias)
        for part in (f"transformer_blocks.{i}.norm{n}" for n in (1, 2, 3)):
            names.norm(f"{original}.{part}", f"{name}.{part}", width)
    projection("proj_out")


def attention_linears(width: int, context: int) -> Iterator[tuple[str, int, int, bool]]:
    """Name, outputs, inputs and bias of the linear layers in one transformer block."""
    for attn, keys in (("attn1", width), ("attn2", context)):
        yield f"{attn}.to_q", width, width, False
        yield f"{attn}.to_k", width, keys, False
        yield f"{attn}.to_v", width, keys, False
        yield f"{attn}.to_out.0", width, width, True
    yield "ff.net.0.proj", 8 * width, width, True
    yield "ff.net.2", width, 4 * width, True


def autoencoder(layout: Layout, *, base: int = 128, latent: int = 4) -> None:
    names = layout.named("vae", "first_stage_model.")
    multipliers = (1, 2, 4, 4)

    def conv(name: str, out: int, inp: int, kernel: int) -> None:
        names.conv(name, name, out, inp, kernel)

    def block(name: str, inp: int, out: int) -> None:
        names.norm(f"{name}.norm1", f"{name}.norm1", inp)
        conv(f"{name}.conv1", out, inp, 3)
        names.norm(f"{name}.norm2", f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out, 3)
        if inp != out:
            conv(f"{name}.nin_shortcut", out, inp, 1)

    def middle(name: str, width: int) -> None:
        block(f"{name}mid.block_1", width, width)
        names.norm(f"{name}mid.attn_1.norm", f"{name}mid.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}mid.attn_1.{part}", width, width, 1)
        block(f"{name}mid.block_2", width, width)

    width = base
    conv("encoder.conv_in", width, 3, 3)
    for level, multiplier in enumerate(multipliers):
        for i in range(2):
            block(f"encoder.down.{level}.block.{i}", width, base * multiplier)
            width = base * multiplier
        if level < 3:
            conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    middle("encoder.", width)
    names.norm("encoder.norm_out", "encoder.norm_out", width)
    conv("encoder.conv_out", 2 * latent, width, 3)

    conv("decoder.conv_in", width, latent, 3)
    middle("decoder.", width)
    for level in reversed(range(4)):
        for i in range(3):
            block(f"decoder.up.{level}.block.{i}", width, base * multipliers[level])
            width = base * multipliers[level]
        if level:
            conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    names.norm("decoder.norm_out", "decoder.norm_out", width)
    conv("decoder.conv_out", 3, width, 3)
    conv("quant_conv", 2 * latent, 2 * latent, 1)
    conv("post_quant_conv", latent, latent, 1)


if __name__ == "__main__":
    {"sd1": sd1, "sdxl": sdxl}[sys.argv[1]]().write(Path(sys.argv[2]))
