"""The text encoders: CLIP in transformers' names, OpenCLIP, whose q, k and v are one weight, T5 and Qwen3.

A place's name is the engine's: it reads OpenCLIP's checkpoints under transformers' names, but keeps ``in_proj`` whole
(`convert_open_clip_to_hf_clip_name` of its name_conversion.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, Qwen3Config, Qwen3Model, T5Config, T5EncoderModel

from .rows import Original, Traced, trace

__all__ = ["ENCODERS", "encoder"]

# What the engine has before the names, by encoder and family.
ENCODERS = {
    "text_clip": {
        "sd1": "cond_stage_model.transformer.",
        "sdxl": "cond_stage_model.transformer.",
        "sd3": "text_encoders.clip_l.transformer.",
        "flux": "text_encoders.clip_l.transformer.",
    },
    "text_clip_g": {"sd3": "text_encoders.clip_g.transformer."},
    "text_open_clip": {"sdxl": "cond_stage_model.1.transformer.", "sd2": "cond_stage_model.transformer."},
    "text_t5": {
        "sd3": "text_encoders.t5xxl.transformer.",
        "flux": "text_encoders.t5xxl.transformer.",
        "chroma": "text_encoders.t5xxl.transformer.",
        "wan": "text_encoders.t5xxl.transformer.",
    },
    "text_qwen3": {"anima": "text_encoders.llm."},
}
_OPEN_CLIP = "transformer.resblocks."
_ENGINE = {
    "attn.in_proj_": "self_attn.in_proj.",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "transformer.resblocks": "text_model.encoder.layers",
    "ln_final": "text_model.final_layer_norm",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding": "text_model.embeddings.token_embedding",
}


def _clip_shapes(width: int) -> dict[str, tuple[int, ...]]:
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2, num_attention_heads=width // 64
    )
    with torch.device("meta"):
        names = {name: tuple(tensor.shape) for name, tensor in CLIPTextModel(config).state_dict().items()}
    # transformers of today has no `text_model.` before them; checkpoints and LoRAs have.
    return {"text_model." + name.removeprefix("text_model."): shape for name, shape in names.items()}


def _open_clip(width: int = 1280) -> Original:
    original = Original()
    original.add("positional_embedding", 77, width)
    original.add("token_embedding.weight", 49408, width)
    for i in range(2):
        name = f"{_OPEN_CLIP}{i}"
        original.add(f"{name}.attn.in_proj_weight", 3 * width, width)
        original.add(f"{name}.attn.in_proj_bias", 3 * width)
        original.linear(f"{name}.attn.out_proj", width, width)
        original.norm(f"{name}.ln_1", width)
        original.norm(f"{name}.ln_2", width)
        original.linear(f"{name}.mlp.c_fc", 4 * width, width)
        original.linear(f"{name}.mlp.c_proj", width, 4 * width)
    original.norm("ln_final", width)
    return original


def _engine(name: str) -> str:
    for old, new in _ENGINE.items():
        name = name.replace(old, new)
    return name


def _traced_open_clip() -> tuple[Original, dict[str, Traced]]:
    original = _open_clip()
    prefix = "conditioner.embedders.1.model."
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=1280))

    def convert(checkpoint: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        found = convert_open_clip_checkpoint(model, checkpoint, prefix=prefix)
        return {"text_model." + name.removeprefix("text_model."): tensor for name, tensor in found.items()}

    found = trace(original, _clip_shapes(1280), convert, prefix)
    renamed = {
        name: Traced(tensor.shape, tuple((_engine(weight), *rows) for weight, *rows in tensor.places))  # type: ignore
        for name, tensor in found.items()
    }
    return Original({_engine(name): shape for name, shape in original.shapes.items()}), renamed


def _same(shapes: dict[str, tuple[int, ...]]) -> tuple[Original, dict[str, Traced]]:
    return Original(shapes), {name: Traced(shape, ((name, 0, 0, 1, 1),)) for name, shape in shapes.items()}


def _t5_shapes() -> dict[str, tuple[int, ...]]:
    config = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in T5EncoderModel(config).state_dict().items()}
    shapes.pop("encoder.embed_tokens.weight", None)  # `shared` again
    return shapes


def _qwen3_shapes() -> dict[str, tuple[int, ...]]:
    config = Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128,
    )  # fmt: skip
    with torch.device("meta"):
        return {f"model.{name}": tuple(tensor.shape) for name, tensor in Qwen3Model(config).state_dict().items()}


def encoder(name: str) -> tuple[str, Original, dict[str, Traced]]:
    """Return what the data of a text encoder rest on, its checkpoint and where transformers' tensors come from."""
    if name == "text_open_clip":
        source = "diffusers.loaders.single_file_utils.convert_open_clip_checkpoint"
        return (source, *_traced_open_clip())
    shapes = {
        "text_clip": lambda: _clip_shapes(768),
        "text_clip_g": lambda: _clip_shapes(1280),
        "text_t5": _t5_shapes,
        "text_qwen3": _qwen3_shapes,
    }
    return ("transformers' class: checkpoints have its names", *_same(shapes[name]()))
