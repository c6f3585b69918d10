"""The declarations for cffi, derived from the headers that are compiled.

The compiler preprocesses stable-diffusion.h and guard.h together, without their includes; the result is ``cdef.h``. Its
structs and fields, one per line, are ``layout_fields.inc``. From that, csrc/guard/layout.c compiles the table of sizes
and offsets, which is compared when the library is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import cffi

from ..errors import BuildError
from .compilers import Compiler
from .entities import html_entities

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)


def write_declarations(headers: tuple[Path, ...], compiler: Compiler, directory: Path) -> Path:
    """Write ``cdef.h`` and what the sources include into `directory`, and return the path of ``cdef.h``.

    A file whose content does not change is not written, so that nothing is compiled again because of it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    joined = directory / "declarations.c"
    joined.write_text("\n".join(_INCLUDE.sub("", header.read_text("utf-8")) for header in headers), "utf-8")
    cdef = compiler.preprocess(joined, "__attribute__(x)=")
    _write_if_changed(directory / "layout_fields.inc", layout_fields(cdef))
    _write_if_changed(directory / "html_entities.inc", html_entities())
    _write_if_changed(directory / "cdef.h", cdef)
    return directory / "cdef.h"


def layout_fields(cdef: str) -> str:
    """Return ``STRUCT(type)`` and ``FIELD(type, field)`` lines for every struct with a typedef in `cdef`."""
    ffi = cffi.FFI()
    try:
        ffi.cdef(cdef)
    except cffi.CDefError as error:
        raise BuildError(f"cffi cannot read the declarations of this upstream revision: {error}") from error
    lines = []
    for name in ffi.list_types()[0]:
        kind = ffi.typeof(name)
        if kind.kind == "struct" and kind.fields:
            lines.append(f"STRUCT({name})")
            lines += [f"FIELD({name}, {field})" for field, _ in kind.fields]
    return "\n".join(lines) + "\n"


def _write_if_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
