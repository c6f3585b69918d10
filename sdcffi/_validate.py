"""Refuse bad arguments before native code sees them, where the struct's types alone cannot tell."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from .params import ContextParams, ImageParams, SampleParams, StrPath

__all__ = ["check_context", "check_image", "check_lora_options", "resolve_seed"]

_MAX_SEED = (1 << 63) - 1


def check_context(params: ContextParams) -> ContextParams:
    """Check that there is a model and that its files exist; give the same with home directories expanded."""
    files = {name: value for name, value in params.given().items() if name.endswith("_path")}
    if not files.keys() & {"model_path", "diffusion_model_path"}:
        raise ValueError("nothing to load: give model= or diffusion_model=")
    for name, value in files.items():
        if isinstance(value, (str, os.PathLike)) and not Path(value).expanduser().exists():
            raise ValueError(f"{name.removesuffix('_path')}: {os.fspath(value)!r} does not exist")
    _at_least(1, n_threads=params.n_threads)
    expanded: dict[str, Any] = {name: Path(value).expanduser() for name, value in files.items()}
    return replace(params, **expanded)


def check_image(params: ImageParams) -> ImageParams:
    """Check counts, ranges and what needs what; give the same."""
    sample = params.sample_params or SampleParams()
    _at_least(1, width=params.width, height=params.height, steps=sample.sample_steps, batch_count=params.batch_count)
    if params.strength is not None and not 0 <= params.strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, not {params.strength!r}")
    if params.mask_image is not None and params.init_image is None:
        raise ValueError("mask_image needs init_image")
    return params


def check_lora_options(lora_dir: StrPath | None, lora_cache: int) -> Path | None:
    """Check where adapters are looked up and how many bytes of them are kept; give the directory."""
    _at_least(0, lora_cache=lora_cache)
    if lora_dir is None:
        return None
    directory = Path(lora_dir).expanduser()
    if not directory.is_dir():
        raise ValueError(f"lora_dir {directory} is not a directory")
    return directory


def _at_least(low: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, not {value!r}")


def resolve_seed(seed: int | None, batch_count: int | None) -> int:
    """Give the seed of the first picture of a batch; None and negative ones are drawn at random from 63 bits."""
    last = _MAX_SEED - max(batch_count or 1, 1) + 1  # picture i has seed + i
    if seed is None:
        return secrets.randbelow(last + 1)
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer, not {seed!r}")
    if seed > last:
        raise ValueError(f"seed must be at most {last}, not {seed!r}")
    return secrets.randbelow(last + 1) if seed < 0 else int(seed)
