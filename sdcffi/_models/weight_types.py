"""Weight types: those to which the engine can convert, and their sizes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from .._quoting import shown
from ..params.other_names import meant
from .headers import NEWEST_GGUF, UNREADABLE_GGUF
from .patterns import compiled

__all__ = [
    "IN_SAFETENSORS",
    "UNMERGEABLE",
    "block_sizes",
    "check_rules",
    "check_type",
    "is_coarse",
    "is_writable",
    "parse_rules",
]

IN_SAFETENSORS = ("f32", "f16", "bf16")
"""The only types that the engine writes into safetensors files (safetensors_io.cpp)."""

UNMERGEABLE = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "i8"})
"""Types into which no LoRA can be merged: ggml reads them, but cannot write them."""

_MOST_RULES = 10_000  # characters
_COARSE_BITS = 5  # per weight, its share of the block's scales included: q4_1 has 5, q5_0 has 5.5


def _engine_name(gguf_name: str) -> str:
    """Return the engine's name of a GGUF type, such as ``"q4_K"`` for ``"Q4_K"``."""
    return re.sub("_k$", "_K", gguf_name.lower())


# With these the engine divides by zero or aborts: it cannot quantise to them, or uses them only internally.
_NOT_WRITABLE = frozenset({"i32", *(_engine_name(name) for name in UNREADABLE_GGUF)})


def is_writable(name: str) -> bool:
    """Return whether weights can be converted to the engine's type with this name."""
    return name in block_sizes()


@lru_cache(maxsize=1)
def block_sizes() -> dict[str, tuple[int, int]]:
    """Return elements and bytes of a block, by ggml's name, for all types to which weights can be converted."""
    gguf: Any
    import gguf

    names = {_engine_name(kind.name): kind for kind in gguf.GGML_QUANT_SIZES if int(kind) <= NEWEST_GGUF}
    return {name: gguf.GGML_QUANT_SIZES[kind] for name, kind in names.items() if name not in _NOT_WRITABLE}


def is_coarse(name: str) -> bool:
    """Return whether weights of the type have so few bits that a LoRA on them is imprecise."""
    elements, size = block_sizes().get(name, (1, 4))
    return 8 * size <= _COARSE_BITS * elements


def check_type(name: str, value: Any) -> Any:
    """Refuse a weight type to which weights cannot be converted. A build of the engine may have fewer of them.

    Parameters
    ----------
    name : str
        Name of the parameter, for messages.
    value : str or None
        The type. None is accepted.

    Returns
    -------
    str or None
        The engine's name for it, in whatever case or by whatever tool's name it was given.

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        If weights cannot be converted to it.
    """
    if value is None:
        return None
    value = meant(value, {*block_sizes(), *_NOT_WRITABLE})
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of the names {', '.join(block_sizes())}, not {shown(value)}")
    if value in _NOT_WRITABLE:
        raise ValueError(f"{name} {shown(value)} only exists inside the engine; use one of {', '.join(block_sizes())}")
    if value not in block_sizes():
        raise ValueError(f"{name} must be one of {', '.join(block_sizes())}, not {shown(value)}")
    return value


def check_rules(name: str, rules: Any) -> str | None:
    """Refuse rules ``"regex=type,..."`` that the engine would ignore, or on which it would crash.

    Parameters
    ----------
    name : str
        Name of the parameter, for messages.
    rules : str or None
        The rules. None is accepted.

    Returns
    -------
    str or None
        The rules with the engine's names of types, see `check_type`.

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        With the rule, and what is wrong with it.
    """
    if rules is None:
        return None
    if not isinstance(rules, str):
        raise TypeError(f'{name} must be a string "regex=type,...", not {shown(rules)}')
    if len(rules) > _MOST_RULES:
        raise ValueError(f"{name} must have at most {_MOST_RULES} characters, not {len(rules)}")
    if "\0" in rules:
        raise ValueError(f"{name} must not contain a NUL character: {shown(rules)}")
    checked = []
    for rule in filter(None, rules.split(",")):
        pattern, equals, kind = rule.partition("=")
        if not equals or not pattern:
            raise ValueError(f'{name}: {shown(rule)} must have the form "regex=type"')
        compiled(name, pattern)
        kind = meant(kind, block_sizes())
        if kind not in block_sizes():
            raise ValueError(f"{name}: type {shown(kind)} in {shown(rule)} is not one of {', '.join(block_sizes())}")
        checked.append(f"{pattern}={kind}")
    return ",".join(checked)


def parse_rules(rules: str | None) -> list[tuple[re.Pattern[str], str]]:
    """Return checked rules as pairs of pattern and type. The first pattern found in a tensor's name counts."""
    parts = (rule.partition("=") for rule in filter(None, (rules or "").split(",")))
    return [(compiled("tensor_type_rules", pattern), kind) for pattern, _, kind in parts]
