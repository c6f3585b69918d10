"""Compare cffi's layout of the structs with the layout that the library's compiler used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import LayoutMismatchError

__all__ = ["StructLayout", "check_layout", "declared_layout", "layout_table"]


@dataclass
class StructLayout:
    """Layout of a struct.

    Attributes
    ----------
    size : int
        In bytes.
    fields : dict of str to (int, int)
        Offset and size of each field, in bytes.
    """

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
    """Return the layout that cffi computed for each struct in its declarations."""
    table = {}
    for name in ffi.list_types()[0]:
        ctype = ffi.typeof(name)
        if ctype.kind == "struct" and ctype.fields:
            fields = {key: (item.offset, ffi.sizeof(item.type)) for key, item in ctype.fields}
            table[name] = StructLayout(ffi.sizeof(ctype), fields)
    return table


def check_layout(declared: Mapping[str, StructLayout], compiled: Mapping[str, StructLayout]) -> None:
    """Refuse declarations that do not match the compiled library.

    Raises
    ------
    LayoutMismatchError
        With the first struct and field that differ, and both values.
    """
    _same_names("struct ", "", declared, compiled)
    for name, ours in declared.items():  # names first: a missing field also changes the offsets in outer structs
        _same_names("", f"{name}.", ours.fields, compiled[name].fields)
    for name, ours in declared.items():
        theirs = compiled[name]
        for key, (offset, size) in ours.fields.items():
            if (offset, size) != theirs.fields[key]:
                there = "offset {} with size {}".format(*theirs.fields[key])
                raise LayoutMismatchError(
                    f"{name}.{key} is declared at offset {offset} with size {size}, but the library has it at {there}."
                    f" {_ADVICE}"
                )
        if ours.size != theirs.size:
            raise LayoutMismatchError(
                f"struct {name} is declared with {ours.size} bytes, but has {theirs.size} in the library. {_ADVICE}"
            )


def _same_names(kind: str, prefix: str, declared: Mapping[str, object], compiled: Mapping[str, object]) -> None:
    for name in sorted(declared.keys() ^ compiled.keys()):
        side, other = ("declarations", "library") if name in declared else ("library", "declarations")
        raise LayoutMismatchError(f"{kind}{prefix}{name} is in the {side} but not in the {other}. {_ADVICE}")


_ADVICE = "The library and its cdef.h come from different builds; build both again: python -m sdcffi build"
