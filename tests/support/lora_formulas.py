"""What the kinds of adapter make of a weight, as formulas in numpy: the merged weight at multiplier 1.

``weight`` is a matrix (out, in) or a kernel (out, in, height, width), and `Tensors` are a module's tensors by the
ending that the tool gives them. `tests.lora_oracle.check_kinds` holds each formula against LyCORIS and PEFT.

At another multiplier m the weight is ``weight + m * (merged - weight)``, see `at_multiplier`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Given = Mapping[str, Array]

EPSILON = float(np.finfo(np.float32).eps)


def at_multiplier(weight: Array, merged: Array, multiplier: float) -> Array:
    """Return the weight at a multiplier: all kinds are interpolated, the differences are multiplied."""
    return np.asarray(weight + multiplier * (merged - weight), np.float32)


def alpha_over(rank: int, tensors: Given) -> float:
    """Return alpha / rank; without alpha, and with an alpha of 0, the factor is 1."""
    alpha = float(tensors.get("alpha", 0))
    return (alpha / rank if alpha else 1.0) * float(tensors.get("scalar", 1))


# Differences, that is what is added.


def low_rank(up: Array, down: Array, mid: Array | None = None) -> Array:
    """Return ``up @ down``; with ``mid`` (rank, rank, height, width) its Tucker form. Kernels come out flattened."""
    up, down = up.reshape(len(up), -1), down.reshape(len(down), -1)
    if mid is None:
        return np.asarray(up @ down)
    return np.asarray(np.einsum("pq...,op,qi->oi...", mid, up, down).reshape(len(up), -1))


def tucker(core: Array, a: Array, b: Array) -> Array:
    """Return LoHa's and LoKr's Tucker form: core (r, r, height, width), a (r, out), b (r, in)."""
    return np.asarray(np.einsum("pq...,po,qi->oi...", core, a, b))


def lora(weight: Array, tensors: Given) -> Array:
    """LoRA and LoCon."""
    down = tensors["lora_down.weight"]
    delta = low_rank(tensors["lora_up.weight"], down, tensors.get("lora_mid.weight"))
    return alpha_over(len(down), tensors) * delta.reshape(weight.shape)


def loha(weight: Array, tensors: Given) -> Array:
    w1_a, w1_b, w2_a, w2_b = (tensors[f"hada_{part}"] for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if "hada_t1" in tensors:
        delta = tucker(tensors["hada_t1"], w1_a, w1_b) * tucker(tensors["hada_t2"], w2_a, w2_b)
    else:
        delta = (w1_a @ w1_b) * (w2_a @ w2_b)
    return alpha_over(len(w1_b), tensors) * delta.reshape(weight.shape)


def lokr(weight: Array, tensors: Given, full_scale: float = 1.0) -> Array:
    """The Kronecker product. `full_scale` is the factor where both matrices are whole: alpha has no say there."""
    ranks: list[int] = []

    def operand(name: str) -> Array:
        if f"lokr_{name}" in tensors:
            return tensors[f"lokr_{name}"]
        a, b, core = (tensors.get(f"lokr_{part}") for part in (f"{name}_a", f"{name}_b", f"t{name[1]}"))
        assert a is not None
        assert b is not None
        ranks.append(len(b))
        return np.asarray(a @ b.reshape(len(b), -1)) if core is None else tucker(core, a, b)

    w1, w2 = operand("w1"), operand("w2")
    factor = alpha_over(ranks[-1], tensors) if ranks else full_scale * float(tensors.get("scalar", 1))
    # Rows of w2 are (in, height, width), so a kernel may come flattened or not.
    flat = np.kron(w1, w2.reshape(len(w2), -1))
    return factor * flat.reshape(weight.shape)


def glora(weight: Array, tensors: Given) -> Array:
    """``W @ A + B``. Newer files have A = a1 @ a2, B = b1 @ b2, those of before LyCORIS 2 A = a2 @ a1, B = b2 @ b1."""
    a1, a2, b1, b2 = (tensors[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    new = a1.shape[1] == a2.shape[0] == b1.shape[1] == b2.shape[0]
    old = a2.shape[1] == a1.shape[0] == b2.shape[1] == b1.shape[0]
    if old and (not new or a2.shape[0] == weight.shape[0] == weight.shape[1]):
        a1, a2, b1, b2 = a2, a1, b2, b1
    rank = a1.shape[1]
    product = a1.reshape(len(a1), -1) @ a2.reshape(len(a2), -1)  # (in, in)
    delta = np.einsum("oi...,ij->oj...", weight, product) + low_rank(b1, b2).reshape(weight.shape)
    return np.asarray(alpha_over(rank, tensors) * delta)


# Kinds that change the weight in another way.


def dora(weight: Array, delta: Array, magnitude: Array, on_input: bool = False) -> Array:
    """Return ``W + delta`` with rows (columns, where `on_input`) of the lengths that `magnitude` says."""
    moved = weight + delta
    axes = tuple(axis for axis in range(weight.ndim) if axis != on_input)
    length = np.sqrt((moved.astype(np.float64) ** 2).sum(axis=axes, keepdims=True)) + EPSILON
    return np.asarray(moved * (magnitude.reshape(length.shape) / length), np.float32)


def is_on_input(dora_scale: Array, weight: Array) -> bool:
    """Tell the axis of LyCORIS' ``dora_scale``: (out, 1, ...) or (1, in, ...). PEFT's magnitudes are of the outputs."""
    return dora_scale.ndim > 1 and dora_scale.shape[0] == 1 and dora_scale.shape[1] == weight.shape[1]


def limited(skew: Array, constraint: float) -> Array:
    """Return skew matrices shortened to `constraint`, all of a module's together."""
    norm = float(np.sqrt((skew.astype(np.float64) ** 2).sum())) + 1e-8
    return skew * (constraint / norm) if 0 < constraint < norm else skew


def cayley(skew: Array) -> Array:
    """Return ``(I + Q) @ inverse(I - Q)`` of each block."""
    identity = np.eye(skew.shape[-1])
    skew = skew.astype(np.float64)
    return np.asarray((identity + skew) @ np.linalg.inv(identity - skew))


def neumann(skew: Array, terms: int = 5) -> Array:
    """Return PEFT's approximation of `cayley`: ``I + 2 Q + ... + 2 Q^(terms-2) + Q^(terms-1)``, from three terms on."""
    skew = skew.astype(np.float64)
    total, power = np.eye(skew.shape[-1]) + 2 * skew, skew
    for exponent in range(2, max(terms, 4)):
        power = power @ skew
        total = total + (1 if exponent == max(terms, 4) - 1 else 2) * power
    return np.asarray(total)


def block_diagonal(blocks: Array, rows: Array) -> Array:
    """Multiply rows by blocks: (n, b, b) and (n * b, ...)."""
    n, b = blocks.shape[:2]
    return np.asarray((blocks @ rows.reshape(n, b, -1)).reshape(rows.shape))


def oft(weight: Array, tensors: Given) -> Array:
    """Diagonal OFT of LyCORIS and of kohya: blocks (n, b, b) turn the outputs, **transposed**."""
    blocks = tensors["oft_blocks"]
    constraint = float(tensors.get("alpha", 0)) * len(weight)
    turn = cayley(limited(blocks - blocks.transpose(0, 2, 1), constraint))
    return _rescaled(block_diagonal(turn.transpose(0, 2, 1), weight), tensors.get("rescale"))


def boft(weight: Array, tensors: Given) -> Array:
    """Butterfly OFT of LyCORIS: blocks (stages, n, b, b) turn the outputs, one stage after the other, as they are."""
    blocks = tensors["oft_blocks"]
    constraint = float(tensors.get("alpha", 0)) * len(weight)
    turns = cayley(limited(blocks - blocks.transpose(0, 1, 3, 2), constraint))
    rows: Array = weight
    for stage, turn in enumerate(turns):
        half = 2**stage * blocks.shape[-1] // 2
        order = np.arange(len(rows)).reshape(-1, 2, half).transpose(0, 2, 1).ravel()  # (c, g, k) to (c, k, g)
        mixed = block_diagonal(turn, rows[order])
        rows = np.empty_like(mixed)
        rows[order] = mixed
    return _rescaled(rows, tensors.get("rescale"))


def _rescaled(weight: Array, rescale: Array | None) -> Array:
    if rescale is not None:
        weight = weight * rescale.reshape(-1, *(1 for _ in weight.shape[1:]))
    return np.asarray(weight, np.float32)


def peft_skew(packed: Array) -> Array:
    """Return the skew matrices whose upper triangles, row by row, are `packed`: (n, b * (b - 1) / 2)."""
    size = round((1 + (1 + 8 * packed.shape[1]) ** 0.5) / 2)
    skew = np.zeros((len(packed), size, size))
    rows, columns = np.triu_indices(size, 1)
    skew[:, rows, columns] = packed
    return skew - skew.transpose(0, 2, 1)


def peft_oft(weight: Array, tensors: Given, terms: int = 5, turned: bool = False) -> Array:
    """PEFT's OFT turns the inputs; one block alone stands for all.

    `terms` is 0 for the exact turn, which PEFT has the other way round. `turned` is how OneTrainer applies the same
    tensors to convolutions.
    """
    skew = peft_skew(tensors["oft_R.weight"])
    turn = neumann(skew, terms) if terms else cayley(-skew)
    if turned:
        turn = turn.transpose(0, 2, 1)
    columns = weight.reshape(len(weight), -1).T
    turn = np.broadcast_to(turn, (len(columns) // turn.shape[-1], *turn.shape[1:]))
    return np.asarray(block_diagonal(turn, columns).T.reshape(weight.shape), np.float32)


def peft_boft(weight: Array, tensors: Given) -> Array:
    """PEFT's BOFT turns the inputs, with stages (n, b, b), and multiplies the outputs."""
    blocks, scales = tensors["boft_R"], tensors["boft_s"]
    columns = weight.reshape(len(weight), -1).T
    size = blocks.shape[-1]
    for stage, skew in enumerate((blocks - blocks.transpose(0, 1, 3, 2)) / 2):
        half = size // 2
        # Within a run of 2^stage blocks the halves of even number come first, then those of odd number.
        order = np.arange(len(columns)).reshape(-1, 2**stage, 2, half).transpose(0, 2, 1, 3).ravel()
        spread = np.empty_like(columns)
        spread[order] = columns
        columns = block_diagonal(cayley(-skew), spread)[order]
    return np.asarray((columns.T * scales.reshape(-1, 1)).reshape(weight.shape), np.float32)


def ia3(weight: Array, tensors: Given) -> Array:
    """LyCORIS' (IA)^3: outputs, or inputs, multiplied by 1 + the vector."""
    vector = tensors["weight"].ravel()
    return _scaled(weight, 1 + vector, on_input=bool(tensors["on_input"]))


def peft_ia3(weight: Array, tensors: Given, on_input: bool) -> Array:
    """PEFT's (IA)^3: outputs (of the bias too), or inputs of a feed-forward layer, multiplied by the vector."""
    return _scaled(weight, tensors["ia3_l"].ravel(), on_input)


def _scaled(weight: Array, vector: Array, on_input: bool) -> Array:
    shape = [1] * weight.ndim
    shape[int(on_input)] = -1
    return np.asarray(weight * vector.reshape(shape), np.float32)
