"""The plan of every style's file for every family puts the same differences on the same rows, whatever their kind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from lora_data import ModuleData
from lora_kinds import Kind
from lora_styles import STYLES, Style
from lora_table import KINDS, Changed, changed_by_plan, draw, modules_of, small, weights_of, write_style
from safetensors.numpy import load_file

from sdcffi import Lora
from sdcffi._models.lora_file import read_lora
from sdcffi._models.lora_names import Names
from sdcffi._models.lora_plan import plan_lora

CASES = [(family, style) for style in STYLES.values() for family in sorted(style.families)]
# Which modules a file has, and of which kinds they are in turn.
FILES = {
    "lora": ("all", ("lora",)),
    "kinds": ("all", ("loha", "lokr", "dora", "diff")),
    "even parts": ("even", ("lora", "dora", "loha")),
    "odd parts": ("odd", ("lora", "lokr", "diff", "dora")),
}


@lru_cache
def names(family: str) -> Names:
    return Names(small(family).weights)


def chosen(family: str, style: str, file: str) -> list[ModuleData]:
    """Return the modules that a file has, among those for which a style has names."""
    which, _ = FILES[file]
    modules = list(modules_of(small(family), STYLES[style]).values())
    if which == "all":
        return modules
    return [module for module in modules if not module.is_whole][which == "odd" :: 2]  # q and v, k and mlp


def files() -> Iterator[tuple[str, Style, str]]:
    """Return all files that there are: some families have no fused weights, attention processors had LoRA only."""
    for family, style in CASES:
        kinds = ["lora"] if style.endings["down"].startswith("_") else list(FILES)
        yield from ((family, style, file) for file in kinds if chosen(family, style.name, file))


@lru_cache
def changed(family: str, style: str, file: str) -> Changed:
    """Draw a file's differences."""
    modules, turn = chosen(family, style, file), cycle(FILES[file][1])

    def kind(_: int, module: object) -> Kind:
        return KINDS[next(turn)]

    return draw(modules, weights_of(family), kind)


@pytest.mark.parametrize(("family", "style", "file"), list(files()), ids=str)
def test_plan_changes_the_rows_that_the_data_says(family: str, style: Style, file: str, tmp_path: Path) -> None:
    expected = changed(family, style.name, file)
    path, total = write_style(expected, style, family, tmp_path / "lora.safetensors")
    plan = plan_lora(read_lora(path), names(family), Lora(path))
    assert plan.left_out == ()
    assert plan.total == total == sum(len(module.used) for module in plan.modules)
    actual = changed_by_plan(plan, load_file(path), weights_of(family))
    assert actual.keys() == expected.weights.keys()
    for name, values in expected.weights.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
