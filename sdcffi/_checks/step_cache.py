"""Check the caching of results between steps: each mode reads its own fields, and no field is without effect."""

from __future__ import annotations

import re

from .._models.files import Model
from .._numbers import check_integer, check_number
from .._quoting import shown
from ..params.sampling import Cache
from ..params.step_cache import CACHE_FIELDS, FORECAST, PERCENTS

__all__ = ["check_cache"]

_MOST_STEPS = 10_000
_BLOCKS = ("Fn_compute_blocks", "Bn_compute_blocks")


def check_cache(cache: Cache | None, model: Model, defaults: Cache | None) -> None:
    """Check the caching of results between steps, where the engine has its own `defaults`.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set, or if the cache has no effect on the model, or a field none in its mode.
    """
    if cache is None:
        return
    kind = model.architecture
    if kind and cache.mode in kind.idle_caches:
        raise ValueError(
            f"cache.mode {shown(cache.mode)} has no effect on {kind.title}; use {', '.join(kind.acting_caches)}"
        )
    _check_numbers(cache)
    _check_effect(cache)
    whole = defaults.updated(cache) if defaults else cache
    start, end = whole.start_percent, whole.end_percent
    if cache.mode in ("easycache", "ucache") and start is not None and end is not None and not start < end:
        raise ValueError(f"cache.end_percent must be above start_percent {start:.7g}, not {end:.7g}")


def _check_numbers(cache: Cache) -> None:
    for name in (*PERCENTS, "spectrum_stop_percent", "spectrum_w"):
        check_number(f"cache.{name}", getattr(cache, name), 0, 1)
    for name in ("reuse_threshold", "error_decay_rate", "residual_diff_threshold", "spectrum_flex_window"):
        check_number(f"cache.{name}", getattr(cache, name), 0)
    check_number("cache.spectrum_lam", cache.spectrum_lam, 0)
    for name in (*_BLOCKS, "max_warmup_steps", "spectrum_warmup_steps"):
        check_integer(f"cache.{name}", getattr(cache, name), 0, _MOST_STEPS)
    for name in ("max_cached_steps", "max_continuous_cached_steps"):
        check_integer(f"cache.{name}", getattr(cache, name), -1, _MOST_STEPS, "-1: no limit")
    for name in (*FORECAST, "taylorseer_skip_interval", "spectrum_m", "spectrum_window_size"):
        check_integer(f"cache.{name}", getattr(cache, name), 1, 100)
    if cache.scm_mask and not re.fullmatch(r"[01](,[01])*", cache.scm_mask):
        raise ValueError(f"cache.scm_mask must be like '1,1,0,1', not {shown(cache.scm_mask)}")


def _check_effect(cache: Cache) -> None:
    given = cache.given()
    for name in _BLOCKS:
        if name in given:
            raise ValueError(
                f"cache.{name} has no effect, because the engine reuses results of the whole network, not of its"
                " blocks: leave it out"
            )
    read = CACHE_FIELDS.get(cache.mode, tuple(given))  # the library has the names of modes
    for name in given.keys() - {"mode", *read}:
        raise ValueError(f"cache.{name} has no effect with mode {shown(cache.mode)}, which reads {', '.join(read)}")
    if "scm_policy_dynamic" in given and not cache.scm_mask:
        raise ValueError("cache.scm_policy_dynamic has no effect without scm_mask: pass both")
