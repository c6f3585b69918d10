"""Compare the structs as cffi lays them out with the table that the library's own compiler filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import LayoutMismatchError

__all__ = ["StructLayout", "check_layout", "declared_layout", "layout_table"]


@dataclass
class StructLayout:
    """Size of a struct in bytes, and offset and size of each field."""

    size: int
    fields: dict[str, tuple[int, int]] = field(default_factory=dict)


def layout_table(rows: Iterable[tuple[str, str, int, int]]) -> dict[str, StructLayout]:
    """Group rows of (struct, field, offset, size); a struct's own row comes first and has an empty field."""
    table: dict[str, StructLayout] = {}
    for structure, name, offset, size in rows:
        if name:
            table[structure].fields[name] = (offset, size)
        else:
            table[structure] = StructLayout(size)
    return table


def declared_layout(ffi: Any) -> dict[str, StructLayout]:
    """Give the layout that cffi computed for every struct in its declarations."""
    table = {}
    for name in ffi.list_types()[0]:
        ctype = ffi.typeof(name)
        if ctype.kind == "struct" and ctype.fields:
            fields = {key: (item.offset, ffi.sizeof(item.type)) for key, item in ctype.fields}
            table[name] = StructLayout(ffi.sizeof(ctype), fields)
    return table


def check_layout(declared: Mapping[str, StructLayout], compiled: Mapping[str, StructLayout]) -> None:
    """Refuse declarations that do not describe the compiled library.

    Raises
    ------
    LayoutMismatchError
        Naming the first struct and field that differ, with both values.
    """
    for name in sorted(declared.keys() ^ compiled.keys()):
        side, other = ("declarations", "library") if name in declared else ("library", "declarations")
        raise LayoutMismatchError(f"struct {name} stands in the {side} but not in the {other}. {_ADVICE}")
    for name, ours in declared.items():
        theirs = compiled[name]
        for key in sorted(ours.fields.keys() ^ theirs.fields.keys()):
            side, other = ("declarations", "library") if key in ours.fields else ("library", "declarations")
            raise LayoutMismatchError(f"{name}.{key} stands in the {side} but not in the {other}. {_ADVICE}")
        for key, (offset, size) in ours.fields.items():
            if (offset, size) != theirs.fields[key]:
                there = "offset {} and size {}".format(*theirs.fields[key])
                raise LayoutMismatchError(
                    f"{name}.{key} is declared at offset {offset} with size {size}, the library has it at {there}."
                    f" {_ADVICE}"
                )
        if ours.size != theirs.size:
            raise LayoutMismatchError(
                f"struct {name} is declared with {ours.size} bytes, the library has {theirs.size}. {_ADVICE}"
            )


_ADVICE = "The library and its cdef.h do not belong together; build both again: python -m sdcffi build"
