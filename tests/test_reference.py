"""Pictures are those of upstream's sd-cli, built from the same patched source: not one sample may differ.

Both sides keep their native defaults (which are the same) for all that a test does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdcli import THREADS, Pixels, SdCli

from sdcffi import Engine
from sdcffi.demo import DemoModel

SMALL: dict[str, Any] = {"prompt": "a lovely cat", "width": 64, "height": 64, "steps": 4, "seed": 42, "cfg_scale": 1.0}


@pytest.fixture(scope="module")
def engine(demo_model: DemoModel) -> Iterator[Engine]:
    with Engine(**demo_model.engine_arguments(), threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


def assert_same(ours: list[Pixels], theirs: list[Pixels]) -> None:
    assert [picture.shape for picture in ours] == [picture.shape for picture in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.std() > 10, "an empty picture proves nothing"
        assert np.max(np.abs(our.astype(int) - their.astype(int))) == 0


@pytest.mark.parametrize("scheduler", ["discrete", "karras"])
@pytest.mark.parametrize("sampler", ["euler", pytest.param("euler_a", marks=pytest.mark.slow), "dpm++2m"])
def test_sampler_and_scheduler_draw_as_sd_cli(
    sampler: str, scheduler: str, engine: Engine, demo_model: DemoModel, sd_cli: SdCli, tmp_path: Path
) -> None:
    parameters = {**SMALL, "sampler": sampler, "scheduler": scheduler}
    theirs = sd_cli.draw(demo_model, tmp_path, rng="cpu", **parameters)
    assert_same(engine.generate(**parameters).arrays, theirs)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"batch_count": 2, "width": 48, "height": 80}, id="batch of two, portrait"),
        pytest.param({"negative_prompt": "a dog", "cfg_scale": 3.0}, id="negative prompt"),
        pytest.param({"width": 96, "height": 64, "seed": 2**40 + 7}, id="landscape, large seed"),
        pytest.param({"prompt": "eine Katze, 猫, (red:1.2)", "steps": 2}, id="other letters, prompt weight"),
    ],
)
def test_parameters_act_as_in_sd_cli(
    changed: dict[str, Any], engine: Engine, demo_model: DemoModel, sd_cli: SdCli, tmp_path: Path
) -> None:
    parameters = {**SMALL, **changed}
    theirs = sd_cli.draw(demo_model, tmp_path, rng="cpu", **parameters)
    result = engine.generate(**parameters)
    assert_same(result.arrays, theirs)
    assert result.seeds == [parameters["seed"] + i for i in range(len(theirs))]


def test_defaults_are_those_of_sd_cli(
    open_engine: Callable[..., Engine], demo_model: DemoModel, sd_cli: SdCli, tmp_path: Path
) -> None:
    small: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 3}  # not cfg_scale, rng, ...
    theirs = sd_cli.draw(demo_model, tmp_path, seed=42, **small)
    assert_same(open_engine(demo_model).generate(**small, seed=42).arrays, theirs)


def test_quantising_while_loading_with_two_threads_is_that_of_sd_cli(
    open_engine: Callable[..., Engine], demo_model: DemoModel, sd_cli: SdCli, tmp_path: Path
) -> None:
    theirs = sd_cli.draw(demo_model, tmp_path, rng="cpu", type="q8_0", threads=2, **SMALL)
    assert_same(open_engine(demo_model, rng="cpu", type="q8_0", threads=2).generate(**SMALL).arrays, theirs)


def test_batch_pictures_are_those_of_their_seeds_alone(engine: Engine) -> None:
    batch = engine.generate(**SMALL, batch_count=2)
    for picture, seed in zip(batch.arrays, batch.seeds, strict=True):
        assert np.array_equal(picture, engine.generate(**{**SMALL, "seed": seed}).arrays[0])
