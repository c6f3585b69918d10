"""Check that numbers are in their legal ranges."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat, SupportsIndex

__all__ = ["check_integer", "check_integers", "check_number", "is_finite", "shown"]

_LONGEST = 60  # characters of a value in a message


def check_integer(name: str, value: Any, low: float, high: float, why: str = "") -> None:
    """Refuse a value that is neither None nor an integer from `low` to `high`.

    numpy's integers are accepted, a bool is not.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : object
        The value.
    low, high : float
        Legal range, both ends included. They may be infinite.
    why : str, optional
        Reason for the range, for the message.

    Raises
    ------
    TypeError
        If the value is not an integer.
    ValueError
        If it is out of range.
    """
    if value is None:
        return
    if _is_bool(value) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value.__index__() <= high:
        raise ValueError(f"{name} must be {_range(low, high)}{why and f' ({why})'}, not {shown(value)}")


def check_integers(low: float, high: float, **values: Any) -> None:
    """Check several integers with the same range, as `check_integer` does."""
    for name, value in values.items():
        check_integer(name, value, low, high)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, why: str = "") -> None:
    """Refuse a value that is neither None nor a finite number from `low` to `high`.

    numpy's scalars are accepted, a bool is not.

    Parameters
    ----------
    name, low, high, why
        See `check_integer`.
    value : object
        The value.

    Raises
    ------
    TypeError
        If the value is not a number.
    ValueError
        If it is not finite, or out of range.
    """
    if value is None:
        return
    is_text = isinstance(value, (str, bytes))
    if is_text or _is_bool(value) or not isinstance(value, (SupportsFloat, SupportsIndex)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if getattr(value, "ndim", 0):
        raise TypeError(f"{name} must be a number, not an array of shape {value.shape}")  # type: ignore[union-attr]
    if not is_finite(value):
        raise ValueError(f"{name} must be finite, not {shown(value)}")
    if not low <= float(value) <= high:
        raise ValueError(f"{name} must be {_range(low, high)}{why and f' ({why})'}, not {shown(value)}")


def is_finite(value: SupportsFloat | SupportsIndex) -> bool:
    """Return whether a number is finite as a float: an integer may be larger than any."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: object) -> str:
    """Return a value's `repr` for a message, of which a long one loses its middle."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than 4300 digits
        return "an integer of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's too, without importing numpy


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low}"
    return f"from {low} to {high}"
