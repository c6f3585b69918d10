"""The UNets of Stable Diffusion 1, 2 and XL in CompVis' layout (`openaimodel.UNetModel`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from .family import Family
from .rows import Original

__all__ = ["FAMILIES"]

_CHANNELS = 320
_TIME = 4 * _CHANNELS


@dataclass(frozen=True)
class _Layout:
    """`openaimodel.UNetModel`'s configuration: `depths` are transformer blocks by level."""

    multipliers: Sequence[int]
    depths: Sequence[int]
    middle: int
    text: int
    linear: bool
    pooled: int = 0

    def original(self) -> Original:
        """Return the checkpoint."""
        original = Original()
        original.linear("time_embed.0", _TIME, _CHANNELS)
        original.linear("time_embed.2", _TIME, _TIME)
        if self.pooled:
            original.linear("label_emb.0.0", _TIME, self.pooled)
            original.linear("label_emb.0.2", _TIME, _TIME)
        original.linear("input_blocks.0.0", _CHANNELS, 4, 3, 3)
        channels, index, skips = _CHANNELS, 1, [_CHANNELS]
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(2):
                width = multiplier * _CHANNELS
                self._resnet(original, f"input_blocks.{index}.0", channels, width)
                self._transformer(original, f"input_blocks.{index}.1", width, self.depths[level])
                channels, index = width, index + 1
                skips.append(channels)
            if level < len(self.multipliers) - 1:
                original.linear(f"input_blocks.{index}.0.op", channels, channels, 3, 3)
                index += 1
                skips.append(channels)
        self._resnet(original, "middle_block.0", channels, channels)
        self._transformer(original, "middle_block.1", channels, self.middle)
        self._resnet(original, "middle_block.2", channels, channels)
        index = 0
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for step in range(3):
                width = multiplier * _CHANNELS
                self._resnet(original, f"output_blocks.{index}.0", channels + skips.pop(), width)
                self._transformer(original, f"output_blocks.{index}.1", width, self.depths[level])
                if step == 2 and level:
                    at = 2 if self.depths[level] else 1
                    original.linear(f"output_blocks.{index}.{at}.conv", width, width, 3, 3)
                channels, index = width, index + 1
        original.norm("out.0", channels)
        original.linear("out.2", 4, channels, 3, 3)
        return original

    def _resnet(self, original: Original, name: str, inputs: int, outputs: int) -> None:
        original.norm(f"{name}.in_layers.0", inputs)
        original.linear(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        original.linear(f"{name}.emb_layers.1", outputs, _TIME)
        original.norm(f"{name}.out_layers.0", outputs)
        original.linear(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            original.linear(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def _transformer(self, original: Original, name: str, width: int, depth: int) -> None:
        if not depth:
            return
        kernel = () if self.linear else (1, 1)
        original.norm(f"{name}.norm", width)
        original.linear(f"{name}.proj_in", width, width, *kernel)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for attention, context in (("attn1", width), ("attn2", self.text)):
                original.linear(f"{block}.{attention}.to_q", width, width, bias=False)
                original.linear(f"{block}.{attention}.to_k", width, context, bias=False)
                original.linear(f"{block}.{attention}.to_v", width, context, bias=False)
                original.linear(f"{block}.{attention}.to_out.0", width, width)
            original.linear(f"{block}.ff.net.0.proj", 8 * width, width)
            original.linear(f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                original.norm(f"{block}.{norm}", width)
        original.linear(f"{name}.proj_out", width, width, *kernel)

    def model(self) -> torch.nn.Module:
        """Return diffusers' UNet of the same layout."""
        down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in self.depths]
        up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(self.depths)]
        keywords: dict[str, Any] = {}
        if self.pooled:
            keywords = {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": self.pooled,
                "transformer_layers_per_block": [max(1, depth) for depth in self.depths],
            }
        return UNet2DConditionModel(
            block_out_channels=[multiplier * _CHANNELS for multiplier in self.multipliers],
            down_block_types=down,
            up_block_types=up,
            cross_attention_dim=self.text,
            attention_head_dim=8 if self.text == 768 else [5, 10, 20, 20][: len(down)],
            use_linear_projection=self.linear,
            **keywords,
        )

    def family(self, name: str) -> Family:
        """Return the family."""
        config = {"layers_per_block": 2, "addition_embed_type": "text_time" if self.pooled else None}
        return Family(name, self.original, self.model, convert_ldm_unet_checkpoint, config=config)


FAMILIES = (
    _Layout((1, 2, 4, 4), (1, 1, 1, 0), 1, 768, linear=False).family("sd1"),
    _Layout((1, 2, 4, 4), (1, 1, 1, 0), 1, 1024, linear=True).family("sd2"),
    _Layout((1, 2, 4), (0, 2, 10), 10, 2048, linear=True, pooled=2816).family("sdxl"),
)
