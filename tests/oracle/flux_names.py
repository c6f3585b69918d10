"""Black Forest Labs' names as diffusers has them, for FLUX.1, Chroma and Ovis-Image of any width.

diffusers' converters take the published widths for granted.
"""

from __future__ import annotations

import re

import torch

from .files import Weights

__all__ = ["renamed"]

_EMBEDDERS = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
}
_DOUBLE = {
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "img_mlp.down_proj": "ff.net.2",
    "txt_mlp.down_proj": "ff_context.net.2",
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
}
_SINGLE = {
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "modulation.lin": "norm.linear",
}
_QKV = {"img": ("to_q", "to_k", "to_v"), "txt": ("add_q_proj", "add_k_proj", "add_v_proj")}


def renamed(weights: Weights, width: int) -> Weights:
    """Return the weights under diffusers' names; what is neither in a block nor an embedder keeps its own."""
    found: Weights = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        kind = "weight" if kind == "scale" else kind
        block = re.fullmatch(r"(double|single)_blocks\.(\d+)\.(.*)", module)
        if module == "final_layer.adaLN_modulation.1":
            shift, scale = value.chunk(2)
            found[f"norm_out.linear.{kind}"] = torch.cat([scale, shift])
        elif not block:
            found[f"{_EMBEDDERS.get(module, module)}.{kind}"] = value
        elif block[1] == "double":
            _double(found, f"transformer_blocks.{block[2]}", block[3], kind, value, weights, name)
        else:
            _single(found, f"single_transformer_blocks.{block[2]}", block[3], kind, value, width)
    return found


def _double(
    found: Weights, block: str, layer: str, kind: str, value: torch.Tensor, weights: Weights, name: str
) -> None:
    stream = layer[:3]
    if layer.endswith("_attn.qkv"):
        for part, rows in zip(_QKV[stream], value.chunk(3), strict=True):
            found[f"{block}.attn.{part}.{kind}"] = rows
    elif layer.endswith("_mlp.gate_proj"):  # diffusers' SwiGLU: hidden, gate = proj(x).chunk(2)
        up = weights[name.replace("gate_proj", "up_proj")]
        found[f"{block}.ff{'_context' if stream == 'txt' else ''}.net.0.proj.{kind}"] = torch.cat([up, value])
    elif not layer.endswith("_mlp.up_proj"):
        found[f"{block}.{_DOUBLE[layer]}.{kind}"] = value


def _single(found: Weights, block: str, layer: str, kind: str, value: torch.Tensor, width: int) -> None:
    if layer == "linear1":
        rest = len(value) - 3 * width
        parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        for part, rows in zip(parts, value.split([width] * 3 + [rest]), strict=True):
            found[f"{block}.{part}.{kind}"] = rows
    else:
        found[f"{block}.{_SINGLE[layer]}.{kind}"] = value
