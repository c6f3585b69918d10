"""LoRA files of every style for models of every family, and in numpy what they make of the weights.

`draw` makes the differences from diffusers' data about rows, `LoraTable.file` writes them as a style does, and `merge`
computes what a plan of the package says. The first and the last share no code with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import lora_formulas as formulas
import lora_kinds
import numpy as np
from lora_data import FamilyData, ModuleData, Rows, load, with_weights
from lora_formulas import Array, Tensors
from lora_kinds import Drawn, Factors, Kind, Layer, named
from lora_references import write
from lora_styles import Style

from sdcffi.params.lora_plan import LoraPlan, Module, Place

__all__ = ["KINDS", "Changed", "changed_by_plan", "draw", "modules_of", "small", "weights_of", "write_style"]

_LEAST = 64  # channels that a small model has one of


def _lokr(factors: Factors, layer: Layer) -> Drawn:
    halves = [2 if size % 2 == 0 else 1 for size in layer.weight.shape[:2]]
    return lora_kinds.lokr(factors, layer, blocks=(halves[0], halves[1]))


# Kinds by name; "lora" has each style's own endings, the others have LyCORIS'.
KINDS: Mapping[str, Kind] = {
    "lora": named(lora_kinds.lora, rank=2, alpha=None),
    "loha": named(lora_kinds.loha, rank=2),
    "lokr": _lokr,
    "dora": named(lora_kinds.dora, kind=named(lora_kinds.lora, rank=2)),
    "diff": lora_kinds.difference,
}


@dataclass(frozen=True)
class Changed:
    """Modules' tensors by their endings, and all weights that they change, merged."""

    tensors: Mapping[str, Tensors]
    weights: Tensors


@lru_cache
def small(family: str) -> FamilyData:
    """Return a family's data at a fraction of its width."""

    def less(size: int) -> int:
        return size if size % _LEAST else size // _LEAST

    full = load(family).weights
    return with_weights(family, {name: tuple(map(less, shape)) for name, shape in full.items()})


@lru_cache
def weights_of(family: str) -> Tensors:
    """Return random weights of `small`."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in small(family).weights.items()}


def modules_of(data: FamilyData, style: Style) -> dict[str, ModuleData]:
    """Return the modules that a style writes, by the names that it starts from."""
    modules = data.modules if style.uses == "diffusers" else original(data)
    return {name: module for name, module in modules.items() if style.writes(name, data.name)}


def original(data: FamilyData) -> dict[str, ModuleData]:
    """Return the original modules of a family."""
    modules = {}
    for weight, shape in data.weights.items():
        base, _, kind = weight.rpartition(".")
        if kind in ("weight", "scale") and weight.startswith(data.prefix):
            bias = (Rows(f"{base}.bias", 0, 0, shape[0]),) if f"{base}.bias" in data.weights else ()
            name = base.removeprefix(data.prefix)
            modules[name] = ModuleData(name, (Rows(weight, 0, 0, shape[0]),), bias, shape, True)
    return modules


def draw(
    modules: Iterable[ModuleData],
    weights: Mapping[str, Array],
    kind_of: Callable[[int, ModuleData], Kind],
    factors: Factors | None = None,
) -> Changed:
    """Draw an adapter for modules of a model, each of the kind that `kind_of` says; norms have differences."""
    factors = factors or Factors()
    tensors: dict[str, Tensors] = {}
    merged: Tensors = {}
    for i, module in enumerate(modules):
        bias = _gather(module.bias, weights) if module.bias else None
        layer = Layer(_gather(module.places, weights), bias)
        drawn = (kind_of(i, module) if layer.weight.ndim > 1 else KINDS["diff"])(factors, layer)
        tensors[module.name] = drawn.tensors
        _scatter(module.places, drawn.weight, merged, weights)
        if drawn.bias is not None:
            _scatter(module.bias, drawn.bias, merged, weights)
    return Changed(tensors, merged)


def _gather(places: Iterable[Rows], weights: Mapping[str, Array]) -> Array:
    ordered = sorted(places, key=lambda place: place.module_row)
    parts = [weights[place.weight][place.weight_row : place.weight_row + place.rows] for place in ordered]
    return np.concatenate(parts).astype(np.float32)


def _scatter(places: Iterable[Rows], values: Array, merged: Tensors, weights: Mapping[str, Array]) -> None:
    for place in places:
        whole = merged.setdefault(place.weight, np.array(weights[place.weight], np.float32))
        rows = values[place.module_row : place.module_row + place.rows]
        whole[place.weight_row : place.weight_row + place.rows] = rows.reshape(len(rows), *whole.shape[1:])


def write_style(
    changed: Changed, style: Style, family: str, path: Path, metadata: Mapping[str, str] | None = None
) -> tuple[Path, int]:
    """Write a LoRA file as a style names it; return it and the number of its tensors."""
    named_as = {"lora_down.weight": "down", "lora_up.weight": "up"}
    tensors: Tensors = {}
    for name, parts in changed.tensors.items():
        names = style.tensors(name, family)
        plain = parts.keys() <= {*named_as, "alpha"}
        for ending, values in parts.items():
            own = names[named_as[ending]] if plain and ending in named_as else ""
            tensors[own or f"{style.module(name, family)}.{ending}"] = values
    return write(tensors, path, metadata=metadata), len(tensors)


# What a plan says.


def changed_by_plan(plan: LoraPlan, tensors: Mapping[str, Array], weights: Mapping[str, Array]) -> Tensors:
    """Return all weights that a plan changes, merged."""
    merged: Tensors = {}
    for module in plan.modules:
        places = [_rows(place, weights) for place in module.places]
        before = _gather(places, weights)
        after = before + module.strength * (_merged(module, tensors, before) - before)
        _scatter(places, after, merged, weights)
    return merged


def _rows(place: Place, weights: Mapping[str, Array]) -> Rows:
    assert not place.transposed
    rows = place.rows or len(weights[place.weight]) - place.weight_row
    return Rows(place.weight, place.weight_row, place.module_row, rows)


def _merged(module: Module, tensors: Mapping[str, Array], before: Array) -> Array:
    parts = {role: np.asarray(tensors[name], np.float32) for role, name in module.tensors.items()}
    magnitude = parts.pop("magnitude", None)
    delta = np.float32(module.scale) * _difference(module.kind, parts, before).reshape(before.shape)
    if magnitude is None:
        return before + delta
    return formulas.dora(before, delta, magnitude, module.on_input)


def _difference(kind: str, parts: Tensors, before: Array) -> Array:
    if kind == "lora":
        return formulas.low_rank(parts["up"], parts["down"], parts.get("mid"))
    if kind == "loha":
        return formulas.loha(before, {f"hada_{role}": values for role, values in parts.items()})
    if kind == "lokr":
        return formulas.lokr(before, {f"lokr_{role}": values for role, values in parts.items()})
    assert kind == "diff"
    return parts["diff"]
