"""Previews: of each kind, as many as asked for, of the right size, and without a trace in the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_model import TinyModel

from sdcffi import Engine, Hires, Preview
from sdcffi.images.compare import compare

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {"width": 64, "height": 32, "steps": 3, "cfg_scale": 1.0, "seed": 7}
SIZES = {"proj": (4, 8, 3), "tae": (32, 64, 3), "vae": (32, 64, 3)}  # one pixel a latent, which are 8 x 8 pixels


def draw(engine: Engine, **changed: Any) -> tuple[list[Preview], list[np.ndarray[Any, Any]]]:
    previews: list[Preview] = []
    result = engine.generate(**{"prompt": "a cat", **DRAW, **changed}, on_preview=previews.append)
    return previews, result.arrays


@pytest.fixture(scope="module")
def plain(shared: Engine) -> np.ndarray[Any, Any]:
    """What is drawn without previews."""
    return shared.generate("a cat", **DRAW).arrays[0].copy()


@pytest.mark.parametrize("mode", SIZES)
def test_each_mode_gives_a_frame_a_step_and_leaves_the_picture_alone(
    mode: str, shared: Engine, plain: np.ndarray[Any, Any]
) -> None:
    previews, arrays = draw(shared, preview=mode)
    assert [(preview.step, preview.image, preview.images) for preview in previews] == [(1, 1, 1), (2, 1, 1), (3, 1, 1)]
    frames = [frame for preview in previews for frame in preview.frames]
    assert [frame.shape for frame in frames] == [SIZES[mode]] * 3
    assert not np.array_equal(frames[0], frames[2]), "nothing develops"
    assert np.array_equal(arrays[0], plain)


@pytest.mark.parametrize("mode", ["tae", "vae"])
def test_the_last_steps_preview_is_the_result(mode: str, shared: Engine) -> None:
    previews, arrays = draw(shared, preview=mode, preview_interval=3)
    assert compare(previews[-1].frames[0], arrays[0]).largest <= 1  # the last step rounds on some engines


@pytest.mark.parametrize(("interval", "steps"), [(2, [2, 4]), pytest.param(3, [3], marks=pytest.mark.slow)])
def test_the_interval_counts_steps_anew_for_each_picture(interval: int, steps: list[int], shared: Engine) -> None:
    previews, _ = draw(shared, steps=5, preview_interval=interval, batch_count=2)
    assert [(preview.image, preview.step) for preview in previews] == [
        (image, step) for image in (1, 2) for step in steps
    ]


def test_a_second_pass_has_previews_of_its_size(shared: Engine) -> None:
    hires = Hires(upscaler="Latent", scale=2, steps=2)
    previews, _ = draw(shared, steps=2, preview_interval=2, hires=hires)
    assert [(preview.step, preview.frames[0].shape) for preview in previews] == [(2, (4, 8, 3)), (2, (8, 16, 3))]


def test_a_sampler_of_second_order_gives_one_preview_a_step(shared: Engine) -> None:
    previews, _ = draw(shared, sampler="heun")
    assert [preview.step for preview in previews] == [1, 2, 3]


def test_noisy_previews_show_what_goes_into_the_step(shared: Engine, plain: np.ndarray[Any, Any]) -> None:
    predicted, _ = draw(shared)
    noisy, arrays = draw(shared, preview_noisy=True)
    assert [preview.step for preview in noisy] == [1, 2, 3]
    assert {preview.is_noisy for preview in noisy} == {True}
    assert {preview.is_noisy for preview in predicted} == {False}
    other_predicted, _ = draw(shared, prompt="dogs")
    other_noisy, _ = draw(shared, prompt="dogs", preview_noisy=True)
    assert np.array_equal(noisy[0].frames[0], other_noisy[0].frames[0]), "at first it is the seed's noise"
    assert not np.array_equal(predicted[0].frames[0], other_predicted[0].frames[0])
    assert not np.array_equal(noisy[1].frames[0], other_noisy[1].frames[0])
    assert np.array_equal(arrays[0], plain)


def test_frames_outlive_the_engine_and_are_the_callers(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, isolated=False)
    previews, _ = draw(engine, preview="vae", steps=2)
    before = [preview.frames[0].copy() for preview in previews]
    previews[0].frames[0][:] = 0
    engine.generate("a dog", **{**DRAW, "steps": 1})
    engine.close()
    assert np.array_equal(previews[1].frames[0], before[1])
    assert before[0].any()


@pytest.mark.parametrize("written", ["tae ", " VAE", "Proj "])
def test_modes_are_found_by_other_spellings(written: str, shared: Engine) -> None:
    expected, _ = draw(shared, preview=written.strip().lower(), steps=1)
    found, _ = draw(shared, preview=written, steps=1)
    assert np.array_equal(found[0].frames[0], expected[0].frames[0])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"preview": "rough"}, ValueError, "preview must be one of none, proj, tae, vae, not 'rough'"),
        ({"preview": ""}, ValueError, "preview must be one of .*, not ''"),
        ({"preview_interval": None}, TypeError, "preview_interval must be an integer, not None"),
        ({"preview_interval": 0}, ValueError, "preview_interval must be at least 1, not 0"),
        ({"preview_noisy": 1}, TypeError, "preview_noisy must be True or False, not 1"),
    ],
)
def test_bad_previews_are_refused(
    changed: dict[str, Any], error: type[Exception], message: str, shared: Engine
) -> None:
    lines: list[object] = []
    with pytest.raises(error, match=message):
        draw(shared, **changed, on_log=lines.append)
    assert lines == []
