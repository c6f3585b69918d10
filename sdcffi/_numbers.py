"""Check that numbers are in their legal ranges, and take numbers, strings and paths as plain Python ones.

Objects that can be one of them run code of their own when they are asked for it. What that raises goes to the caller as
it is, with a note that names the parameter.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from ._quoting import shown

__all__ = [
    "as_flag",
    "as_integer",
    "as_number",
    "as_path",
    "as_text",
    "check_flags",
    "check_integer",
    "check_integers",
    "check_number",
    "is_finite",
    "items_of",
    "naming",
]


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
    if value is not None and not low <= as_integer(name, value) <= high:
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
    number = as_number(name, value)
    if not is_finite(number):
        raise ValueError(f"{name} must be finite, not {shown(value)}")
    if not low <= float(number) <= high:
        raise ValueError(f"{name} must be {_range(low, high)}{why and f' ({why})'}, not {shown(value)}")


def check_flags(**values: Any) -> None:
    """Refuse values that are neither True nor False; any other object would be taken for one of them."""
    for name, value in values.items():
        as_flag(name, value)


def as_flag(name: str, value: Any) -> bool:
    """Return True or False, also numpy's, as a bool.

    Raises
    ------
    TypeError
        If the value is something else.
    """
    if not _is_bool(value):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def as_integer(name: str, value: Any) -> int:
    """Return an integer, also numpy's, as an int.

    Raises
    ------
    TypeError
        If the value is not an integer.
    """
    if type(value) is int:
        return value
    if _is_bool(value) or not isinstance(value, SupportsIndex) or getattr(value, "ndim", None):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    with naming(name):
        try:
            return operator.index(value)
        except TypeError as error:  # such as of a numpy array of floats
            raise TypeError(f"{name} must be an integer, not {shown(value)}") from error


def as_number(name: str, value: Any) -> float:
    """Return a number, also numpy's, as an int or a float.

    Raises
    ------
    TypeError
        If the value is not a number.
    """
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    is_text = isinstance(value, (str, bytes, bytearray))
    if is_text or _is_bool(value) or not isinstance(value, (SupportsFloat, SupportsIndex)):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    if getattr(value, "ndim", 0):
        raise TypeError(f"{name} must be a number, not an array of shape {value.shape}")  # type: ignore[union-attr]
    with naming(name):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            return float(value)


def as_text(name: str, value: Any) -> str:
    """Return a string as a plain str: a subclass, as of ``class Sampler(str, Enum)``, may exist in this process only.

    Raises
    ------
    TypeError
        If the value is not a string.
    """
    if type(value) is str:
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {shown(value)}")
    return str.__str__(value)


def as_path(name: str, value: Any) -> str | Path:
    """Return a path as a plain str if it is a string, else as a `Path`.

    Raises
    ------
    TypeError
        If the value is not a path, or one of bytes.
    """
    if isinstance(value, str):
        return as_text(name, value)
    if type(value) is type(Path()):
        return value
    if isinstance(value, (bytes, bytearray)):
        raise TypeError(f"{name} must be a path, not {shown(value)}; a path of bytes is text by os.fsdecode(path)")
    if not isinstance(value, os.PathLike):
        raise TypeError(f"{name} must be a path, not {shown(value)}")
    with naming(name):
        text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a path whose __fspath__() is a string, not {shown(text)}")
    return Path(as_text(name, text))


def items_of(name: str, values: Iterable[Any]) -> list[Any]:
    """Return the items of a parameter that can be iterated over, whose own code may raise."""
    with naming(name):
        return list(values)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Add a parameter's name to what an object raises whose code runs while the parameter is read."""
    try:
        yield
    except Exception as error:
        notes = [*getattr(error, "__notes__", ()), f"It was raised while the parameter {name} was read."]
        error.__notes__ = notes  # as add_note() of Python 3.11 does
        raise


def is_finite(value: SupportsFloat | SupportsIndex) -> bool:
    """Return whether a number is finite as a float: an integer may be larger than any."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's too, without importing numpy


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low}"
    return f"from {low} to {high}"
