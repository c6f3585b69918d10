"""The plan of every style's file for every family puts the same differences on the same rows, whatever their kind."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
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


@lru_cache
def changed(family: str, style: str, file: str) -> Changed | None:
    """Draw a file's differences, for the names that a style starts from; None where a family has no such modules."""
    which, kinds = FILES[file]
    modules = list(modules_of(small(family), STYLES[style]).values())
    if which != "all":  # every other part of fused weights: q and v, k and mlp
        modules = [module for module in modules if not module.is_whole][which == "odd" :: 2]
    turn = cycle(kinds)
    if not modules:
        return None

    def kind(_: int, module: object) -> Kind:
        return KINDS[next(turn)]

    return draw(modules, weights_of(family), kind)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("family", "style"), CASES, ids=str)
def test_plan_changes_the_rows_that_the_data_says(family: str, style: Style, file: str, tmp_path: Path) -> None:
    if file != "lora" and style.endings["down"].startswith("_"):
        pytest.skip("attention processors had LoRA only, on layers that are whole")
    expected = changed(family, style.name, file)
    if expected is None:
        pytest.skip("no weight of it is fused in these names")
    path, total = write_style(expected, style, family, tmp_path / "lora.safetensors")
    plan = plan_lora(read_lora(path), names(family), Lora(path))
    assert plan.left_out == ()
    assert plan.total == total == sum(len(module.used) for module in plan.modules)
    actual = changed_by_plan(plan, load_file(path), weights_of(family))
    assert actual.keys() == expected.weights.keys()
    for name, values in expected.weights.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
