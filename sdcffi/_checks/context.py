"""Refuse a bad context before native code sees it, in pure Python: nothing here loads the native library."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._machine.limits import MOST_THREADS
from .._models.files import Model, read_model
from .._models.weight_types import check_rules, check_type
from .._numbers import check_integer, check_number
from ..errors import PathNotFoundError
from ..params.context import ContextParams, Embedding
from ..params.struct import StrPath

__all__ = ["check_context", "check_lora_options", "resolve_seed"]

_MAX_SEED = (1 << 63) - 1
_MOST_BYTES = sys.maxsize  # of C's size_t, half


def check_context(params: ContextParams) -> tuple[ContextParams, Model]:
    """Check the files of a model by their headers, and the context's numbers and types.

    Parameters
    ----------
    params : ContextParams

    Returns
    -------
    params : ContextParams
        The same with absolute paths.
    model : Model
        What the files are, for `check_image` and `check_memory`.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal set, or what a file is and what is missing.
    """
    _check_settings(params)
    given = params.given()
    files = {name: _expanded(name, value) for name, value in given.items() if name.endswith("_path")}
    if not files.keys() & {"model_path", "diffusion_model_path"}:
        raise ValueError("nothing to load: give model= or diffusion_model=")
    expanded: dict[str, Any] = dict(files)
    if params.embeddings is not None:
        expanded["embeddings"] = _embeddings(params.embeddings)
    params = replace(params, **expanded)
    model = read_model(params)
    return _absolute(params), model


def _check_settings(params: ContextParams) -> None:
    check_integer("n_threads", params.n_threads, 1, MOST_THREADS, "the process ends where it gets no more")
    check_number("max_vram", params.max_vram, 0)
    check_integer("chroma_t5_mask_pad", params.chroma_t5_mask_pad, 0, 4096)
    check_type("wtype", params.wtype)
    check_rules("tensor_type_rules", params.tensor_type_rules)


def _expanded(name: str, value: Any) -> Path:
    try:
        path = Path(value)
    except TypeError as error:
        raise TypeError(f"{name.removesuffix('_path')} must be a path, not {value!r}") from error
    if "\0" in str(path):
        raise ValueError(f"{name.removesuffix('_path')} must not contain a NUL character: {str(path)!r}")
    return path.expanduser()


def _absolute(params: ContextParams) -> ContextParams:
    """A child loads the model again after a crash, when the working directory may be another."""
    paths: dict[str, Any] = {name: value.absolute() for name, value in params.given().items() if name.endswith("_path")}
    if params.embeddings is not None:
        paths["embeddings"] = [replace(item, path=Path(item.path).absolute()) for item in params.embeddings]
    return replace(params, **paths)


def _embeddings(embeddings: Any) -> list[Embedding]:
    if isinstance(embeddings, (str, bytes)) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings must be a sequence of Embedding, not {embeddings!r}")
    for item in embeddings:
        if not isinstance(item, Embedding) or not isinstance(item.name, str):
            raise TypeError(f"embeddings must be a sequence of Embedding with a name each, not {item!r}")
        if not item.name.strip():
            raise ValueError(f"embeddings: the word for {item.path!r} is empty")
    return [replace(item, path=_expanded(f"embeddings[{item.name!r}]", item.path)) for item in embeddings]


def check_lora_options(lora_dir: StrPath | None, lora_cache: int) -> Path | None:
    """Check where adapters are looked up and how many bytes of them are kept; give the directory."""
    if lora_cache is None:
        raise TypeError("lora_cache must be an integer, not None")
    check_integer("lora_cache", lora_cache, 0, _MOST_BYTES)
    if lora_dir is None:
        return None
    directory = Path(lora_dir).expanduser()
    if not directory.exists():
        raise PathNotFoundError(f"lora_dir {directory} does not exist")
    if not directory.is_dir():
        raise ValueError(f"lora_dir {directory} is not a directory")
    return directory


def resolve_seed(seed: int | None, batch_count: int | None) -> int:
    """Give the seed of the first picture of a batch; None and negative ones are drawn at random from 63 bits."""
    last = _MAX_SEED - max(batch_count or 1, 1) + 1  # picture i has seed + i
    if seed is None:
        return secrets.randbelow(last + 1)
    check_integer("seed", seed, -math.inf, math.inf)
    if seed > last:
        raise ValueError(f"seed must be at most {last}, not {seed!r}")
    return secrets.randbelow(last + 1) if seed < 0 else int(seed)
