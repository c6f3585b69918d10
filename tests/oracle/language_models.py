"""Text encoders that are language models: their tokens, and transformers' classes on the small weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MistralConfig,
    MistralModel,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from .files import Weights, fill, read

__all__ = ["NO_THOUGHT", "PADDING", "encoded", "mistral", "qwen2", "qwen3", "tokens"]

# Qwen3's "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", and its padding.
NO_THOUGHT = [151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
PADDING = 151643
_TOKENS: Mapping[str, Mapping[str, list[int]]] = json.loads((Path(__file__).parent / "tokens.json").read_text("utf-8"))


def tokens(vocabulary: str, *parts: str) -> list[int]:
    """Return the tokens of texts one after the other."""
    return [token for part in parts for token in _TOKENS[vocabulary][part]]


def encoded(
    model: PreTrainedModel, ids: list[int], *, length: int = 0, padding: int = PADDING, left: bool = False
) -> Any:
    """Return the encoder's output for one text; `length` is what it is padded to."""
    space = max(length - len(ids), 0)
    mask = [1] * len(ids)
    if left:
        ids, mask = [padding] * space + ids, [0] * space + mask
    else:
        ids, mask = ids + [padding] * space, mask + [0] * space
    return model(torch.tensor([ids]), attention_mask=torch.tensor([mask]), output_hidden_states=True)


def qwen3(path: Path, *, heads: int = 32) -> PreTrainedModel:
    """Return Qwen3, which has as many layers as the file."""
    return _model(Qwen3Model, Qwen3Config, path, heads, 8, rope=1_000_000.0, epsilon=1e-6)


def qwen2(path: Path) -> PreTrainedModel:
    """Return Qwen2.5-VL's language model. Text alone has one position, as in Qwen2."""
    return _model(Qwen2Model, Qwen2Config, path, 28, 4, rope=1_000_000.0, epsilon=1e-6)


def mistral(path: Path, *, rope: float, epsilon: float = 1e-5) -> PreTrainedModel:
    """Return Mistral Small or Ministral."""
    return _model(MistralModel, MistralConfig, path, 32, 8, rope=rope, epsilon=epsilon, sliding_window=None)


def _model(
    kind: type[PreTrainedModel],
    config: type[PretrainedConfig],
    path: Path,
    heads: int,
    pairs: int,
    *,
    rope: float,
    epsilon: float,
    **more: Any,
) -> PreTrainedModel:
    weights: Weights = read(path, "model.")
    vocabulary, width = weights["embed_tokens.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    settings = config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(weights["layers.0.mlp.up_proj.weight"]),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=pairs,
        head_dim=128,
        rms_norm_eps=epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": rope},
        max_position_embeddings=4096,
        attn_implementation="sdpa",  # what transformers takes by default: a token of padding that sees none gets zeros
        **more,
    )
    model = kind(settings)  # not on the meta device, for the rotary frequencies
    return fill(model, weights)
