"""What headers of all formats have in common: tensors, their errors, and bytes that are not trusted."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from .._quoting import shown

__all__ = ["HeaderError", "Reader", "Tensor", "elements", "named"]

_CHUNK = 1 << 20  # bytes read at a time while strings are skipped
_MOST_DIMENSIONS = {"safetensors": 5, "gguf": 4, "PyTorch files": 5}
_MOST_NAME = 4096


class HeaderError(ValueError):
    """A file's header is malformed. The message names the tensor and the reason."""


@dataclass(frozen=True)
class Tensor:
    """Type, shape and place of a tensor in its file.

    Attributes
    ----------
    dtype : str
        The file's name of the type: ``"F16"``, ``"BF16"``, ``"Q8_0"``, ...
    shape : tuple of int
        Rows first, as in PyTorch, even if the file has the opposite order.
    begin, size : int
        Offset from the start of the file, and length, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


class Reader:
    """Reads bytes from the start of a file, at most as many as the file has and a header may have."""

    def __init__(self, file: BinaryIO, size: int, most: int) -> None:
        self._file = file
        self._left = min(size, most)
        self._why = f"a header may have at most {most}" if size > most else "the file is shorter"
        self.size = size
        self.position = 0

    def take(self, count: int) -> bytes:
        self._count(count)
        content = self._file.read(count)
        if len(content) != count:
            raise HeaderError(f"the file is truncated in its header, at byte {self.position}; download it again")
        return content

    def skip(self, count: int) -> None:
        self._count(count)
        self._file.seek(count, os.SEEK_CUR)

    def skip_strings(self, count: int) -> None:
        """Skip strings of gguf in large blocks: a tokenizer has hundreds of thousands of them."""
        if count > self._left // 8:
            self._count(8 * count)
        position, chunk, begin = self.position, b"", self.position
        for _ in range(count):
            if position + 8 > begin + len(chunk):
                self._file.seek(position)
                chunk, begin = self._file.read(_CHUNK), position
                if len(chunk) < 8:
                    break
            position += 8 + int.from_bytes(chunk[position - begin : position - begin + 8], "little")
        self._count(position - self.position)
        self._file.seek(position)

    def number(self, layout: str) -> int:
        """Read an unsigned integer: ``"I"`` for 4 bytes, ``"Q"`` for 8."""
        return int(struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))[0])

    def text(self) -> str:
        """Read a string of gguf."""
        length = self.number("Q")
        if length > _MOST_NAME:
            raise HeaderError(f"a name in the header must have at most {_MOST_NAME} bytes, not {length}")
        try:
            return named(self.take(length).decode())
        except UnicodeDecodeError as error:
            raise HeaderError(f"a name in the header is not valid UTF-8: {error}") from error

    def _count(self, count: int) -> None:
        if count > self._left:
            raise HeaderError(f"the header needs {count} bytes from byte {self.position} on, but {self._why}")
        self._left -= count
        self.position += count


def named(name: str) -> str:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise HeaderError(f"tensor {name!r}: the name is not valid UTF-8") from error
    if not name or "\0" in name or len(encoded) > _MOST_NAME:
        raise HeaderError(f"tensor {name[:80]!r}: a name must have 1 to {_MOST_NAME} bytes and no NUL character")
    return name


def elements(name: str, shape: list[int], format_name: str, may_be_empty: bool = False) -> int:
    most = _MOST_DIMENSIONS[format_name]
    if len(shape) > most:
        raise HeaderError(f"tensor {name!r} must have at most {most} dimensions in {format_name}, not {len(shape)}")
    if 0 in shape and not may_be_empty:
        raise HeaderError(f"tensor {name!r}: shape {shown(shape)} has no elements")
    return math.prod(shape)
