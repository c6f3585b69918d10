"""LoRA adapters of each kind for the tiny model, and in numpy exactly what each adds to the model's weights.

Every builder makes an `Adapter`: the tensors of the file, and the difference that they stand for at multiplier 1, by
the name of the model's tensor. Factors are rounded to bfloat16 when they are drawn, so files in f32, f16 and bf16 hold
the same numbers and one reference serves them all; `rounding` takes their place where a file is quantised.

The formulas are those of LyCORIS and of kohya's scripts, with ``W`` of shape (out, in) and r the rank:

=======  =====================================================================================
lora     ``alpha / r * up @ down``; without alpha ``up @ down``
diff     ``diff``
loha     ``alpha / r * (w1_a @ w1_b) * (w2_a @ w2_b)``, elementwise; without alpha the factor is 1
lokr     ``alpha / r * kron(w1, w2)`` with ``w2 = w2_a @ w2_b`` or w1 likewise; both whole: the factor is 1
locon    as lora, on the kernels flattened to (out, in * height * width)
=======  =====================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny_model
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel, write_model

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Rounding = Callable[[Array], Array]

MODEL = "model.diffusion_model."
# Module by module: square ones in the double blocks, wide ones in the single blocks.
SQUARE = [f"double_blocks.{i}.img_attn.proj" for i in range(tiny_model.DOUBLE_BLOCKS)]
WIDE = [f"single_blocks.{i}.linear2" for i in range(tiny_model.SINGLE_BLOCKS)]
WIDE_HIDDEN = 256  # width of the variant for weight types with blocks of 256
STRENGTH = 0.6  # of a difference, against the weights it is added to: both have rows of about unit length


def bfloat16(values: Array) -> Array:
    """Cut off what bfloat16 cannot hold."""
    bits = np.asarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def q8_0(values: Array) -> Array:
    """Round as ggml's Q8_0: in each block of 32 along a row, to multiples of the greatest magnitude / 127."""
    if values.ndim < 2 or values.shape[-1] % 32:
        return values.astype(np.float16).astype(np.float32)
    blocks = np.asarray(values, np.float32).reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    quants = np.rint(blocks * inverse)
    return (quants * step.astype(np.float16).astype(np.float32)).reshape(values.shape)


@dataclass(frozen=True)
class Adapter:
    """A LoRA file's `tensors`, and the `deltas` to the model's tensors that they stand for."""

    tensors: Tensors
    deltas: Tensors

    def with_tensors(self, tensors: Tensors) -> Adapter:
        """The same with more tensors in the file, which stand for nothing."""
        return replace(self, tensors=self.tensors | tensors)

    def write(self, path: Path, dtype: str = "F32") -> Path:
        return write(self.tensors, path, dtype)

    def merge(self, model: TinyModel, path: Path, multiplier: float = 1.0) -> TinyModel:
        """Write `model` with the differences added in float32, rounded to what the model's file holds."""
        return merge(model, [(self, multiplier)], path)


def merge(model: TinyModel, adapters: Iterable[tuple[Adapter, float]], path: Path) -> TinyModel:
    """Write `model` with several adapters, each at a multiplier, added to its weights in float32."""
    weights = load_file(model.diffusion_model)
    sums: Tensors = {}
    for adapter, multiplier in adapters:
        for name, delta in adapter.deltas.items():
            sums[name] = sums.get(name, np.float32(0)) + np.float32(multiplier) * delta
    for name, delta in sums.items():
        old = weights[name]
        assert old.shape == delta.shape, f"{name}: {old.shape} and {delta.shape}"
        weights[name] = (old.astype(np.float32) + delta).astype(old.dtype)
    save_file(weights, path)
    return replace(model, diffusion_model=path)


def write(tensors: Tensors, path: Path, dtype: str = "F32") -> Path:
    """Write tensors as a safetensors file, all of them as F32, F16 or BF16."""
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        raw = _stored(values, dtype).tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [offset, offset + len(raw)]}
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    return path


def _stored(values: Array, dtype: str) -> Array:
    single = np.asarray(values, np.float32)
    if dtype == "BF16":
        return (single.view(np.uint32) >> 16).astype(np.uint16)
    return single.astype({"F32": np.float32, "F16": np.float16}[dtype])


class Factors:
    """Draws an adapter's random factors, scaled so that their product changes a weight by about `STRENGTH`."""

    def __init__(self, seed: int = 0, rounding: Rounding = bfloat16) -> None:
        self.rng = np.random.default_rng(seed)
        self.rounding = rounding

    def draw(self, *shape: int, scale: float = 1.0) -> Array:
        return self.rounding((self.rng.standard_normal(shape) * scale).astype(np.float32))


def shape_of(module: str) -> tuple[int, int]:
    """The (out, in) of one of the tiny model's modules, as `tiny_model` has it now."""
    width = tiny_model.HIDDEN
    return (width, 4 * width) if module.endswith("linear2") else (width, width)


def peft(module: str) -> tuple[str, str, str]:
    """Names of down, up and alpha as peft writes them."""
    return (f"diffusion_model.{module}.lora_A.weight", f"diffusion_model.{module}.lora_B.weight",
            f"diffusion_model.{module}.alpha")  # fmt: skip


def kohya(module: str) -> tuple[str, str, str]:
    """Names of down, up and alpha as kohya's scripts write them, with underscores."""
    root = "lora_unet_" + module.replace(".", "_")
    return f"{root}.lora_down.weight", f"{root}.lora_up.weight", f"{root}.alpha"


def lycoris(module: str) -> tuple[str, str, str]:
    """Names of down, up and alpha as LyCORIS writes them."""
    root = "lycoris_" + module.replace(".", "_")
    return f"{root}.lora_down.weight", f"{root}.lora_up.weight", f"{root}.alpha"


def lora(
    *,
    ranks: Sequence[int] = (4,),
    alpha: float | None = 2.0,
    names: Callable[[str], tuple[str, str, str]] = peft,
    modules: Sequence[str] = (*SQUARE, *WIDE),
    seed: int = 0,
    rounding: Rounding = bfloat16,
) -> Adapter:
    """Low-rank pairs; the modules take the `ranks` in turn."""
    factors, tensors, deltas = Factors(seed, rounding), {}, {}
    for i, module in enumerate(modules):
        out, inp = shape_of(module)
        rank = ranks[i % len(ranks)]
        factor = 1.0 if alpha is None else alpha / rank
        down = factors.draw(rank, inp, scale=inp**-0.5)
        up = factors.draw(out, rank, scale=STRENGTH / factor * rank**-0.5)
        for name, values in zip(names(module), (down, up, alpha), strict=True):
            if values is not None:
                tensors[name] = np.asarray(values, np.float32)
        deltas[f"{MODEL}{module}.weight"] = np.float32(factor) * (up @ down)
    return Adapter(tensors, deltas)


def full_difference(*, seed: int = 0) -> Adapter:
    """Whole differences of the weights."""
    factors, tensors, deltas = Factors(seed), {}, {}
    for module in (*SQUARE, *WIDE):
        out, inp = shape_of(module)
        tensors[f"diffusion_model.{module}.diff"] = delta = factors.draw(out, inp, scale=STRENGTH * inp**-0.5)
        deltas[f"{MODEL}{module}.weight"] = delta
    return Adapter(tensors, deltas)


def norm_difference(*, seed: int = 0) -> Adapter:
    """Differences of norm vectors. The engine knows them by diffusers' names only: FLUX calls its weights scale."""
    factors, tensors, deltas = Factors(seed), {}, {}
    for i in range(tiny_model.DOUBLE_BLOCKS):
        for ours, theirs in (("norm_q", "query_norm"), ("norm_k", "key_norm")):
            delta = factors.draw(tiny_model.HEAD, scale=2 * STRENGTH)
            tensors[f"transformer.transformer_blocks.{i}.attn.{ours}.diff"] = delta
            deltas[f"{MODEL}double_blocks.{i}.img_attn.norm.{theirs}.scale"] = delta
    return Adapter(tensors, deltas)


def split_qkv(*, parts: str = "qkv", seed: int = 0) -> Adapter:
    """Low-rank pairs on the query, key and value that FLUX keeps in one matrix, by diffusers' names."""
    factors, tensors, deltas = Factors(seed), {}, {}
    width, rank = tiny_model.HIDDEN, 4
    for i in range(tiny_model.DOUBLE_BLOCKS):
        delta = np.zeros((3, width, width), np.float32)
        for j, part in enumerate("qkv"):
            down = factors.draw(rank, width, scale=width**-0.5)
            up = factors.draw(width, rank, scale=6 * STRENGTH * rank**-0.5)
            if part in parts:
                root = f"transformer.transformer_blocks.{i}.attn.to_{part}"
                tensors |= {f"{root}.lora_A.weight": down, f"{root}.lora_B.weight": up}
                delta[j] = up @ down
        deltas[f"{MODEL}double_blocks.{i}.img_attn.qkv.weight"] = delta.reshape(3 * width, width)
    return Adapter(tensors, deltas)


def loha(*, rank: int = 4, alpha: float | None = None, seed: int = 0) -> Adapter:
    """The elementwise product of two low-rank products."""
    factors, tensors, deltas = Factors(seed), {}, {}
    factor = 1.0 if alpha is None else alpha / rank
    for module in (*SQUARE, *WIDE):
        out, inp = shape_of(module)
        root = f"diffusion_model.{module}."
        tensors[root + "hada_w1_a"] = w1_a = factors.draw(out, rank, scale=rank**-0.5)
        tensors[root + "hada_w1_b"] = w1_b = factors.draw(rank, inp)
        tensors[root + "hada_w2_a"] = w2_a = factors.draw(out, rank, scale=STRENGTH / factor * rank**-0.5)
        tensors[root + "hada_w2_b"] = w2_b = factors.draw(rank, inp, scale=inp**-0.5)
        if alpha is not None:
            tensors[root + "alpha"] = np.array(alpha, np.float32)
        deltas[f"{MODEL}{module}.weight"] = np.float32(factor) * (w1_a @ w1_b) * (w2_a @ w2_b)
    return Adapter(tensors, deltas)


def lokr(*, low_rank: str = "", rank: int = 4, alpha: float | None = None, blocks: int = 8, seed: int = 0) -> Adapter:
    """Kronecker products ``kron(w1, w2)``, w1 of shape (blocks, blocks); `low_rank` names the factors that are split.

    With both factors whole, alpha has no meaning: LyCORIS then writes one and takes the factor as 1.
    """
    factors, tensors, deltas = Factors(seed), {}, {}
    factor = alpha / rank if alpha is not None and low_rank else 1.0

    def operand(name: str, rows: int, columns: int, scale: float) -> Array:
        if name not in low_rank.split():
            tensors[name_of(name)] = whole = factors.draw(rows, columns, scale=scale)
            return whole
        tensors[name_of(name + "_a")] = a = factors.draw(rows, rank, scale=scale * rank**-0.5)
        tensors[name_of(name + "_b")] = b = factors.draw(rank, columns)
        return np.asarray(a @ b)

    for module in (*SQUARE, *WIDE):
        out, inp = shape_of(module)

        def name_of(part: str, module: str = module) -> str:
            return f"diffusion_model.{module}.lokr_{part}"

        w1 = operand("w1", blocks, blocks, 1.0)
        w2 = operand("w2", out // blocks, inp // blocks, STRENGTH / factor * inp**-0.5)
        if alpha is not None:
            tensors[f"diffusion_model.{module}.alpha"] = np.array(alpha, np.float32)
        deltas[f"{MODEL}{module}.weight"] = np.float32(factor) * np.kron(w1, w2)
    return Adapter(tensors, deltas)


def dora(magnitude: str, *, seed: int = 0) -> Adapter:
    """A LoRA with DoRA's magnitudes, named as LyCORIS or as peft does; the `deltas` leave them out."""
    plain, factors = lora(seed=seed), Factors(seed + 1)
    return plain.with_tensors(
        {f"diffusion_model.{module}.{magnitude}": 1 + factors.draw(shape_of(module)[0], scale=0.1) for module in SQUARE}
    )


def wide_model(directory: Path) -> TinyModel:
    """The tiny model with rows of 256 weights and more, which the types with blocks of 256 need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "HIDDEN", WIDE_HIDDEN)
        return write_model(directory)
