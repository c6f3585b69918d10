"""Random adapters of every kind for one layer: the tensors as the tool names them, and what the layer becomes.

A kind is called with the drawing `Factors` and the `Layer`, and makes a `Drawn`. Factors are rounded to bfloat16 when
they are drawn and sized by powers of two, so files in f32, f16 and bf16 hold the same numbers; the formulas are those
of `lora_formulas`. Every kind changes the weight by about `STRENGTH` of its norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import lora_formulas as formulas
import numpy as np
from lora_formulas import Array, Tensors

STRENGTH = 0.6
Rounding = Callable[[Array], Array]


def bfloat16(values: Array) -> Array:
    """Cut off what bfloat16 cannot hold."""
    bits = np.asarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


class Factors:
    """Draws an adapter's random factors."""

    def __init__(self, seed: int = 0, rounding: Rounding = bfloat16, strength: float = STRENGTH) -> None:
        self.rng = np.random.default_rng(seed)
        self.rounding = rounding
        self.strength = strength

    def draw(self, *shape: int, scale: float = 1.0) -> Array:
        return self.rounding((self.rng.standard_normal(shape) * scale).astype(np.float32))


@dataclass(frozen=True)
class Layer:
    """What an adapter is for: a matrix (out, in) or a kernel (out, in, height, width), and perhaps a bias."""

    weight: Array
    bias: Array | None = None

    @property
    def out(self) -> int:
        return int(self.weight.shape[0])

    @property
    def inp(self) -> int:
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    @property
    def ones(self) -> tuple[int, ...]:
        """The kernel of a convolution of 1x1, of as many axes."""
        return tuple(1 for _ in self.kernel)

    @property
    def columns(self) -> int:
        return self.weight.size // self.out


@dataclass(frozen=True)
class Drawn:
    """A module's `tensors` by their endings, and the merged weight and bias at multiplier 1."""

    tensors: Tensors
    weight: Array
    bias: Array | None = None


class Kind(Protocol):
    def __call__(self, factors: Factors, layer: Layer) -> Drawn: ...


def _sized(
    factors: Factors, layer: Layer, tensors: Tensors, delta: Callable[[Array, Tensors], Array], *names: str
) -> Drawn:
    """Multiply the tensors of these names by the power of two that gives the difference its strength."""
    weight = layer.weight.astype(np.float32)
    wanted = factors.strength * np.linalg.norm(weight) / np.linalg.norm(delta(weight, tensors))
    power = np.float32(2.0 ** np.round(np.log2(wanted)))
    tensors = tensors | {name: tensors[name] * power for name in names}
    return Drawn(tensors, np.asarray(weight + delta(weight, tensors), np.float32))


def _alpha(alpha: float | None) -> Tensors:
    return {} if alpha is None else {"alpha": np.array(alpha, np.float32)}


PEFT_NAMES = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}


def lora(
    factors: Factors, layer: Layer, *, rank: int = 4, alpha: float | None = 2.0, mid: bool = False, points: bool = False
) -> Drawn:
    """LoRA, LoCon, with `mid` its Tucker form; with `points` a matrix' pair is stored as 1x1 convolutions."""
    ones = (1, 1) if points else layer.ones
    tensors = {
        "lora_down.weight": factors.draw(rank, layer.inp, *(layer.ones if mid else layer.kernel or ones)),
        "lora_up.weight": factors.draw(layer.out, rank, *ones),
        **_alpha(alpha),
    }
    if mid:
        tensors["lora_mid.weight"] = factors.draw(rank, rank, *layer.kernel)
    return _sized(factors, layer, tensors, formulas.lora, "lora_up.weight")


def lora_with_bias(factors: Factors, layer: Layer) -> Drawn:
    """PEFT's ``lora_bias``, by its names; the factor is 1."""
    drawn = lora(factors, layer, alpha=None)
    assert layer.bias is not None
    tensors = {PEFT_NAMES[name]: values for name, values in drawn.tensors.items()}
    tensors["lora_B.bias"] = delta = factors.draw(layer.out, scale=factors.strength)
    return Drawn(tensors, drawn.weight, layer.bias + delta)


def difference(factors: Factors, layer: Layer, *, name: str = "diff", bias: str = "diff_b") -> Drawn:
    """A whole difference; where the layer has a bias, of that too. LyCORIS' norms have names of their own."""
    drawn = _sized(
        factors, layer, {name: factors.draw(*layer.weight.shape)}, lambda _, tensors: tensors[name], name
    )  # fmt: skip
    if layer.bias is None:
        return drawn
    delta = factors.draw(layer.out, scale=factors.strength)
    return Drawn(drawn.tensors | {bias: delta}, drawn.weight, layer.bias + delta)


norm_difference = partial(difference, name="w_norm", bias="b_norm")


def loha(factors: Factors, layer: Layer, *, rank: int = 4, alpha: float | None = 2.0, tucker: bool = False) -> Drawn:
    tensors = _alpha(alpha)
    for n in (1, 2):
        shape = (rank, layer.out) if tucker else (layer.out, rank)
        tensors[f"hada_w{n}_a"] = factors.draw(*shape)
        tensors[f"hada_w{n}_b"] = factors.draw(rank, layer.inp if tucker else layer.columns)
        if tucker:
            tensors[f"hada_t{n}"] = factors.draw(rank, rank, *layer.kernel)
    return _sized(factors, layer, tensors, formulas.loha, "hada_w1_a")


def lokr(
    factors: Factors,
    layer: Layer,
    *,
    split: str = "",
    rank: int = 4,
    alpha: float | None = 2.0,
    blocks: tuple[int, int] = (8, 8),
    tucker: bool = False,
) -> Drawn:
    """The Kronecker product, w1 of the shape `blocks`; `split` names the factors that are products themselves."""
    tensors = _alpha(alpha)
    shapes = {
        "w1": (*blocks, ()),
        "w2": (layer.out // blocks[0], layer.inp // blocks[1], layer.kernel),
    }
    for name, (out, inp, kernel) in shapes.items():
        if name not in split.split():
            tensors[f"lokr_{name}"] = factors.draw(out, inp, *kernel)
        elif name == "w2" and tucker:
            tensors["lokr_t2"] = factors.draw(rank, rank, *kernel)
            tensors |= {"lokr_w2_a": factors.draw(rank, out), "lokr_w2_b": factors.draw(rank, inp)}
        else:
            tensors[f"lokr_{name}_a"] = factors.draw(out, rank)
            tensors[f"lokr_{name}_b"] = factors.draw(rank, inp * int(np.prod(kernel, dtype=int)))
    return _sized(factors, layer, tensors, formulas.lokr, "lokr_w1_a" if "w1" in split else "lokr_w1")


def glora(factors: Factors, layer: Layer, *, rank: int = 4, alpha: float | None = 2.0, old: bool = False) -> Drawn:
    """GLoRA; `old` names the factors as LyCORIS did before its second version."""
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    drawn = (
        factors.draw(layer.inp, rank, *layer.ones, scale=(layer.inp * rank) ** -0.25),
        factors.draw(rank, layer.inp, *layer.ones, scale=(layer.inp * rank) ** -0.25),
        factors.draw(layer.out, rank, *layer.ones, scale=(layer.columns * rank) ** -0.25),
        factors.draw(rank, layer.inp, *layer.kernel, scale=(layer.columns * rank) ** -0.25),
    )
    tensors = {f"{name}.weight": values for name, values in zip(names, drawn, strict=True)} | _alpha(alpha)
    return _sized(factors, layer, tensors, formulas.glora, f"{names[1]}.weight", f"{names[3]}.weight")


def dora(
    factors: Factors, layer: Layer, *, kind: Kind = lora, on_input: bool = False, name: str = "dora_scale"
) -> Drawn:
    """DoRA of another kind, by LyCORIS' names, or with PEFT's where `name` is its own."""
    drawn = kind(factors, layer)
    weight = layer.weight.astype(np.float32)
    axes = tuple(axis for axis in range(weight.ndim) if axis != on_input)
    lengths = np.sqrt((weight**2).sum(axis=axes, keepdims=True))
    grown = max(factors.strength / STRENGTH, 1.0)
    magnitude = bfloat16(grown * lengths * (1 + factors.draw(*lengths.shape, scale=0.3)))
    merged = formulas.dora(weight, drawn.weight - weight, magnitude, on_input)
    tensors = drawn.tensors
    if name.startswith("lora_magnitude_vector"):
        tensors = {PEFT_NAMES.get(key, key): values for key, values in tensors.items()}
        magnitude = magnitude.reshape(1, -1, *layer.ones) if layer.kernel else magnitude.ravel()
    return replace(drawn, tensors=tensors | {name: magnitude}, weight=merged)


def _turning(factors: Factors, size: int) -> float:
    """The scale of random blocks whose turns move vectors by the strength of their length."""
    return factors.strength / (2 * (2 * size) ** 0.5)


def oft(
    factors: Factors, layer: Layer, *, size: int = 8, constraint: float = 0.0, rescale: bool = False, stages: int = 0
) -> Drawn:
    """Diagonal OFT of LyCORIS and kohya; with `stages` BOFT. A `constraint` is a part of the blocks' norm."""
    scale = _turning(factors, size) / max(stages, 1) ** 0.5
    count = layer.out // size
    tensors = {"oft_blocks": factors.draw(*((stages,) if stages else ()), count, size, size, scale=scale)}
    if constraint:  # which alpha says by output
        blocks = tensors["oft_blocks"]
        norm = np.linalg.norm(blocks - np.swapaxes(blocks, -1, -2))
        tensors |= {"oft_blocks": blocks * np.float32(4), "alpha": bfloat16(np.array(constraint * norm / layer.out))}
    else:
        tensors["alpha"] = np.zeros((), np.float32)
    if rescale:
        tensors["rescale"] = 1 + factors.draw(layer.out, 1, *layer.ones, scale=0.3)
    merged = (formulas.boft if stages else formulas.oft)(layer.weight.astype(np.float32), tensors)
    return Drawn(tensors, merged)


def peft_oft(factors: Factors, layer: Layer, *, size: int = 8, shared: bool = False) -> Drawn:
    count = 1 if shared else layer.columns // size
    packed = factors.draw(count, size * (size - 1) // 2, scale=factors.strength / (2 * size**0.5))
    tensors = {"oft_R.weight": packed}
    return Drawn(tensors, formulas.peft_oft(layer.weight.astype(np.float32), tensors))


def peft_boft(factors: Factors, layer: Layer, *, size: int = 8, stages: int = 2) -> Drawn:
    scale = 2 * _turning(factors, size) / stages**0.5
    scales = (layer.out, 1) if not layer.kernel else (1, layer.out)
    tensors = {
        "boft_R": factors.draw(stages, layer.columns // size, size, size, scale=scale),
        "boft_s": 1 + factors.draw(*scales, scale=0.2),
    }
    return Drawn(tensors, formulas.peft_boft(layer.weight.astype(np.float32), tensors))


def ia3(factors: Factors, layer: Layer, *, on_input: bool = False) -> Drawn:
    """LyCORIS' (IA)^3, which leaves the bias as it is."""
    vector = factors.draw(layer.inp if on_input else layer.out, scale=factors.strength)
    tensors = {
        "weight": vector.reshape(1, -1, *layer.ones) if layer.kernel else vector,
        "on_input": np.array(on_input, np.int64),
    }
    return Drawn(tensors, formulas.ia3(layer.weight.astype(np.float32), tensors))


def peft_ia3(factors: Factors, layer: Layer, *, on_input: bool = False) -> Drawn:
    """PEFT's (IA)^3, which multiplies the bias too, but for feed-forward layers: there it is the inputs."""
    vector = 1 + factors.draw(layer.inp if on_input else layer.out, scale=factors.strength)
    flat = (1, -1, *layer.ones) if layer.kernel or on_input else (-1, 1)
    tensors = {"ia3_l": vector.reshape(flat)}
    merged = formulas.peft_ia3(layer.weight.astype(np.float32), tensors, on_input)
    bias = None if layer.bias is None or on_input else layer.bias * vector
    return Drawn(tensors, merged, bias)


def named(kind: Kind, /, **options: Any) -> Kind:
    """The kind with options."""
    return partial(kind, **options)
