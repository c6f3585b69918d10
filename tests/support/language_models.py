"""Language models as text encoders, in numpy: what the engine's must agree with. One prompt, whose tokens are given.

Written after transformers' Qwen3, Qwen2.5-VL, Mistral and Ministral 3, and compared with them by
`tests/oracle/check_language_models.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_HEAD = 128


@dataclass(frozen=True)
class Rotation:
    """Rotary positions: `factor` times those of training by YaRN, if it isn't 1.

    `sections` are the numbers of pairs that turn by each of three axes (M-RoPE); by default all turn by the first.
    """

    theta: float
    factor: float = 1.0
    trained: int = 16384
    sections: tuple[int, ...] = (_HEAD // 2,)

    def frequencies(self) -> Array:
        """Return radians for each position, of each pair."""
        pairs = np.arange(0, _HEAD, 2) / _HEAD
        fast = self.theta**-pairs
        if self.factor == 1.0:
            return fast

        def pair_that_turns(times: float) -> float:
            return _HEAD * math.log(self.trained / (times * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = math.floor(pair_that_turns(32)), math.ceil(pair_that_turns(1))
        slowed = np.clip((np.arange(_HEAD // 2) - low) / (high - low), 0, 1)
        return fast * (1 - slowed) + fast / self.factor * slowed

    def angles(self, positions: Array) -> Array:
        """Return the angles of tokens whose positions along each axis are the rows of `positions`."""
        axis = np.repeat(np.arange(len(self.sections)), self.sections)
        return positions[axis].T * self.frequencies()


def _norm(x: Array, weight: Array, epsilon: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def _turn(x: Array, angles: Array) -> Array:
    first, second = np.split(x, 2, -1)
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)], -1
    )


def states(
    weights: Mapping[str, Array],
    tokens: Array,
    rotation: Rotation,
    *,
    epsilon: float = 1e-6,
    mask: Array | None = None,
    positions: Array | None = None,
    images: Mapping[int, Array] | None = None,
    normed: bool = True,
) -> Array:
    """Return the states of the last layer, after the norm.

    Parameters
    ----------
    weights : mapping
        As Hugging Face names them.
    mask : array, optional
        0 for padding, which no token sees. A token that sees none gets nothing of the attention, as in PyTorch.
    positions : array, optional
        Positions of the tokens along each axis; their numbers by default.
    images : mapping, optional
        By its first token, what takes the place of tokens.
    normed : bool
        False for the states before the norm.
    """
    named = {name.removeprefix("model."): value for name, value in weights.items()}
    x = named.pop("embed_tokens.weight")[tokens].astype(np.float64)
    w = {name: np.asarray(value, np.float64) for name, value in named.items()}
    for first, rows in (images or {}).items():
        x[first : first + len(rows)] = rows
    count = len(tokens)
    if positions is None:
        positions = np.arange(count)[None]
    seen = np.tril(np.ones((count, count), bool)) & (np.ones(count, bool) if mask is None else mask.astype(bool))
    angles = rotation.angles(positions)
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("layers."))
    for i in range(layers):
        layer = {
            name.removeprefix(f"layers.{i}."): value for name, value in w.items() if name.startswith(f"layers.{i}.")
        }
        x = x + _attention(layer, _norm(x, layer["input_layernorm.weight"], epsilon), angles, seen, epsilon)
        y = _norm(x, layer["post_attention_layernorm.weight"], epsilon)
        gate = y @ layer["mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (y @ layer["mlp.up_proj.weight"].T)
        x = x + inner @ layer["mlp.down_proj.weight"].T
    return _norm(x, w["norm.weight"], epsilon) if normed else x


def _attention(layer: Mapping[str, Array], x: Array, angles: Array, seen: Array, epsilon: float) -> Array:
    def heads(name: str) -> Array:
        y = x @ layer[f"self_attn.{name}_proj.weight"].T + layer.get(f"self_attn.{name}_proj.bias", 0)
        y = y.reshape(len(x), -1, _HEAD).swapaxes(0, 1)
        norm = layer.get(f"self_attn.{name}_norm.weight")
        return y if norm is None else _norm(y, norm, epsilon)

    q, k, v = _turn(heads("q"), angles), _turn(heads("k"), angles), heads("v")
    k, v = (np.repeat(part, len(q) // len(part), axis=0) for part in (k, v))
    scores = np.where(seen, q @ k.swapaxes(1, 2) / math.sqrt(_HEAD), -np.inf)
    least = scores.max(-1, keepdims=True, initial=-1e30)
    shares = np.exp(scores - least)
    shares /= np.maximum(shares.sum(-1, keepdims=True), 1e-300)
    return (shares @ v).swapaxes(0, 1).reshape(len(x), -1) @ layer["self_attn.o_proj.weight"].T


def image_positions(tokens: int, images: Mapping[int, tuple[int, int]]) -> Array:
    """Return the positions of Qwen2.5-VL's tokens; `images` are rows and columns by the first token."""
    positions, following = np.zeros((3, tokens), int), 0
    token = 0
    while token < tokens:
        if token in images:
            rows, columns = images[token]
            size = rows * columns
            row, column = np.divmod(np.arange(size), columns)
            positions[:, token : token + size] = following + np.stack([row * 0, row, column])
            following, token = following + max(rows, columns), token + size
        else:
            positions[:, token] = following
            following, token = following + 1, token + 1
    return positions


def llama_cpp_rows(weight: Array, heads: int) -> Array:
    """Return queries or keys as llama.cpp's converter orders the rows of Mistral's models."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
