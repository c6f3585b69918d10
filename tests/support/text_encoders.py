"""T5 and CLIP as text encoders, in numpy: what the engine's must agree with. One prompt, whose tokens are given.

Written after transformers' T5EncoderModel, UMT5EncoderModel and CLIPTextModel, and compared with them by
`tests/oracle/check_text_encoders.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, dequantize
from safetensors import safe_open

Array = npt.NDArray[Any]
_HEAD = 64
_TABLE = "relative_attention_bias.weight"
_BUCKETS, _FARTHEST = 32, 128  # of T5's tables of distances


def read(path: Path, tokens: Array, embedding: str, layers: int = 99) -> dict[str, Array]:
    """Read the first layers of an encoder, of whose vocabulary, `embedding`, only the rows of `tokens` are wanted."""

    def wanted(name: str) -> bool:
        number = re.search(r"\.layers\.(\d+)\.", name)
        return number is None or int(number[1]) < layers

    if path.suffix == ".gguf":
        return {
            item.name: dequantize(item.data[tokens] if item.name == embedding else item.data, item.tensor_type)
            for item in GGUFReader(path).tensors
            if wanted(item.name)
        }
    with safe_open(path, "np") as file:
        names = [name for name in file.keys() if name != embedding and wanted(name)]  # noqa: SIM118 - it is no mapping
        weights = {name: file.get_tensor(name).astype(np.float64) for name in names}
        rows = file.get_slice(embedding)
        weights[embedding] = np.concatenate([rows[int(token) : int(token) + 1] for token in tokens]).astype(np.float64)
    return weights


def _shares(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _heads(x: Array) -> Array:
    return x.reshape(len(x), -1, _HEAD).swapaxes(0, 1)


def _distances(count: int) -> Array:
    """Return the rows of T5's table for each token and the one it looks at: half of them are of tokens behind it."""
    half = _BUCKETS // 2
    near = half // 2
    offset = np.arange(count)[None] - np.arange(count)[:, None]
    distance = np.maximum(np.abs(offset), 1)
    steps = np.log(distance.astype(np.float32) / near) / np.float32(math.log(_FARTHEST / near)) * (half - near)
    far = np.minimum(near + steps.astype(int), half - 1)
    return np.where(offset > 0, half, 0) + np.where(np.abs(offset) < near, np.abs(offset), far)


def _t5_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def t5_states(path: Path, tokens: Array, mask: Array | None = None) -> Array:
    """Return T5's or UMT5's output; the mask is 0 for padding, which no token sees.

    A layer without a table of distances, as all of T5's but the first, takes the first layer's.
    """
    weights = read(path, tokens, "shared.weight")
    x = weights["shared.weight"]
    count = len(x)
    seen = np.ones(count, bool) if mask is None else mask.astype(bool)
    rows, bias, i = _distances(count), np.zeros(()), 0
    while f"encoder.block.{i}.layer.0.layer_norm.weight" in weights:
        attention, feed = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
        if f"{attention}SelfAttention.{_TABLE}" in weights:
            bias = weights[f"{attention}SelfAttention.{_TABLE}"][rows].transpose(2, 0, 1)
        y = _t5_norm(x, weights[f"{attention}layer_norm.weight"])
        q, k, v = (_heads(y @ weights[f"{attention}SelfAttention.{part}.weight"].T) for part in "qkv")
        y = _shares(np.where(seen, q @ k.swapaxes(1, 2) + bias, -np.inf)) @ v
        x = x + y.swapaxes(0, 1).reshape(count, -1) @ weights[f"{attention}SelfAttention.o.weight"].T
        y = _t5_norm(x, weights[f"{feed}layer_norm.weight"])
        gate = y @ weights[f"{feed}DenseReluDense.wi_0.weight"].T
        gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        y = gate * (y @ weights[f"{feed}DenseReluDense.wi_1.weight"].T)
        x, i = x + y @ weights[f"{feed}DenseReluDense.wo.weight"].T, i + 1
    return _t5_norm(x, weights["encoder.final_layer_norm.weight"])


def _linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def clip_states(path: Path, tokens: Array, *, quick: bool, layers: int) -> Array:
    """Return the states behind so many layers of CLIP, not normed; `quick` is the approximation in place of GELU."""
    root = "text_model."
    weights = read(path, tokens, f"{root}embeddings.token_embedding.weight", layers)
    x = weights[f"{root}embeddings.token_embedding.weight"] + weights[f"{root}embeddings.position_embedding.weight"]
    x = x.astype(np.float64)
    seen = np.tril(np.ones((len(x), len(x)), bool))
    for i in range(layers):
        layer = f"{root}encoder.layers.{i}."
        y = _norm(weights, f"{layer}layer_norm1", x)
        q, k, v = (_heads(_linear(weights, f"{layer}self_attn.{part}_proj", y)) for part in "qkv")
        y = _shares(np.where(seen, q @ k.swapaxes(1, 2) / math.sqrt(_HEAD), -np.inf)) @ v
        x = x + _linear(weights, f"{layer}self_attn.out_proj", y.swapaxes(0, 1).reshape(len(x), -1))
        y = _linear(weights, f"{layer}mlp.fc1", _norm(weights, f"{layer}layer_norm2", x))
        y = y / (1 + np.exp(-1.702 * y)) if quick else y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = x + _linear(weights, f"{layer}mlp.fc2", y)
    return x
