"""Each name that a tool gives to a module is found, at the rows that diffusers' own converters say."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import pytest
from lora_data import FOLDER, FamilyData, ModuleData, Rows, families, load
from lora_styles import STYLES, TEXT_STYLES, Style, TextStyle, text_names

from sdcffi._models.lora_names import Names
from sdcffi.params.lora_plan import Place

_FAMILIES = families()
_Wrong = dict[str, tuple[object, object]]


@lru_cache
def texts(family: str) -> dict[str, FamilyData]:
    """Return the data of a family's text encoders."""
    found = {name: load(name) for name in text_names(family)}
    return {name: load(name, data.prefixes[family]) for name, data in found.items()}


@lru_cache
def names(family: str, text: bool = True) -> Names:
    """Return the names of a model, whose weights are the data's, with its text encoders."""
    weights = dict(load(family).weights)
    for data in texts(family).values() if text else ():
        weights.update(data.weights)
    return Names(weights)


def rows(places: tuple[Place, ...] | None, outputs: int) -> object:
    """Return found places in the data's form, successive rows as one."""
    if places is None:
        return None
    found: list[Rows] = []
    for place in sorted(places, key=lambda place: place.module_row):
        count = place.rows or outputs
        last = found[-1] if found else None
        if last and last.weight == place.weight and last.weight_row + last.rows == place.weight_row:
            found[-1] = Rows(last.weight, last.weight_row, last.module_row, last.rows + count)
        else:
            found.append(Rows(place.weight, place.weight_row, place.module_row, count))
    return tuple(found)


def compare(found: Names, name: str, module: ModuleData, wrong: _Wrong) -> None:
    """Note where a name's places, or those of its bias, are not the module's."""
    for what, expected, places in (
        (name, module.places, found.find(name)),
        (f"{name} (bias)", module.bias, found.find_bias(name)),
    ):
        actual = rows(places, module.shape[0])
        if actual != (expected or None):
            wrong[what] = (actual, expected)


def original(data: FamilyData) -> dict[str, ModuleData]:
    """Return the original modules of a family."""
    modules = {}
    for name, shape in data.weights.items():
        base, _, kind = name.rpartition(".")
        if kind in ("weight", "scale"):
            bias = (Rows(f"{base}.bias", 0, 0, shape[0]),) if f"{base}.bias" in data.weights else ()
            short = base.removeprefix(data.prefix)
            modules[short] = ModuleData(short, (Rows(name, 0, 0, shape[0]),), bias, shape, True)
    return modules


@pytest.mark.parametrize(
    ("family", "style"), [(family, style) for style in STYLES.values() for family in sorted(style.families)], ids=str
)
def test_a_module_is_found_by_the_name_that_a_tool_gives_it(family: str, style: Style) -> None:
    data = load(family)
    modules = data.modules if style.uses == "diffusers" else original(data)
    written = {name: module for name, module in modules.items() if style.writes(name, family)}
    assert written
    wrong: _Wrong = {}
    for name, module in written.items():
        compare(names(family), style.module(name, family), module, wrong)
    assert not wrong, report(wrong, len(written))


@pytest.mark.parametrize("family", [family for family in _FAMILIES if load(family).namings])
def test_a_module_is_found_by_a_tool_s_own_names(family: str) -> None:
    wrong: _Wrong = {}
    for modules in load(family).namings.values():
        for name, module in modules.items():
            compare(names(family), name, module, wrong)
    assert not wrong, report(wrong, 0)


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_module_is_found_without_text_encoders(family: str) -> None:
    wrong: _Wrong = {}
    for name, module in load(family).modules.items():
        for style in ("diffusers", "bare", "kohya_diffusers"):
            compare(names(family, text=False), STYLES[style].module(name, family), module, wrong)
    assert not wrong, report(wrong, 0)


@pytest.mark.parametrize(
    ("family", "encoder", "style"),
    [(*pair, style) for style in TEXT_STYLES.values() for pair in style.prefixes],
    ids=str,
)
def test_a_module_of_a_text_encoder_is_found(family: str, encoder: str, style: TextStyle) -> None:
    wrong: _Wrong = {}
    for name, module in texts(family)[encoder].modules.items():
        compare(names(family), style.module(name, family, encoder), module, wrong)
    assert not wrong, report(wrong, 0)


_ENDING = re.compile(
    r"([._]lora(_linear_layer)?\.(up|down)\.weight|\.lora_(A|B)(\.default)?\.weight|\.lora_(up|down)\.weight|\.alpha)$"
)
_WRITTEN = json.loads((FOLDER / "written.json").read_text(encoding="utf-8"))["written"]


@pytest.mark.parametrize("entry", _WRITTEN, ids=[f"{item['tool']}-{item['family']}-{item['run']}" for item in _WRITTEN])
def test_a_tensor_that_a_tool_wrote_is_of_a_known_module(entry: dict[str, Any]) -> None:
    modules = [_ENDING.sub("", name) for name in entry["names"]]
    assert modules
    assert not [module for module in modules if names(entry["family"]).find(module) is None]


def report(wrong: _Wrong, total: int) -> str:
    """Return the first faults."""
    lines = [f"{name}: found {found}, expected {expected}" for name, (found, expected) in list(wrong.items())[:6]]
    return "\n".join([f"{len(wrong)} of {total} modules and biases", *lines])
