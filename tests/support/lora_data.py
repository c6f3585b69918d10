"""The data about names that `lora_oracle` wrote: `tests/data/lora_names`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "FamilyData", "ModuleData", "Rows", "families", "load", "with_weights"]

FOLDER = Path(__file__).parent.parent / "data/lora_names"


@dataclass(frozen=True)
class Rows:
    """Rows of a module that are rows of an original weight, whose name is the engine's."""

    weight: str
    weight_row: int
    module_row: int
    rows: int


@dataclass(frozen=True)
class ModuleData:
    """A module of diffusers.

    Attributes
    ----------
    name : str
        diffusers' name.
    places : tuple of Rows
        Where its rows are, in the order of the module's rows.
    bias : tuple of Rows
        Where its bias' rows are. Empty: it has none.
    shape : tuple of int
        Of its weight.
    covers : bool
        Whether its first place's weight has its shape.
    """

    name: str
    places: tuple[Rows, ...]
    bias: tuple[Rows, ...]
    shape: tuple[int, ...]
    covers: bool

    @property
    def is_whole(self) -> bool:
        """Whether it is one original weight."""
        return len(self.places) == 1 and self.covers


@dataclass(frozen=True)
class FamilyData:
    """A family.

    Attributes
    ----------
    name : str
        The data file's.
    prefix : str
        What the engine has before the original names.
    source : str
        What the data rest on.
    weights : dict of str to tuple of int
        Shapes of all tensors of the engine, rows first, by the engine's names.
    modules : dict of str to ModuleData
        Modules of diffusers by name.
    namings : dict of str to dict of str to ModuleData
        Modules of tools that call them otherwise, by tool.
    prefixes : dict of str to str
        Of a text encoder: what the engine has before the names, by family.
    """

    name: str
    prefix: str
    source: str
    weights: dict[str, tuple[int, ...]]
    modules: dict[str, ModuleData]
    namings: dict[str, dict[str, ModuleData]]
    prefixes: dict[str, str]


def families() -> list[str]:
    """Return the names of the families of denoisers."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    return [name for name in names if name != "written" and not name.startswith("text_")]


def _expand(name: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a pattern stands for, and the numbers of their blocks."""
    found = re.search(r"\{(\d+)-(\d+)\}", name)
    if not found:
        yield name, ""
        return
    for number in range(int(found[1]), int(found[2]) + 1):
        yield name.replace(found[0], str(number)), str(number)


def _weights(contents: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    weights: dict[str, tuple[int, ...]] = {}
    for pattern, value in contents["weights"].items():
        text, bias, _ = value.partition("+b")
        shape = tuple(map(int, text.split("x")))
        for name, _ in _expand(pattern):
            weights[contents["prefix"] + name] = shape
            if bias:
                weights[contents["prefix"] + re.sub("weight$", "bias", name)] = shape[:1]
    return weights


def _module(name: str, entry: Any, number: str, prefix: str, weights: dict[str, tuple[int, ...]]) -> ModuleData:
    places: list[Rows] = []
    biases: list[Rows] = []
    outputs = 0
    parts: list[tuple[str, int, int, int, int]] = [(entry, 0, 0, 1, 1)] if isinstance(entry, str) else entry
    for weight, weight_row, module_row, rows, units in parts:
        weight = prefix + weight.replace("{}", number)
        unit = weights[weight][0] // units
        place = Rows(weight, weight_row * unit, module_row * unit, rows * unit)
        places.append(place)
        outputs += place.rows
        bias = re.sub("weight$", "bias", weight)
        if bias != weight and bias in weights:
            biases.append(Rows(bias, place.weight_row, place.module_row, place.rows))
    shape = (outputs, *weights[places[0].weight][1:])
    return ModuleData(name, tuple(places), tuple(biases), shape, weights[places[0].weight] == shape)


def _modules(entries: dict[str, Any], prefix: str, weights: dict[str, tuple[int, ...]]) -> dict[str, ModuleData]:
    return {
        name: _module(name, entry, number, prefix, weights)
        for pattern, entry in entries.items()
        for name, number in _expand(pattern)
    }


@lru_cache
def load(name: str, prefix: str | None = None) -> FamilyData:
    """Return the data of a family, or of a text encoder under a prefix of the engine's."""
    contents = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if prefix is not None:
        contents["prefix"] = prefix
    weights = _weights(contents)
    namings = {
        naming: _modules(found["modules"], contents["prefix"], weights)
        for naming, found in contents.get("namings", {}).items()
    }
    return FamilyData(
        name,
        contents["prefix"],
        contents["source"],
        weights,
        _modules(contents["modules"], contents["prefix"], weights),
        namings,
        contents.get("prefixes", {}),
    )


def with_weights(name: str, weights: dict[str, tuple[int, ...]], depth: tuple[int, int] = (0, 0)) -> FamilyData:
    """Return the data of a family for a model of other sizes: the modules whose weights it has, by the engine's names.

    Rows are counted in parts of a weight, so a model of any width has the same. `depth` is the data's number of blocks,
    the last of which is special, and the model's.
    """
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    if depth[0] != depth[1]:
        old, new = depth
        for back in (1, 2):
            text = text.replace(f"-{old - back}}}", f"-{new - back}}}")
        text = text.replace(f"blocks.{old - 1}.", f"blocks.{new - 1}.")
    contents = json.loads(text)
    prefix = contents["prefix"]
    modules: dict[str, ModuleData] = {}
    for pattern, entry in contents["modules"].items():
        for module, number in _expand(pattern):
            parts = [entry] if isinstance(entry, str) else [part[0] for part in entry]
            if all(prefix + part.replace("{}", number) in weights for part in parts):
                modules[module] = _module(module, entry, number, prefix, weights)
    return FamilyData(name, prefix, contents["source"], weights, modules, {}, {})
