"""The table of Unicode for csrc/text, written from Python's `unicodedata`.

The tokenizers ask it for classes of characters, lower case and the canonical composition (NFC).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

__all__ = ["unicode_table", "write_unicode_table"]

_BLOCK = 256
_CLASSES = {"Lu": 1, "Lt": 1, "Ll": 2, "Lm": 4, "Lo": 4, "Mn": 8, "Mc": 8, "Me": 8, "Nd": 16, "Nl": 16, "No": 16}
_SPACE = 32
_WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F}
_WHITE_SPACE.add(0x3000)
"""Unicode's property White_Space, which is `\\s` of regular expressions; `str.isspace` takes four more."""

_HANGUL = range(0xAC00, 0xD7A4)
"""Syllables; they are decomposed by arithmetic."""


def write_unicode_table(directory: Path) -> None:
    """Write ``unicode_table.inc`` into `directory`, unless it has this content."""
    path, text = directory / "unicode_table.inc", unicode_table()
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


@cache
def unicode_table() -> str:
    """Return the C++ source of the table."""
    characters = [chr(point) for point in range(sys.maxunicode + 1)]
    classes = bytes(_class_of(character) for character in characters)
    blocks = [classes[start : start + _BLOCK] for start in range(0, len(classes), _BLOCK)]
    different = sorted(set(blocks))
    lower = [
        (ord(character), *map(ord, character.lower())) for character in characters if character != character.lower()
    ]
    changed = [c for c in characters if ord(c) not in _HANGUL and unicodedata.decomposition(c)[:1] not in ("", "<")]
    decomposed = {ord(c): [ord(part) for part in unicodedata.normalize("NFD", c)] for c in changed}
    pairs = {c: [int(part, 16) for part in unicodedata.decomposition(c).split()] for c in changed}
    composed = sorted((*pair, ord(c)) for c, pair in pairs.items() if unicodedata.normalize("NFC", c) == c)
    pool: list[int] = []
    rows = []
    for point, parts in decomposed.items():
        rows.append((point, len(pool), len(parts)))
        pool += parts
    ranks = [(ord(c), unicodedata.combining(c)) for c in characters if unicodedata.combining(c)]
    return "\n".join(
        (
            f"// Unicode {unicodedata.unidata_version}; written by sdcffi/_build/unicode_table.py",
            _array("std::uint16_t", "block_of", [different.index(block) for block in blocks]),
            _array("std::uint8_t", "classes", [number for block in different for number in block]),
            _rows("Lower", "lower_case", [(*row, 0)[:3] for row in lower]),
            _rows("Decomposition", "decompositions", rows),
            _array("char32_t", "decomposed", pool),
            _rows("Composition", "compositions", composed),
            _rows("Rank", "ranks", ranks),
            "",
        )
    )


def _class_of(character: str) -> int:
    return _CLASSES.get(unicodedata.category(character), 0) | (_SPACE if ord(character) in _WHITE_SPACE else 0)


def _array(ctype: str, name: str, numbers: Sequence[int]) -> str:
    return f"constexpr {ctype} {name}[] = {{\n{_lines(map(str, numbers))}\n}};"


def _rows(ctype: str, name: str, rows: Sequence[tuple[int, ...]]) -> str:
    return f"constexpr {ctype} {name}[] = {{\n{_lines('{' + ', '.join(map(str, row)) + '}' for row in rows)}\n}};"


def _lines(items: Iterable[str]) -> str:
    lines, words = [], list(items)
    for start in range(0, len(words), 16):
        lines.append("    " + ", ".join(words[start : start + 16]) + ",")
    return "\n".join(lines)
