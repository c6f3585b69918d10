"""What an engine fills in where a call says nothing: in the image, in the result and in its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import STATED, TinyModel

import sdcffi
from sdcffi import ContextParams, Engine, ImageParams, Record, replay
from sdcffi._models.headers import read_metadata
from sdcffi.demo import SETTINGS, demo_model
from sdcffi.engine.resuming import Request

OpenEngine = Callable[..., Engine]

STATING = {"sdcffi.width": "64", "sdcffi.height": "96", "sdcffi.steps": "2", "sdcffi.cfg_scale": "1.5"}


@pytest.fixture(scope="module")
def small(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The tiny model with other statements in its file."""
    path = tmp_path_factory.mktemp("small") / "dit.safetensors"
    save_file(load_file(tiny_model.diffusion_model), path, STATING)
    return with_network(tiny_model, path)


def with_network(model: TinyModel, path: Path) -> TinyModel:
    return TinyModel(diffusion_model=path, llm=model.llm, taesd=model.taesd, lora=model.lora)


@pytest.fixture(scope="module")
def stating(small: TinyModel) -> Iterator[Engine]:
    with Engine(**small.engine_arguments(), threads=1, backend="cpu") as engine:
        yield engine


def test_a_call_without_arguments_is_as_the_file_says(stating: Engine, tmp_path: Path) -> None:
    result = stating.generate("a cat", seed=1)
    assert result.arrays[0].shape == (96, 64, 3)
    asked = stating.generate("a cat", seed=1, width=64, height=96, steps=2, cfg_scale=1.5)
    assert np.array_equal(result.arrays[0], asked.arrays[0])
    assert result.parameters == asked.parameters
    source = "metadata of dit.safetensors"
    record = result.record(digests=False)
    assert record.defaults == dict.fromkeys(("width", "height", "steps", "cfg_scale"), source)
    assert Record.from_json(record.to_json()) == record
    assert asked.record(digests=False).defaults is None


def test_an_argument_wins(stating: Engine) -> None:
    result = stating.generate("a cat", seed=1, width=32, steps=1)
    assert result.arrays[0].shape == (96, 32, 3)
    assert result.record(digests=False).defaults.keys() == {"height", "cfg_scale"}  # type: ignore[union-attr]


def test_an_image_still_decides_the_size(stating: Engine) -> None:
    result = stating.generate("a cat", seed=1, init_image=np.zeros((48, 80, 3), np.uint8), steps=1)
    assert result.arrays[0].shape == (48, 80, 3)


def test_defaults_shows_each_value_with_its_source(stating: Engine, shared: Engine) -> None:
    found = stating.defaults()
    assert found["steps"] == sdcffi.Default(2, "metadata of dit.safetensors")
    assert found["guidance"] == sdcffi.Default(3.5, "the engine")
    assert found["sampler"].value == stating.capabilities().default_sampler
    assert found["clip_skip"] == sdcffi.Default(None, "the engine")
    assert "video_frames" not in found
    assert {name: found[name].value for name in ("width", "height")} == {"width": 64, "height": 96}
    assert shared.defaults()["width"].value == int(STATED["sdcffi.width"])


def test_the_engine_s_own_are_used_on_request(small: TinyModel, open_engine: OpenEngine) -> None:
    engine = open_engine(small, defaults="engine")
    found = engine.defaults()
    assert (found["width"].value, found["steps"].value, found["cfg_scale"].value) == (512, 20, 7.0)
    assert {default.source for default in found.values()} == {"the engine"}
    result = engine.generate("a cat", seed=1, width=64, steps=1, height=64)
    assert result.parameters.sample_params is not None
    assert result.parameters.sample_params.guidance is None or result.parameters.sample_params.guidance.txt_cfg is None
    assert result.record(digests=False).defaults is None
    with pytest.raises(ValueError, match="defaults must be 'model' or 'engine', not 'mine'"):
        open_engine(small, defaults="mine")


def test_a_record_is_replayed_as_it_was_made(
    small: TinyModel, stating: Engine, open_engine: OpenEngine, tmp_path: Path
) -> None:
    new = stating.generate("a cat", seed=1).save(tmp_path / "new.png")[0]
    # An older one has nothing that says what was filled in: the engine's own values were used.
    older = open_engine(small, defaults="engine").generate("a cat", seed=1, width=64, height=64, steps=1)
    old = older.save(tmp_path / "old.png")[0]
    for path in (new, old):
        again = replay(path, models=[small.diffusion_model.parent, small.llm.parent], threads=1)
        assert again.max_difference == 0


def test_a_batch_goes_on_whatever_was_filled_in(small: TinyModel, stating: Engine, tmp_path: Path) -> None:
    path = stating.generate("a cat", seed=1).save(tmp_path / "out.png")[0]
    files = {f"{name}_path": file for name, file in small.engine_arguments().items()}

    def difference(keywords: dict[str, Any] | None = None, **params: Any) -> str | None:
        request = Request({"context": ContextParams(**files), **(keywords or {})})
        call = {"prompt": "a cat", "params": ImageParams(seed=1, **params)}
        return request.difference(path, 0, call)

    assert difference() is None
    assert difference(width=64) is None  # as it was filled in
    assert difference(width=32) == "differs in width"
    assert difference({"defaults": "engine"}) == "differs in defaults"


def test_parameters_from_an_image_are_whole(stating: Engine, tmp_path: Path) -> None:
    path = stating.generate("a cat", seed=1).save(tmp_path / "out.png")[0]
    read = sdcffi.read_arguments(path)
    assert read.engine["defaults"] == "engine"
    assert read.generate["params"].width == 64


def test_a_model_keeps_its_statements_when_it_is_converted(small: TinyModel, tmp_path: Path) -> None:
    path = sdcffi.convert(small.diffusion_model, tmp_path / "dit.gguf", type="q8_0")
    assert read_metadata(path) == STATING
    with Engine(**with_network(small, path).engine_arguments(), threads=1, backend="cpu") as engine:
        assert engine.defaults()["steps"] == sdcffi.Default(2, "metadata of dit.gguf")
        assert engine.generate("a cat", seed=1).arrays[0].shape == (96, 64, 3)


def test_the_model_in_the_package_states_what_it_was_measured_with() -> None:
    with Engine(**demo_model(), backend="cpu", load_weights=False) as engine:
        found = engine.defaults()
    assert {name: found[name].value for name in SETTINGS} == SETTINGS
