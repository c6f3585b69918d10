"""Which fields of `Cache` each mode reads."""

from __future__ import annotations

from dataclasses import fields

from .sampling import Cache

__all__ = ["CACHE_FIELDS", "FORECAST", "PERCENTS", "heeded"]

PERCENTS = ("start_percent", "end_percent")
_LIMITS = ("max_warmup_steps", "max_cached_steps", "max_continuous_cached_steps", "scm_mask", "scm_policy_dynamic")
FORECAST = ("taylorseer_n_derivatives",)
CACHE_FIELDS: dict[str, tuple[str, ...]] = {
    "easycache": ("reuse_threshold", *PERCENTS),
    "ucache": (
        "reuse_threshold", *PERCENTS, "error_decay_rate", "use_relative_threshold", "reset_error_on_compute"
    ),
    "dbcache": ("residual_diff_threshold", *_LIMITS),
    "taylorseer": ("taylorseer_skip_interval", *FORECAST, *_LIMITS),
    "cache_dit": ("residual_diff_threshold", *FORECAST, *_LIMITS),
    "spectrum": tuple(item.name for item in fields(Cache) if item.name.startswith("spectrum_")),
}  # fmt: skip


def heeded(cache: Cache) -> Cache:
    """Return the cache without the fields that its mode does not read; with an unknown mode as it is."""
    if cache.mode not in CACHE_FIELDS:
        return cache
    read = CACHE_FIELDS[cache.mode]
    return Cache(mode=cache.mode, **{name: value for name, value in cache.given().items() if name in read})
