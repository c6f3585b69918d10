"""HTML's character references as Python's `html` knows them, in the form of a C++ table for csrc/text/html.hpp."""

from __future__ import annotations

import html
from html.entities import html5

_REMAPPED = range(0x80, 0xA0)  # numbers that mean a character of Windows' code page 1252


def html_entities() -> str:
    """Return ``ENTITY("name", "text")`` and ``NUMBER(number, "text")`` lines, names sorted by their bytes."""
    names = [f'ENTITY("{name}", {_literal(html5[name])})' for name in sorted(html5)]
    numbers = [f"NUMBER({number}, {_literal(html.unescape(f'&#{number};'))})" for number in _REMAPPED]
    return "\n".join([*names, *numbers]) + "\n"


def _literal(text: str) -> str:
    """Return a C string literal in octal escapes, after which no digit can be taken for a part of one."""
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'
