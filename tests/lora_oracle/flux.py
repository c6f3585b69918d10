"""FLUX.1, Chroma, Ovis-Image and FLUX.2: Black Forest Labs' layout and its descendants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    OvisImageTransformer2DModel,
)
from diffusers.loaders import single_file_utils as convert

from .family import Family
from .rows import Original

__all__ = ["FAMILIES"]

_WIDTH, _HEAD, _MLP = 3072, 128, 12288


def _embedder(original: Original, name: str, inputs: int, width: int, bias: bool = True) -> None:
    original.linear(f"{name}.in_layer", width, inputs, bias=bias)
    original.linear(f"{name}.out_layer", width, width, bias=bias)


def _attention(original: Original, name: str, width: int, bias: bool) -> None:
    original.linear(f"{name}.qkv", 3 * width, width, bias=bias)
    original.linear(f"{name}.proj", width, width, bias=bias)
    for norm in ("query_norm", "key_norm"):
        original.norm(f"{name}.norm.{norm}", _HEAD, bias=False, weight="scale")


def _blocks(original: Original, mlp: str, *, modulated: bool, bias: bool = True, width: int = _WIDTH) -> None:
    """Add two blocks of each kind; `mlp` is ``"plain"``, ``"gated"`` or ``"yak"`` (gate and up apart)."""
    hidden = 3 * width if mlp == "gated" else 4 * width
    factor = 1 if mlp == "plain" else 2
    for i in range(2):
        for part in ("img", "txt"):
            name = f"double_blocks.{i}.{part}"
            if modulated:
                original.linear(f"{name}_mod.lin", 6 * width, width)
            _attention(original, f"{name}_attn", width, bias)
            if mlp == "yak":
                original.linear(f"{name}_mlp.gate_proj", hidden, width)
                original.linear(f"{name}_mlp.up_proj", hidden, width)
                original.linear(f"{name}_mlp.down_proj", width, hidden)
            else:
                original.linear(f"{name}_mlp.0", factor * hidden, width, bias=bias)
                original.linear(f"{name}_mlp.2", width, hidden, bias=bias)
    for i in range(2):
        name = f"single_blocks.{i}"
        if modulated:
            original.linear(f"{name}.modulation.lin", 3 * width, width)
        original.linear(f"{name}.linear1", 3 * width + factor * hidden, width, bias=bias)
        original.linear(f"{name}.linear2", width, width + hidden, bias=bias)
        for norm in ("query_norm", "key_norm"):
            original.norm(f"{name}.norm.{norm}", _HEAD, bias=False, weight="scale")


def _flux() -> Original:
    original = Original()
    original.linear("img_in", _WIDTH, 64)
    original.linear("txt_in", _WIDTH, 4096)
    _embedder(original, "time_in", 256, _WIDTH)
    _embedder(original, "vector_in", 768, _WIDTH)
    _embedder(original, "guidance_in", 256, _WIDTH)
    _blocks(original, "plain", modulated=True)
    original.linear("final_layer.linear", 64, _WIDTH)
    original.linear("final_layer.adaLN_modulation.1", 2 * _WIDTH, _WIDTH)
    return original


def _chroma() -> Original:
    original = Original()
    original.linear("img_in", _WIDTH, 64)
    original.linear("txt_in", _WIDTH, 4096)
    original.linear("distilled_guidance_layer.in_proj", 5120, 64)
    for i in range(5):
        _embedder(original, f"distilled_guidance_layer.layers.{i}", 5120, 5120)
        original.norm(f"distilled_guidance_layer.norms.{i}", 5120, bias=False, weight="scale")
    original.linear("distilled_guidance_layer.out_proj", _WIDTH, 5120)
    _blocks(original, "plain", modulated=False)
    original.linear("final_layer.linear", 64, _WIDTH)
    return original


def _flux2() -> Original:
    original, width = Original(), 6144
    original.linear("img_in", width, 128, bias=False)
    original.linear("txt_in", width, 15360, bias=False)
    _embedder(original, "time_in", 256, width, bias=False)
    _embedder(original, "guidance_in", 256, width, bias=False)
    for name, factor in (
        ("double_stream_modulation_img", 6),
        ("double_stream_modulation_txt", 6),
        ("single_stream_modulation", 3),
    ):
        original.linear(f"{name}.lin", factor * width, width, bias=False)
    _blocks(original, "gated", modulated=False, bias=False, width=width)
    original.linear("final_layer.linear", 128, width, bias=False)
    original.linear("final_layer.adaLN_modulation.1", 2 * width, width, bias=False)
    return original


def _ovis() -> Original:
    original = Original()
    original.linear("img_in", _WIDTH, 64)
    original.norm("txt_norm", 2048, bias=False, weight="scale")
    original.linear("txt_in", _WIDTH, 2048)
    _embedder(original, "time_in", 256, _WIDTH)
    _blocks(original, "yak", modulated=True)
    original.linear("final_layer.linear", 64, _WIDTH)
    original.linear("final_layer.adaLN_modulation.1", 2 * _WIDTH, _WIDTH)
    return original


def _convert_ovis(checkpoint: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Convert as FLUX.1, which Ovis-Image is but for its MLPs.

    diffusers' `FeedForward("swiglu")` computes ``hidden, gate = proj(x).chunk(2)``, the original
    ``down_proj(silu(gate_proj(x)) * up_proj(x))``; single blocks keep the mlp's rows in the original's order.
    """
    left = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in checkpoint.items()}
    found: dict[str, Any] = {"context_embedder_norm.weight": left.pop("txt_norm.scale")}
    for name in [name for name in left if name.startswith("double_blocks.") and "_mlp." in name]:
        if name not in left:
            continue
        _, block, part, _, kind = name.split(".")
        base, old = (
            f"transformer_blocks.{block}.ff{'_context' if part[:3] == 'txt' else ''}",
            f"double_blocks.{block}.{part}",
        )
        up, gate = left.pop(f"{old}.up_proj.{kind}"), left.pop(f"{old}.gate_proj.{kind}")
        found[f"{base}.net.0.proj.{kind}"] = torch.cat([up, gate])
        found[f"{base}.net.2.{kind}"] = left.pop(f"{old}.down_proj.{kind}")
    singles = {name: left.pop(name) for name in list(left) if ".linear1." in name}
    for name, tensor in singles.items():
        base, kind = f"single_transformer_blocks.{name.split('.')[1]}", name.rsplit(".", 1)[1]
        parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        for part, rows in zip(parts, tensor.split([_WIDTH] * 3 + [2 * _MLP]), strict=True):
            found[f"{base}.{part}.{kind}"] = rows
    # What FLUX.1 has and Ovis-Image lacks, for its converter alone.
    lent = _flux().numbered()
    mine = left.keys()
    everything = {name: left.get(name, tensor) for name, tensor in lent.items()}
    if mine - everything.keys():
        raise ValueError(f"unknown: {mine - everything.keys()}")
    of_flux = convert.convert_flux_transformer_checkpoint_to_diffusers(everything)
    lost = (".text_embedder.", ".guidance_embedder.", ".ff.", ".ff_context.")
    for name, tensor in of_flux.items():
        single = name.startswith("single_") and any(
            part in name for part in (".to_q.", ".to_k.", ".to_v.", ".proj_mlp.")
        )
        if not single and not any(part in name for part in lost):
            found[name.replace("time_text_embed.", "")] = tensor
    return found


_TWO = {"num_layers": 2, "num_single_layers": 2}
FAMILIES = (
    Family(
        "flux",
        _flux,
        lambda: FluxTransformer2DModel(**_TWO, guidance_embeds=True),
        convert.convert_flux_transformer_checkpoint_to_diffusers,
    ),
    Family(
        "chroma",
        _chroma,
        lambda: ChromaTransformer2DModel(**_TWO),
        convert.convert_chroma_transformer_checkpoint_to_diffusers,
    ),
    Family(
        "flux2",
        _flux2,
        lambda: Flux2Transformer2DModel(**_TWO),
        convert.convert_flux2_transformer_checkpoint_to_diffusers,
        prefix="",
    ),
    Family(
        "ovis_image",
        _ovis,
        lambda: OvisImageTransformer2DModel(**_TWO),
        _convert_ovis,
        source="diffusers' classes and its converter of FLUX.1; MLPs by diffusers' and the author's code",
    ),
)
