"""What include/stable-diffusion.h declares, and what of it came, went or changed from one revision to another."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cffi
from pycparser import CParser, c_ast
from pycparser.c_generator import CGenerator

from sdcffi._build.compilers import Compiler, find_compiler
from sdcffi._build.declarations import write_declarations

_INTEGERS = ("bool", "size_t", *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)))
_PRELUDE = "".join(f"typedef int {name};" for name in _INTEGERS)
"""The names that pycparser must know as types; cffi knows them."""


@dataclass(frozen=True)
class Interface:
    """The declarations of a header, by name.

    Parameters
    ----------
    functions, data : mapping of str to str
        The whole declaration.
    structs : mapping of str to mapping of str to str
        The type of each field.
    enumerations : mapping of str to mapping of str to str
        The number of each value.
    """

    functions: Mapping[str, str]
    data: Mapping[str, str]
    structs: Mapping[str, Mapping[str, str]]
    enumerations: Mapping[str, Mapping[str, str]]


def read_interface(header: Path) -> Interface:
    """Read a header as the build does."""
    with tempfile.TemporaryDirectory() as directory:
        cdef = write_declarations((header,), _compiler(), Path(directory)).read_text("utf-8")
    ffi = cffi.FFI()
    ffi.cdef(cdef)
    functions, data, enumerations = {}, {}, {}
    for node in CParser().parse(_PRELUDE + cdef).ext:
        text = CGenerator().visit(node)
        if isinstance(node.type, c_ast.FuncDecl):
            functions[node.name] = text
        elif isinstance(node, c_ast.Decl) and node.name:
            data[node.name] = text
        elif enumeration := _enumeration(node):
            numbers = ffi.typeof(f"enum {enumeration}").relements
            enumerations[enumeration] = {name: str(numbers[name]) for name in sorted(numbers, key=numbers.__getitem__)}
    structs = {}
    for name in ffi.list_types()[0]:
        kind = ffi.typeof(name)
        if kind.kind == "struct" and kind.fields:
            structs[name] = {field: item.type.cname for field, item in kind.fields}
    return Interface(functions, data, structs, enumerations)


def differences(old: Interface, new: Interface) -> list[str]:
    """Return lines about what came (+), went (-) or changed (~)."""
    lines = ["functions", *_changes(old.functions, new.functions), "data", *_changes(old.data, new.data)]
    for title, before, after in (
        ("structs", old.structs, new.structs),
        ("enumerations", old.enumerations, new.enumerations),
    ):
        lines.append(title)
        for name in sorted({*before, *after}):
            inner = list(_changes(before.get(name, {}), after.get(name, {})))
            mark = " " if name in before and name in after else "+" if name in after else "-"
            lines += [f"  {mark} {name}", *(f"  {line}" for line in inner)] if inner else []
    return lines


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in new:
        if name not in old:
            yield f"  + {name}: {new[name]}"
    for name in old:
        if name not in new:
            yield f"  - {name}: {old[name]}"
        elif new[name] != old[name]:
            yield f"  ~ {name}: {old[name]} -> {new[name]}"


def _enumeration(node: c_ast.Node) -> str | None:
    """The name of the enumeration that a declaration defines."""
    inner = getattr(node.type, "type", None) if isinstance(node, c_ast.Typedef) else node.type
    return inner.name if isinstance(inner, c_ast.Enum) and inner.values else None


@cache
def _compiler() -> Compiler:
    return find_compiler()
