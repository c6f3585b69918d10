"""Numbers within their legal ranges: the one place that says what a number is and how a bad one is refused."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat, SupportsIndex

__all__ = ["check_integer", "check_integers", "check_number"]


def check_integer(name: str, value: Any, low: float, high: float, why: str = "") -> None:
    """Refuse what is neither None nor an integer from `low` to `high`; a bool is no integer, numpy's integers are.

    Raises
    ------
    TypeError, ValueError
        With the name, the value, the range, and `why` it is so.
    """
    if value is None:
        return
    if type(value).__name__ in ("bool", "bool_") or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value.__index__() <= high:
        raise ValueError(f"{name} must be {_range(low, high)}{why and f' ({why})'}, not {value!r}")


def check_integers(low: float, high: float, **values: Any) -> None:
    """As `check_integer` for several with one range."""
    for name, value in values.items():
        check_integer(name, value, low, high)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, why: str = "") -> None:
    """Refuse what is neither None nor a finite number from `low` to `high`; a bool is no number, numpy's scalars are.

    Raises
    ------
    TypeError, ValueError
        With the name, the value, the range, and `why` it is so.
    """
    if value is None:
        return
    is_text = isinstance(value, (str, bytes))
    if is_text or type(value).__name__ in ("bool", "bool_") or not isinstance(value, (SupportsFloat, SupportsIndex)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if getattr(value, "ndim", 0):
        raise TypeError(f"{name} must be a number, not an array of shape {value.shape}")  # type: ignore[union-attr]
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    if not low <= float(value) <= high:
        raise ValueError(f"{name} must be {_range(low, high)}{why and f' ({why})'}, not {value!r}")


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low}"
    return f"from {low} to {high}"
