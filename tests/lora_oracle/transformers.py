"""Stable Diffusion 3, Wan, Z-Image, Qwen-Image, ERNIE-Image and Anima."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    AnimaTextConditioner,
    CosmosTransformer3DModel,
    ErnieImageTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
    ZImageTransformer2DModel,
)
from diffusers.loaders import single_file_utils as convert

from .family import Family
from .rows import Original

__all__ = ["FAMILIES"]


def _sd3() -> Original:
    """Return Stable Diffusion 3.5 medium's layout: three blocks, the first with a second attention."""
    original, width = Original(), 1536
    original.add("pos_embed", 1, 384 * 384, width)
    original.linear("x_embedder.proj", width, 16, 2, 2)
    original.linear("t_embedder.mlp.0", width, 256)
    original.linear("t_embedder.mlp.2", width, width)
    original.linear("y_embedder.mlp.0", width, 2048)
    original.linear("y_embedder.mlp.2", width, width)
    original.linear("context_embedder", width, 4096)
    for i in range(3):
        for part in ("x_block", "context_block"):
            name = f"joint_blocks.{i}.{part}"
            last = i == 2 and part == "context_block"
            twice = i == 0 and part == "x_block"
            for attention in ("attn", "attn2") if twice else ("attn",):
                original.linear(f"{name}.{attention}.qkv", 3 * width, width)
                original.norm(f"{name}.{attention}.ln_q", 64, bias=False)
                original.norm(f"{name}.{attention}.ln_k", 64, bias=False)
                if not last:
                    original.linear(f"{name}.{attention}.proj", width, width)
            original.linear(f"{name}.adaLN_modulation.1", (2 if last else 9 if twice else 6) * width, width)
            if not last:
                original.linear(f"{name}.mlp.fc1", 4 * width, width)
                original.linear(f"{name}.mlp.fc2", width, 4 * width)
    original.linear("final_layer.linear", 64, width)
    original.linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return original


def _sd3_model() -> torch.nn.Module:
    return SD3Transformer2DModel(
        sample_size=128, num_layers=3, num_attention_heads=24, attention_head_dim=64, caption_projection_dim=1536,
        pooled_projection_dim=2048, pos_embed_max_size=384, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def _wan(image: bool = False, vace: bool = False) -> Original:
    original, width, hidden = Original(), 1536, 8960
    original.linear("patch_embedding", width, 36 if image else 16, 1, 2, 2)
    original.linear("text_embedding.0", width, 4096)
    original.linear("text_embedding.2", width, width)
    original.linear("time_embedding.0", width, 256)
    original.linear("time_embedding.2", width, width)
    original.linear("time_projection.1", 6 * width, width)
    for name in [f"blocks.{i}" for i in range(2)] + [f"vace_blocks.{i}" for i in range(2) if vace]:
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                original.linear(f"{name}.{attention}.{part}", width, width)
            for norm in ("norm_q", "norm_k"):
                original.norm(f"{name}.{attention}.{norm}", width, bias=False)
        if image:
            original.linear(f"{name}.cross_attn.k_img", width, width)
            original.linear(f"{name}.cross_attn.v_img", width, width)
            original.norm(f"{name}.cross_attn.norm_k_img", width, bias=False)
        original.norm(f"{name}.norm3", width)
        original.linear(f"{name}.ffn.0", hidden, width)
        original.linear(f"{name}.ffn.2", width, hidden)
        original.add(f"{name}.modulation", 1, 6, width)
        if name == "vace_blocks.0":
            original.linear(f"{name}.before_proj", width, width)
        if name.startswith("vace"):
            original.linear(f"{name}.after_proj", width, width)
    if vace:
        original.linear("vace_patch_embedding", width, 96, 1, 2, 2)
    if image:
        original.norm("img_emb.proj.0", 1280)
        original.linear("img_emb.proj.1", 1280, 1280)
        original.linear("img_emb.proj.3", width, 1280)
        original.norm("img_emb.proj.4", width)
    original.linear("head.head", 64, width)
    original.add("head.modulation", 1, 2, width)
    return original


_WAN = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 2}


def _z_image() -> Original:
    original, width, hidden = Original(), 3840, 10240
    original.linear("x_embedder", width, 64)
    original.linear("t_embedder.mlp.0", 1024, 256)
    original.linear("t_embedder.mlp.2", 256, 1024)
    original.norm("cap_embedder.0", 2560, bias=False)
    original.linear("cap_embedder.1", width, 2560)
    original.add("x_pad_token", 1, width)
    original.add("cap_pad_token", 1, width)
    for kind in ("noise_refiner", "context_refiner", "layers"):
        for i in range(2):
            name = f"{kind}.{i}"
            original.linear(f"{name}.attention.qkv", 3 * width, width, bias=False)
            original.linear(f"{name}.attention.out", width, width, bias=False)
            original.norm(f"{name}.attention.q_norm", 128, bias=False)
            original.norm(f"{name}.attention.k_norm", 128, bias=False)
            for part, outputs, inputs in (("w1", hidden, width), ("w2", width, hidden), ("w3", hidden, width)):
                original.linear(f"{name}.feed_forward.{part}", outputs, inputs, bias=False)
            for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                original.norm(f"{name}.{norm}", width, bias=False)
            if kind != "context_refiner":
                original.linear(f"{name}.adaLN_modulation.0", 4 * width, 256)
    original.linear("final_layer.linear", 64, width)
    original.linear("final_layer.adaLN_modulation.1", width, 256)
    return original


def _z_image_model() -> torch.nn.Module:
    return ZImageTransformer2DModel(n_layers=2)


def _same(model: Any) -> Original:
    """Return the checkpoint of a family whose authors published diffusers' names."""
    with torch.device("meta"):
        return Original({name: tuple(tensor.shape) for name, tensor in model().state_dict().items()})


def _without_prefix(checkpoint: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model.diffusion_model."): tensor for name, tensor in checkpoint.items()}


def _qwen_model() -> torch.nn.Module:
    return QwenImageTransformer2DModel(num_layers=2)


def _ernie_model() -> torch.nn.Module:
    return ErnieImageTransformer2DModel(num_layers=2)


def _anima() -> Original:
    """Return Anima's layout: Cosmos-Predict2 2B and an adapter, which diffusers keeps as a model of its own."""
    original, width, low = Original(), 2048, 256
    original.linear("x_embedder.proj.1", width, 17 * 4, bias=False)
    original.linear("t_embedder.1.linear_1", width, width, bias=False)
    original.linear("t_embedder.1.linear_2", 3 * width, width, bias=False)
    original.norm("t_embedding_norm", width, bias=False)
    for i in range(2):
        name = f"blocks.{i}"
        for attention, context in (("self_attn", width), ("cross_attn", 1024)):
            original.linear(f"{name}.{attention}.q_proj", width, width, bias=False)
            original.linear(f"{name}.{attention}.k_proj", width, context, bias=False)
            original.linear(f"{name}.{attention}.v_proj", width, context, bias=False)
            original.linear(f"{name}.{attention}.output_proj", width, width, bias=False)
            for norm in ("q_norm", "k_norm"):
                original.norm(f"{name}.{attention}.{norm}", 128, bias=False)
        original.linear(f"{name}.mlp.layer1", 4 * width, width, bias=False)
        original.linear(f"{name}.mlp.layer2", width, 4 * width, bias=False)
        for part in ("self_attn", "cross_attn", "mlp"):
            original.linear(f"{name}.adaln_modulation_{part}.1", low, width, bias=False)
            original.linear(f"{name}.adaln_modulation_{part}.2", 3 * width, low, bias=False)
    original.linear("final_layer.linear", 64, width, bias=False)
    original.linear("final_layer.adaln_modulation.1", low, width, bias=False)
    original.linear("final_layer.adaln_modulation.2", 2 * width, low, bias=False)
    with torch.device("meta"):
        for name, tensor in AnimaTextConditioner(num_layers=2).state_dict().items():
            original.add(f"llm_adapter.{name}", *tensor.shape)
    return original


def _cosmos() -> torch.nn.Module:
    return CosmosTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=16, attention_head_dim=128, num_layers=2, mlp_ratio=4.0,
        text_embed_dim=1024, adaln_lora_dim=256, extra_pos_embed_type=None, concat_padding_mask=True,
    )  # fmt: skip


class _Anima(torch.nn.Module):
    """diffusers' two models, under the prefix that a LoRA has for the second (AnimaLoraLoaderMixin)."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer, self.text_conditioner = _cosmos(), AnimaTextConditioner(num_layers=2)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        names = super().state_dict(*args, **kwargs)
        return {name.removeprefix("transformer."): tensor for name, tensor in names.items()}


def _convert_anima(checkpoint: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    adapter = {name: tensor for name, tensor in checkpoint.items() if ".llm_adapter." in name}
    rest = {name: tensor for name, tensor in checkpoint.items() if name not in adapter}
    found = convert.convert_cosmos_transformer_checkpoint_to_diffusers(rest)
    # _convert_non_diffusers_anima_lora_to_diffusers: "llm_adapter." becomes "text_conditioner.".
    return found | {name.replace("net.llm_adapter.", "text_conditioner."): tensor for name, tensor in adapter.items()}


FAMILIES = (
    Family("sd3", _sd3, _sd3_model, convert.convert_sd3_transformer_checkpoint_to_diffusers),
    Family("wan", _wan, lambda: WanTransformer3DModel(**_WAN), convert.convert_wan_transformer_to_diffusers),
    Family(
        "wan_i2v",
        lambda: _wan(image=True),
        lambda: WanTransformer3DModel(**_WAN, in_channels=36, image_dim=1280, added_kv_proj_dim=1536),
        convert.convert_wan_transformer_to_diffusers,
    ),
    Family(
        "wan_vace",
        lambda: _wan(vace=True),
        lambda: WanVACETransformer3DModel(**_WAN, vace_layers=[0, 1]),
        convert.convert_wan_transformer_to_diffusers,
    ),
    Family("z_image", _z_image, _z_image_model, convert.convert_z_image_transformer_checkpoint_to_diffusers),
    Family(
        "qwen_image",
        lambda: _same(_qwen_model),
        _qwen_model,
        _without_prefix,
        source="diffusers' class, whose names are the author's: there is no converter",
    ),
    Family(
        "ernie_image",
        lambda: _same(_ernie_model),
        _ernie_model,
        convert.convert_ernie_image_transformer_checkpoint_to_diffusers,
    ),
    Family(
        "anima",
        _anima,
        _Anima,
        _convert_anima,
        prefix="net.",
        source="diffusers.loaders.single_file_utils.convert_cosmos_transformer_checkpoint_to_diffusers; the adapter: "
        "diffusers.loaders.lora_conversion_utils._convert_non_diffusers_anima_lora_to_diffusers",
    ),
)
