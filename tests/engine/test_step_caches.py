"""Step caches: each parameter decides which steps are computed, or is refused; images stay near those without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sdcli import THREADS
from tiny_model import TinyModel

from sdcffi import Cache, Engine, Result, SkipLayerGuidance, demo_model
from sdcffi._checks.step_cache import check_cache
from sdcffi._models.files import Model
from sdcffi.images.compare import compare
from sdcffi.params.step_cache import heeded

CALL: dict[str, Any] = {"prompt": "a lovely cat", "width": 32, "height": 32, "steps": 12, "seed": 42, "cfg_scale": 1.0}
ALWAYS = {"residual_diff_threshold": 1000.0}
SINCE_2 = {**ALWAYS, "max_warmup_steps": 1}
SEER = {"mode": "taylorseer", "taylorseer_skip_interval": 3, "max_warmup_steps": 2}


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(**tiny_model.engine_arguments(), threads=THREADS, backend="cpu", rng="cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def demo() -> Iterator[Engine]:
    with Engine(**demo_model(), threads=THREADS, backend="cpu") as engine:
        yield engine


def draw(engine: Engine, cache: Cache | None = None, **changes: Any) -> Result:
    return engine.generate(**{**CALL, **changes}, cache=cache)


@pytest.mark.parametrize(
    ("cache", "reused"),
    [
        ({"mode": "dbcache", "residual_diff_threshold": 0.0}, []),
        ({"mode": "dbcache", **ALWAYS, "max_warmup_steps": 1000}, []),
        ({"mode": "dbcache", **ALWAYS, "max_warmup_steps": 5}, range(6, 12)),
        ({"mode": "dbcache", **SINCE_2, "max_cached_steps": 4}, range(2, 6)),
        ({"mode": "dbcache", **SINCE_2, "max_cached_steps": 0}, []),
        ({"mode": "dbcache", **SINCE_2, "max_continuous_cached_steps": 2}, [2, 3, 5, 6, 8, 9, 11]),
        ({"mode": "dbcache", **SINCE_2, "max_cached_steps": 3, "max_continuous_cached_steps": 1}, [2, 4, 6]),
        ({"mode": "dbcache", **ALWAYS, "scm_mask": "1,1,0,0,1,1,1,1,0,1,1,0"}, [3, 4, 9, 12]),
        ({"mode": "dbcache", **ALWAYS, "scm_mask": "0,0,1"}, [2, *range(4, 12)]),
        ({"mode": "dbcache", "scm_mask": "1,0,0,1,1,1,1,1,1,1,1,1", "scm_policy_dynamic": False}, [2, 3]),
        ({"mode": "dbcache", "residual_diff_threshold": 0.0, "scm_mask": "1,0,0,1,1,1,1,1,1,1,1,1"}, []),
        ({"mode": "cache_dit", **SINCE_2, "max_continuous_cached_steps": 1}, [2, 4, 6, 8, 10]),
        (SEER, [3, 4, 6, 7, 9, 10]),
        (SEER | {"max_continuous_cached_steps": 1}, [3, 5, 7, 9, 11]),
        (SEER | {"taylorseer_skip_interval": 1}, []),
        (SEER | {"scm_mask": "1,1,1,0,0,0,0,1,1,1,1,1"}, [4, 5, 7]),
        (SEER | {"scm_mask": "1,1,1,0,0,0,0,1,1,1,1,1", "scm_policy_dynamic": False}, [4, 5, 6, 7]),
        ({"mode": "easycache", "reuse_threshold": 0.0}, []),
        ({"mode": "easycache", "reuse_threshold": 1000.0, "end_percent": 0.5}, None),
        ({"mode": "spectrum", "spectrum_flex_window": 0.0, "spectrum_warmup_steps": 6}, [7]),
        ({"mode": "spectrum", "spectrum_flex_window": 0.0, "spectrum_stop_percent": 1.0}, [5, 7, 9, 11]),
        ({"mode": "spectrum", "spectrum_stop_percent": 0.0}, []),
        ({"mode": "spectrum", "spectrum_window_size": 1, "spectrum_flex_window": 0.0}, []),
    ],
)
def test_parameters_decide_which_steps_are_reused(engine: Engine, cache: dict[str, Any], reused: Any) -> None:
    result = draw(engine, Cache(**cache))
    if reused is None:
        assert result.cached_steps[0]
        assert max(result.cached_steps[0]) < 10
    else:
        assert result.cached_steps == (tuple(reused),)
    same = np.array_equal(result.arrays[0], draw(engine).arrays[0])
    assert same != bool(result.cached_steps[0])


def test_every_pass_counts(engine: Engine) -> None:
    cache = Cache(mode="dbcache", scm_mask="1,0,1", scm_policy_dynamic=False)
    assert draw(engine, cache, steps=3, batch_count=2).cached_steps == ((2,), (2,))
    assert draw(engine, steps=3, batch_count=2).cached_steps == ((), ())


def test_skipped_layers_do_not_get_into_the_cache(engine: Engine) -> None:
    """A step of guidance by skipped layers runs the network twice for the prompt; only the first result is kept."""
    mask = "1,1,1,1,1,0,1,1,1,1,1,1"
    cache = Cache(mode="dbcache", scm_mask=mask, scm_policy_dynamic=False)
    slg = SkipLayerGuidance(layers=[0, 3], layer_start=0.0, layer_end=0.45, scale=1e-6)  # the last one is step 5
    guided, plain = draw(engine, cache, slg=slg), draw(engine, cache)
    assert guided.cached_steps == plain.cached_steps == ((6,),)
    assert compare(guided.arrays[0], plain.arrays[0]).psnr > 45


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ({"mode": "dbcache", "Fn_compute_blocks": 8}, "Fn_compute_blocks has no effect, because the engine reuses"),
        ({"mode": "cache_dit", "Bn_compute_blocks": 0}, "Bn_compute_blocks has no effect"),
        ({"mode": "dbcache", "reuse_threshold": 0.1}, "reuse_threshold has no effect with mode 'dbcache', which reads"),
        ({"mode": "dbcache", "taylorseer_n_derivatives": 1}, "taylorseer_n_derivatives has no effect"),
        ({"mode": "cache_dit", "taylorseer_skip_interval": 2}, "taylorseer_skip_interval has no effect"),
        ({"mode": "taylorseer", "residual_diff_threshold": 0.1}, "residual_diff_threshold has no effect"),
        ({"mode": "easycache", "max_warmup_steps": 3}, "max_warmup_steps has no effect"),
        ({"mode": "spectrum", "max_warmup_steps": 3}, "max_warmup_steps has no effect"),
        ({"mode": "dbcache", "scm_policy_dynamic": True}, "scm_policy_dynamic has no effect without scm_mask"),
    ],
)
def test_what_would_have_no_effect_is_refused(cache: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"cache\.{said}"):
        check_cache(Cache(**cache), Model(), None)
    if "without" not in said:
        check_cache(heeded(Cache(**cache)), Model(), None)


@pytest.mark.parametrize("steps", [8, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (12, 20, 50))])
def test_by_default_an_image_stays_within_35_decibels(demo: Engine, steps: int) -> None:
    call = {"prompt": "a red heart on a blue background", "width": 128, "height": 128, "steps": steps, "cfg_scale": 2.0}
    whole = draw(demo, **call)
    for mode in ("easycache", "dbcache", "taylorseer", "cache_dit", "spectrum"):
        result = draw(demo, Cache(mode=mode), **call)
        assert result.cached_steps[0], mode
        assert compare(whole.arrays[0], result.arrays[0]).psnr > 35, mode
