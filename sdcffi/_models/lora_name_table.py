"""The table of names that tools give to modules: ``lora_names.toml``, read and taken apart."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Family", "NameTable", "Part", "Piece", "Row", "Table", "normal", "read_name_table", "split_numbers"]

_PIECE = re.compile(r"(\S+)(?: (\d)/(\d)| (\d*c)?:(\d*c)?| (swapped)| (transposed))?")
_WHEN = re.compile(r"(.*) when (\d*)c")
_SET = re.compile(r"<(\w+)>")


@dataclass(frozen=True)
class Piece:
    """Rows of one of the engine's modules, as a row of the table names them.

    Attributes
    ----------
    module : str
        The engine's name, with ``*`` for numbers.
    part : tuple of int or None
        (index, count): one of so many equal parts.
    columns : tuple of int or None
        First row and end in units of the weight's columns; an end of 0 is the weight's own.
    transposed : bool
        Whether it is the weight's transpose.
    """

    module: str
    part: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Row:
    """A name of other tools and what it means.

    Attributes
    ----------
    name : str
        The name, with ``*`` for numbers.
    pieces : tuple of Piece
        What it means, one after the other.
    when : int
        Only where the first weight has so many times as many rows as columns. 0: always.
    choice : int
        Place among several meanings of the name, of which the first that fits a model is the right one.
    """

    name: str
    pieces: tuple[Piece, ...]
    when: int = 0
    choice: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of a network, the engine's modules that need none, and beginnings of names that tools leave out."""

    rows: tuple[Row, ...]
    own: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules of the engine that the table names, with ``*`` for numbers."""
        return tuple(dict.fromkeys((*self.own, *(piece.module for row in self.rows for piece in row.pieces))))


@dataclass(frozen=True)
class Family:
    """A family of diffusion models: how it is recognised, its tables, and its text encoders in diffusers' order."""

    name: str
    title: str
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    tables: tuple[str, ...]
    encoders: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A part of a model: the engine's beginnings of its names, its tables, and what tools put before their names."""

    name: str
    title: str
    engine: tuple[str, ...]
    tables: tuple[str, ...]
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class NameTable:
    """The whole table."""

    families: tuple[Family, ...]
    parts: Mapping[str, Part]
    positions: tuple[tuple[str, ...], ...]
    tables: Mapping[str, Table]


@lru_cache(maxsize=1)
def read_name_table() -> NameTable:
    """Return the table of the package."""
    text = files("sdcffi._models").joinpath("lora_names.toml").read_text("utf-8")
    data: dict[str, Any] = tomllib.loads(text)
    sets = {name: [_pair(item) for item in items] for name, items in data["sets"].items()}
    return NameTable(
        families=tuple(
            Family(
                item["name"],
                item["title"],
                tuple(item["has"]),
                tuple(item.get("lacks", ())),
                tuple(item["tables"]),
                tuple(item["encoders"]),
            )
            for item in data["families"]
        ),
        parts={
            name: Part(
                name, item["title"], tuple(item["engine"]), tuple(item.get("tables", ())), tuple(item["prefixes"])
            )
            for name, item in data["parts"].items()
        },
        positions=tuple(tuple(item["prefixes"]) for item in data["positions"]),
        tables={
            name: Table(
                tuple(_rows(item.get("rows", {}), sets)), tuple(item.get("own", ())), tuple(item.get("optional", ()))
            )
            for name, item in data["tables"].items()
        },
    )


def normal(name: str) -> str:
    """Return a name as it is compared: tools write dots as underscores, or not."""
    return name.replace(".", "_")


def split_numbers(name: str) -> tuple[str, tuple[str, ...]]:
    """Return a dotted name with ``#`` for its numbers and stars, and these."""
    words = name.split(".")
    numbers = tuple(word for word in words if word == "*" or word.isdecimal())
    return ".".join("#" if word == "*" or word.isdecimal() else word for word in words), numbers


def _pair(item: str | Sequence[str]) -> tuple[str, str]:
    return (item, item) if isinstance(item, str) else (item[0], item[1])


def _rows(rows: Mapping[str, str | list[str]], sets: Mapping[str, list[tuple[str, str]]]) -> Iterator[Row]:
    for name, meanings in rows.items():
        for choice, meaning in enumerate([meanings] if isinstance(meanings, str) else meanings):
            for left, right in _expand(name, meaning, sets):
                found = _WHEN.fullmatch(right)
                text, when = (found[1], int(found[2] or 1)) if found else (right, 0)
                yield Row(left, tuple(piece for part in text.split(", ") for piece in _pieces(part)), when, choice)


def _expand(left: str, right: str, sets: Mapping[str, list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """A row for each pair of the set that both sides name."""
    found = _SET.search(left)
    if not found:
        yield left, right
        return
    for ours, theirs in sets[found[1]]:
        yield left.replace(found[0], ours), right.replace(found[0], theirs)


def _pieces(text: str) -> Iterator[Piece]:
    found = _PIECE.fullmatch(text)
    if not found:
        raise ValueError(f"lora_names.toml: {text!r} is not 'x', 'x 1/3', 'x c:2c', 'x swapped' or 'x transposed'")
    module, index, count, first, end, swapped, transposed = found.groups()
    if swapped:
        yield Piece(module, (1, 2))
        yield Piece(module, (0, 2))
    elif count:
        yield Piece(module, (int(index), int(count)))
    elif first or end:
        yield Piece(module, None, (_columns(first), _columns(end)))
    else:
        yield Piece(module, transposed=bool(transposed))


def _columns(text: str | None) -> int:
    return int(text[:-1] or 1) if text else 0
