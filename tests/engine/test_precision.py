"""`precision`: what is rounded changes an image hardly, concerns its own engine alone, and is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ggml_cpu import Backend
from tiny_model import TinyModel

from sdcffi import ContextParams, Engine, Result, Upscaler, demo_model, replay
from sdcffi._bindings.session import Session
from sdcffi._machine.builds import locate
from sdcffi.images.compare import compare

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
DEMO: dict[str, Any] = {"width": 128, "height": 128, "steps": 8, "cfg_scale": 2.0, "seed": 42}


@pytest.fixture
def demo() -> Iterator[Engine]:
    with Engine(**demo_model(), backend="cpu", isolated=False) as engine:
        yield engine


@pytest.mark.parametrize("prompt", ["a red heart on a blue background", "a green star on a white background"])
def test_rounding_changes_an_image_hardly(demo: Engine, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a processor that is not faster at it."""
    exact = demo.generate(prompt, **DEMO).arrays[0].copy()
    backend = Backend(locate().backends["cpu"][0])
    monkeypatch.setattr(Session, "_set_precision", lambda _: backend.round_products(True))
    rounded = demo.generate(prompt, **DEMO).arrays[0]
    assert compare(rounded, exact).psnr > 40
    assert np.array_equal(rounded, exact) != backend.can_round()


def test_each_engine_has_its_own(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    exact, fast = (open_engine(tiny_model, isolated=False, precision=name) for name in (None, "fast"))
    before = exact.generate(**DRAW).arrays[0].copy()
    near = fast.generate(**DRAW).arrays[0].copy()
    assert compare(near, before).psnr > 40
    assert np.array_equal(exact.generate(**DRAW).arrays[0], before)
    assert np.array_equal(fast.generate(**DRAW).arrays[0], near)


@pytest.mark.parametrize("given", [{"precision": " Fast"}, {"context": ContextParams(precision="FAST")}])
def test_records_have_it(open_engine: OpenEngine, tiny_model: TinyModel, given: dict[str, Any], tmp_path: Path) -> None:
    result = open_engine(tiny_model, **given).generate(**DRAW)
    assert result.record().context.precision == "fast"
    again = replay(result.save(tmp_path / "a.png")[0], models=tiny_model.diffusion_model.parent)
    assert isinstance(again.result, Result)
    assert again.result.record().context.precision == "fast"
    assert again.max_difference == 0


def test_it_is_exact_by_default(shared: Engine) -> None:
    origin = shared.generate(**DRAW).origin
    assert origin is not None
    assert origin.resolved_context.precision == "exact"


@pytest.mark.parametrize(("wrong", "error"), [("bf16", ValueError), ("", ValueError), (16, TypeError)])
def test_other_names_are_refused(wrong: Any, error: type[Exception], tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(error, match="precision must be"):
        Engine(**tiny_model.engine_arguments(), precision=wrong)
    with pytest.raises(error, match="precision must be"):
        Upscaler(tmp_path, precision=wrong)
