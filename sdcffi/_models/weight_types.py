"""Weight types: which ones the engine can convert to, and how many bytes they take."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from .headers import NEWEST_GGUF, UNREADABLE_GGUF

__all__ = ["block_sizes", "check_rules", "check_type", "is_writable", "parse_rules"]


def _engine_name(gguf_name: str) -> str:
    """Return the engine's name of a type that GGUF calls so: ``"q4_K"`` for ``"Q4_K"``."""
    return re.sub("_k$", "_K", gguf_name.lower())


# The engine divides by zero or aborts on these: nothing quantises to them, or they only exist inside it.
_NOT_WRITABLE = frozenset({"i32", *(_engine_name(name) for name in UNREADABLE_GGUF)})


def is_writable(name: str) -> bool:
    """Whether the engine can convert weights to the type of this name."""
    return name not in _NOT_WRITABLE


@lru_cache(maxsize=1)
def block_sizes() -> dict[str, tuple[int, int]]:
    """Elements and bytes of a block, by ggml's name of the type, of those that weights can be converted to."""
    gguf: Any
    import gguf

    names = {_engine_name(kind.name): kind for kind in gguf.GGML_QUANT_SIZES if int(kind) <= NEWEST_GGUF}
    return {name: gguf.GGML_QUANT_SIZES[kind] for name, kind in names.items() if is_writable(name)}


def check_type(name: str, value: Any) -> None:
    """Refuse a weight type that the engine would not survive; names it does not know are left to its own list."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of the names {', '.join(block_sizes())}, not {value!r}")
    if value in _NOT_WRITABLE:
        raise ValueError(
            f"{name} {value!r} cannot be written; it only exists inside the engine. Legal: {', '.join(block_sizes())}"
        )


def check_rules(name: str, rules: Any) -> None:
    """Refuse rules ``"regex=type,..."`` that the engine would pass over, or not survive.

    Raises
    ------
    TypeError, ValueError
        With the rule, and what is wrong with it.
    """
    if rules is None:
        return
    if not isinstance(rules, str):
        raise TypeError(f'{name} must be a string "regex=type,...", not {rules!r}')
    if "\0" in rules:
        raise ValueError(f"{name} must not contain a NUL character: {rules!r}")
    for rule in filter(None, rules.split(",")):
        pattern, equals, kind = rule.partition("=")
        if not equals or not pattern:
            raise ValueError(f'{name}: {rule!r} is not "regex=type"')
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}") from error
        if re.search(r"\(\?[^:=!]", pattern):
            raise ValueError(f"{name}: {pattern!r}: of groups with (? the engine's std::regex has (?: and (?= and (?!")
        if kind not in block_sizes():
            raise ValueError(f"{name}: type {kind!r} of {rule!r} is not one of {', '.join(block_sizes())}")


def parse_rules(rules: str | None) -> list[tuple[re.Pattern[str], str]]:
    """Give checked rules as pattern and type; the first that is found in a tensor's name counts."""
    parts = (rule.partition("=") for rule in filter(None, (rules or "").split(",")))
    return [(re.compile(pattern), kind) for pattern, _, kind in parts]
