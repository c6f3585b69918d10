"""Tensors of a model's files that nothing uses are reported, and those that no model needs are not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel

from sdcffi import Engine
from sdcffi._bindings.causes import unused_tensor


def opened(tiny_model: TinyModel, folder: Path, isolated: bool, **more: Any) -> None:
    path = folder / "more.safetensors"
    save_file({**load_file(tiny_model.diffusion_model), **more}, str(path))
    arguments = {**tiny_model.engine_arguments(), "diffusion_model": path, "backend": "cpu", "isolated": isolated}
    with Engine(**arguments):
        pass


@pytest.mark.parametrize("isolated", [True, False])
def test_what_nothing_uses_is_reported(isolated: bool, tiny_model: TinyModel, tmp_path: Path) -> None:
    more = {f"model.diffusion_model.more.{number}.weight": np.ones((2, 2), np.float32) for number in range(5)}
    with pytest.warns(
        UserWarning, match=r"nothing uses 5 of the tensors .*'model\.diffusion_model\.more\.0\.weight'.* 2 more"
    ):
        opened(tiny_model, tmp_path, isolated, **more)


def test_what_no_model_needs_is_not(tiny_model: TinyModel, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(tiny_model, tmp_path, False, v_pred=np.ones(1, np.float32), logit_scale=np.ones(1, np.float32))


def test_the_engine_s_lines_are_told() -> None:
    line = "model.cpp:1026 - unknown tensor 'a.b.weight | f32 | 2 [2, 2, 1, 1, 1]' in model file"
    assert unused_tensor(line) == "a.b.weight"
    assert unused_tensor(line.replace("a.b.weight", "x.embeddings.position_ids")) is None
    assert unused_tensor("loading tensors") is None
