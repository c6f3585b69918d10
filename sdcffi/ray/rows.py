"""Rows of a table: which one it is, its parameters, and its seed."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._quoting import shown

__all__ = ["Row", "packed", "read_row", "seed_of", "unpacked"]

Row = tuple["int | str", dict[str, Any]]

_NAME = re.compile(r"\w[\w.-]{0,99}")  # what can be part of a file's name everywhere


def seed_of(row: int | str) -> int:
    """Return the seed of a row without one: the first 32 bits of the SHA-256 of its number or name.

    It depends on nothing else: not on the worker, on other rows, or on what was generated before.
    """
    return int.from_bytes(hashlib.sha256(str(row).encode()).digest()[:4], "big")


def packed(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return rows whose parameters may be of any types, images among them, as rows of a table with two columns."""
    return [{"row": row, "own": pickle.dumps(own)} for row, own in rows]


def unpacked(row: Mapping[str, Any]) -> Row:
    """Return what `packed` got."""
    return row["row"], pickle.loads(row["own"])


def read_row(row: Mapping[str, Any]) -> Row:
    """Return the number or name of a table's row, and its parameters.

    The column ``row`` has the number or name. Without it, the name is made of the parameters: the beginning of their
    SHA-256. Cells that are empty (None or NaN) are left out.

    Raises
    ------
    ValueError
        If the number or name is none.
    """
    own = _mapping(row)
    if "row" not in row:
        text = json.dumps(own, sort_keys=True, default=_digest)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16], own
    name = own.pop("row", None)
    if isinstance(name, bool) or not isinstance(name, (int, str)):
        raise ValueError(f"row must be a number or a name, not {shown(name)}")
    if not (name >= 0 if isinstance(name, int) else _NAME.fullmatch(name)):
        raise ValueError(
            f"row must be at least 0, or a name of letters, digits and -._ that a file can have, not {shown(name)}"
        )
    return name, own


def _mapping(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): _plain(value) for name, value in row.items() if not _is_empty(value)}


def _plain(value: Any) -> Any:
    """Return a cell as a parameter file would have it; images stay arrays."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim < 2:
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _digest(value: Any) -> str:
    """Return what stands for an image's bytes or pixels, or for another object, in the name of a row."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return hashlib.sha256(value if isinstance(value, (bytes, bytearray)) else pickle.dumps(value)).hexdigest()
