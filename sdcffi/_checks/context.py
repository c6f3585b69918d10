"""Check a model's files and options in pure Python, without loading the native library."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._files import expanded
from .._machine.limits import MOST_THREADS
from .._models.files import Model, locate, read_model
from .._models.weight_types import check_rules, check_type
from .._numbers import as_path, as_text, check_integer, check_number
from .._quoting import shown
from .._references import Kind, local_path, parse
from ..errors import PathNotFoundError
from ..params.context import PRECISIONS, ContextParams, Embedding
from ..params.other_names import meant
from ..params.struct import StrPath

__all__ = ["check_context", "check_lora_options", "check_precision", "located", "resolve_seed"]

_MAX_SEED = (1 << 63) - 1
_RANDOM_SEEDS = 1 << 32
_MOST_BYTES = sys.maxsize  # half the range of C's size_t


def check_context(params: ContextParams) -> tuple[ContextParams, Model]:
    """Check a model's files by their headers, and the context's numbers and types.

    Parameters
    ----------
    params : ContextParams

    Returns
    -------
    params : ContextParams
        A copy with absolute paths.
    model : Model
        What the files hold, for `check_image`, `check_video` and `MemoryCheck`.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is not in its legal set, or if a file is missing, unreadable or given as the wrong part.
    DownloadError
        If a file is given by reference, and cannot be downloaded.
    """
    params = _checked_settings(params)
    if not params.given().keys() & {"model_path", "diffusion_model_path"}:
        raise ValueError("there is no model to load: pass model= or diffusion_model=")
    params = located(params)
    model = read_model(params)
    return _absolute(params), model


def located(params: ContextParams) -> ContextParams:
    """Return the parameters with the paths of the model's files: references are downloaded, directories looked into.

    Raises
    ------
    TypeError, ValueError, DownloadError
        As `check_context`.
    """
    named = {name: value for name, value in params.given().items() if name.endswith("_path")}
    embeddings = [] if params.embeddings is None else _checked_embeddings(params.embeddings)
    for value in (*named.values(), *(item.path for item in embeddings)):
        parse(value)  # all of them, before the first is downloaded
    files = locate({name: _located(name.removesuffix("_path"), value, _kind(name)) for name, value in named.items()})
    changes: dict[str, Any] = {"model_path": None, **files}
    if params.embeddings is not None:
        changes["embeddings"] = [
            replace(item, path=_located(f"embeddings[{shown(item.name)}]", item.path)) for item in embeddings
        ]
    return replace(params, **changes)


_LOWER_CASE = ("rng_type", "sampler_rng_type", "prediction", "lora_apply_mode")  # their names have no other letters


def _checked_settings(params: ContextParams) -> ContextParams:
    """Check numbers and types, and return them with the engine's names."""
    check_integer("threads", params.n_threads, 1, MOST_THREADS, "with more, the system may end the process")
    check_number("max_vram", params.max_vram, 0)
    check_integer("chroma_t5_mask_pad", params.chroma_t5_mask_pad, 0, 4096)
    precision = check_precision(params.precision)
    rules = check_rules("tensor_type_rules", params.tensor_type_rules)
    texts = {name: value.lower() for name in _LOWER_CASE if isinstance(value := getattr(params, name), str)}
    changes: dict[str, Any] = {
        "wtype": check_type("type", params.wtype),
        "tensor_type_rules": rules,
        "precision": precision,
        **texts,
    }
    return replace(params, **changes)


def check_precision(name: str | None) -> str | None:
    """Return how the CPU multiplies, as `PRECISIONS` has it.

    Raises
    ------
    TypeError, ValueError
        If it is not the name of a precision.
    """
    if name is None:
        return None
    found = meant(as_text("precision", name), PRECISIONS)
    if found not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {shown(name)}")
    return str(found)


def _kind(slot: str) -> Kind:
    return "model" if slot == "model_path" else "file"


def _located(name: str, value: Any, kind: Kind = "file") -> Path:
    return local_path(_plain(name, value), name, kind)


def _plain(name: str, value: Any) -> str | Path:
    path = as_path(name, value)
    if "\0" in str(path):
        raise ValueError(f"{name} must not contain a NUL character: {shown(str(path))}")
    return path


def _absolute(params: ContextParams) -> ContextParams:
    """Make paths absolute: after a crash the model is loaded again, perhaps in another working directory."""
    paths: dict[str, Any] = {name: value.absolute() for name, value in params.given().items() if name.endswith("_path")}
    if params.embeddings is not None:
        paths["embeddings"] = [replace(item, path=Path(item.path).absolute()) for item in params.embeddings]
    return replace(params, **paths)


def _checked_embeddings(embeddings: Any) -> list[Embedding]:
    if isinstance(embeddings, (str, bytes)) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings must be a sequence of Embedding, not {shown(embeddings)}")
    for item in embeddings:
        if not isinstance(item, Embedding):
            raise TypeError(f"embeddings must be a sequence of Embedding, not {shown(item)}")
        if not item.name.strip():
            raise ValueError(f"embeddings: the name of {shown(item.path)} must not be empty")
    return list(embeddings)


def check_lora_options(lora_dir: StrPath | None, lora_cache: int) -> Path | None:
    """Check the directory in which adapters are looked up, and the size of their cache.

    Parameters
    ----------
    lora_dir : path, optional
        The directory. None: there is none.
    lora_cache : int
        Size of the cache, in bytes, at least 0.

    Returns
    -------
    Path or None
        The directory, with ``~`` expanded.

    Raises
    ------
    TypeError
        If the size is not an integer.
    ValueError
        If the size is out of range, or the directory does not exist.
    """
    if lora_cache is None:
        raise TypeError("lora_cache must be an integer, not None")
    check_integer("lora_cache", lora_cache, 0, _MOST_BYTES)
    if lora_dir is None:
        return None
    directory = expanded(_plain("lora_dir", lora_dir), "lora_dir")
    if not directory.exists():
        raise PathNotFoundError(f"lora_dir {directory} does not exist")
    if not directory.is_dir():
        raise ValueError(f"lora_dir {directory} is not a directory")
    return directory


def resolve_seed(seed: int | None, batch_count: int | None) -> int:
    """Return the seed of the first image of a batch.

    Parameters
    ----------
    seed : int, optional
        At most ``2**63 - batch_count``: image `i` uses ``seed + i``. None or negative: a random seed, with which all
        seeds of the batch are below 2**32: a web client reads numbers as doubles, which lose digits of larger ones.
    batch_count : int, optional
        Number of images. None: 1.

    Returns
    -------
    int
        From 0 to ``2**63 - batch_count``.

    Raises
    ------
    TypeError
        If the seed is not an integer.
    ValueError
        If it is too large.
    """
    count = max(int(batch_count or 1), 1)
    last = _MAX_SEED - count + 1  # image i has seed + i
    if seed is None:
        return _random_seed(count)
    check_integer("seed", seed, -math.inf, math.inf)
    if seed > last:
        raise ValueError(f"seed must be at most {last}, not {shown(seed)}")
    return _random_seed(count) if seed < 0 else int(seed)


def _random_seed(count: int) -> int:
    return secrets.randbelow(max(_RANDOM_SEEDS - count + 1, 1))
