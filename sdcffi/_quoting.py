"""Write values and texts from outside into messages: never longer than a line, and without control characters."""

from __future__ import annotations

import os
import re
import reprlib
from typing import Any

__all__ = ["printable", "shortened", "shown", "shown_path"]

_LONGEST = 60  # characters of a value
_LONGEST_PATH = 300  # characters: most paths are shorter, and a whole one can be copied
_LONGEST_TEXT = 200
# Control characters of terminals but for tab and line feed, and those that turn the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class _Repr(reprlib.Repr):
    """Writes only as much of a value as is shown, so that no size of it takes time."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = self.maxlong = 4 * _LONGEST
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = _LONGEST // 2

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return repr(value[:_LONGEST]) + ("..." if len(value) > _LONGEST else "")

    repr_bytearray = repr_bytes

    def repr_str(self, value: str, _level: int) -> str:
        return repr(_without_middle(value, 2 * _LONGEST))

    def repr_int(self, value: int, _level: int) -> str:
        if value.bit_length() > 10_000:  # Python writes no integers of more than 4300 digits, and slowly
            return "an integer of thousands of digits"
        return repr(value)

    def repr_ndarray(self, value: Any, _level: int) -> str:
        return repr(value) if value.size <= _LONGEST else f"an array of {value.dtype} {value.shape}"

    def repr_instance(self, value: Any, _level: int) -> str:
        try:
            return repr(value)
        except Exception as error:  # the object's own code
            return f"a {type(value).__name__} whose repr() raises {type(error).__name__}"


_repr = _Repr()


def shown(value: object) -> str:
    """Return a value's `repr` for a message, of which a long one loses its middle."""
    text = _repr.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path for a message, of which one longer than real ones loses its middle."""
    return _without_middle(os.fsdecode(path), _LONGEST_PATH)


def shortened(text: object) -> str:
    """Return a text that others wrote, such as another program's message, without its middle if it is long."""
    return _without_middle(str(text), _LONGEST_TEXT)


def _without_middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 2 // 3]}...{text[-most // 4 :]}"


def printable(text: str) -> str:
    r"""Return a text for a terminal, with control characters written as ``\x1b``, which would else be obeyed."""
    return _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    r"""Write what JSON may hold as it is in its own way, ``\u202e``."""
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x20 else f"\\u{number:04x}"
