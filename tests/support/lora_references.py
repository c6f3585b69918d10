"""LoRA files for the tests' models, and in numpy exactly what each adds to the model's weights.

Every builder makes an `Adapter`: the tensors of the file, and the difference that they stand for at multiplier 1, by
the name of the model's tensor. `lora_kinds` draws each module's tensors and knows what they make of its weight.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lora_kinds
import numpy as np
import pytest
import tiny_model
from lora_formulas import Array, Tensors
from lora_kinds import STRENGTH, Factors, Kind, Layer, Rounding, bfloat16
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel, write_model

MODEL = "model.diffusion_model."
# Module by module: square ones in the double blocks, wide ones in the single blocks.
SQUARE = [f"double_blocks.{i}.img_attn.proj" for i in range(tiny_model.DOUBLE_BLOCKS)]
WIDE = [f"single_blocks.{i}.linear2" for i in range(tiny_model.SINGLE_BLOCKS)]
WIDE_HIDDEN = 256  # width of the variant for weight types with blocks of 256


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

    def write(self, path: Path, dtype: str = "F32") -> Path:
        return write(self.tensors, path, dtype)

    def merge(self, model: TinyModel, path: Path, multiplier: float = 1.0) -> TinyModel:
        """Write `model` with the differences added in float32, rounded to what the model's file holds."""
        return merge(model, [(self, multiplier)], path)


def merge(model: TinyModel, adapters: Iterable[tuple[Adapter, float]], path: Path) -> TinyModel:
    """Write `model` with several adapters, each at a multiplier, added to its weights in float32."""
    weights = load_file(model.diffusion_model)
    for name, delta in sums(adapters).items():
        old = weights[name]
        assert old.shape == delta.shape, f"{name}: {old.shape} and {delta.shape}"
        weights[name] = (old.astype(np.float32) + delta).astype(old.dtype)
    save_file(weights, path)
    return replace(model, diffusion_model=path)


def sums(adapters: Iterable[tuple[Adapter, float]]) -> Tensors:
    """Return what several adapters, each at a multiplier, add to each of the model's tensors."""
    total: Tensors = {}
    for adapter, multiplier in adapters:
        for name, delta in adapter.deltas.items():
            total[name] = total.get(name, np.float32(0)) + np.float32(multiplier) * delta
    return total


def write(tensors: Tensors, path: Path, dtype: str = "F32", metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors as a safetensors file, all of them as F32, F16 or BF16, but for integers."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    chunks: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        stored = "I64" if values.dtype == np.int64 else dtype
        raw = _stored(values, stored).tobytes()
        header[name] = {"dtype": stored, "shape": values.shape, "data_offsets": [offset, offset + len(raw)]}
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    return path


def _stored(values: Array, dtype: str) -> Array:
    if dtype == "I64":
        return values
    single = np.asarray(values, np.float32)
    if dtype == "BF16":
        return (single.view(np.uint32) >> 16).astype(np.uint16)
    return single.astype({"F32": np.float32, "F16": np.float16}[dtype])


# Any kind.


@dataclass(frozen=True)
class Target:
    """A module: its `root` in the file, up to what the kind appends, and the rows of the model's tensor that it is."""

    root: str
    tensor: str
    first: int = 0
    rows: int | None = None

    def of(self, weights: Mapping[str, Array]) -> Layer:
        """The layer as the model has it."""
        bias = weights.get(self.bias)
        return Layer(
            np.asarray(self.part(weights[self.tensor]), np.float32),
            None if bias is None else np.asarray(self.part(bias), np.float32),
        )

    @property
    def bias(self) -> str:
        return self.tensor.removesuffix(".weight") + ".bias"

    def part(self, whole: Array) -> Array:
        return whole[self.first :] if self.rows is None else whole[self.first : self.first + self.rows]


def adapter(
    weights: Mapping[str, Array], targets: Iterable[tuple[Target, Kind]], *, seed: int = 0, strength: float = STRENGTH
) -> Adapter:
    """Draw an adapter for modules of a model with these weights, each module of its kind."""
    factors, tensors, deltas = Factors(seed, strength=strength), {}, {}
    for target, kind in targets:
        layer = target.of(weights)
        drawn = kind(factors, layer)
        tensors |= {f"{target.root}.{name}": values for name, values in drawn.tensors.items()}
        changes = {target.tensor: drawn.weight - layer.weight}
        if drawn.bias is not None:
            assert layer.bias is not None
            changes[target.bias] = drawn.bias - layer.bias
        for name, change in changes.items():
            if name not in deltas:
                deltas[name] = np.zeros(weights[name].shape, np.float32)
            target.part(deltas[name])[...] = change
    return Adapter(tensors, deltas)


def of_kind(weights: Mapping[str, Array], kind: Kind, *, seed: int = 0) -> Adapter:
    """An adapter of one kind on the tiny model's square and wide modules."""
    modules = [Target(f"diffusion_model.{module}", f"{MODEL}{module}.weight") for module in (*SQUARE, *WIDE)]
    return adapter(weights, [(target, kind) for target in modules], seed=seed)


def norms(weights: Mapping[str, Array], kind: Kind, *, seed: int = 0) -> Adapter:
    """An adapter of the tiny model's norms, by diffusers' names."""
    targets = [
        Target(
            f"transformer.transformer_blocks.{i}.attn.{ours}",
            f"{MODEL}double_blocks.{i}.img_attn.norm.{theirs}.scale",
        )
        for i in range(tiny_model.DOUBLE_BLOCKS)
        for ours, theirs in (("norm_q", "query_norm"), ("norm_k", "key_norm"))
    ]
    return adapter(weights, [(target, kind) for target in targets], seed=seed, strength=2 * STRENGTH)


def parts(weights: Mapping[str, Array], kinds: Mapping[str, Kind], *, seed: int = 0) -> Adapter:
    """An adapter of some of the query, key and value that FLUX keeps in one matrix, each of its own kind."""
    width = tiny_model.HIDDEN
    streams = {"img": "to_{}", "txt": "add_{}_proj"}
    targets = [
        (
            Target(
                f"transformer.transformer_blocks.{i}.attn.{name.format(part)}",
                f"{MODEL}double_blocks.{i}.{stream}_attn.qkv.weight",
                first="qkv".index(part) * width,
                rows=width,
            ),
            kind,
        )
        for i in range(tiny_model.DOUBLE_BLOCKS)
        for stream, name in streams.items()
        for part, kind in kinds.items()
    ]
    return adapter(weights, targets, seed=seed, strength=6 * STRENGTH)


# Plain LoRA, by names of several tools.


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
    """Low-rank pairs; the modules take the `ranks` in turn. The model's rows are of about unit length."""
    factors, tensors, deltas = lora_kinds.Factors(seed, rounding), {}, {}
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


def wide_model(directory: Path) -> TinyModel:
    """The tiny model with rows of 256 weights and more, which the types with blocks of 256 need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "HIDDEN", WIDE_HIDDEN)
        return write_model(directory)
