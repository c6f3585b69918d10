"""The cache directory, digests, and atomic writes: a reader finds the old file or the whole new one."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

from ._quoting import shown_path
from .errors import PathNotFoundError

__all__ = [
    "cache_directory",
    "check_directory",
    "expanded",
    "file_digest",
    "read_stream",
    "read_whole",
    "replacing",
    "stream_digest",
    "unreadable",
]

_BLOCK = 1 << 20


def cache_directory() -> Path:
    """Return the absolute directory for sources, builds and digests. ``SDCFFI_CACHE`` overrides the user's cache."""
    return Path(os.environ.get("SDCFFI_CACHE") or platformdirs.user_cache_dir("sdcffi")).absolute()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return stream_digest(file)


def stream_digest(file: BinaryIO) -> str:
    """Return the sha256, in hexadecimal, of an open file from its current position to its end."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """Return a path with ``~`` replaced by the home directory.

    Parameters
    ----------
    path : path
    name : str, optional
        Name of the parameter, for messages.

    Raises
    ------
    PathNotFoundError
        If there is no such home directory: no ``HOME``, and no entry for the user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        where = f"{name}: " if name else ""
        raise PathNotFoundError(
            f"{where}{shown_path(path)} begins with '~', but this user has no home directory: write the whole path"
        ) from error


def read_whole(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes: no pipe, which may never end, no device, and no endless file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is something else, or larger.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened: that alone may wait, or do something
        raise ValueError("it is a directory" if path.is_dir() else "it is not a regular file, but a pipe or a device")
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # it may be replaced meanwhile
    with open(os.open(path, flags), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(_too_large(most))
        return read_stream(file, most)


def read_stream(file: BinaryIO, most: int) -> bytes:
    """Read an open file to its end, which must be within `most` bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is longer.
    """
    parts, left = [], most
    while block := file.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            raise ValueError(_too_large(most))
        parts.append(block)
    return b"".join(parts)


def _too_large(most: int) -> str:
    size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most} bytes"
    return f"it has more than {size}, which is the most that such a file may have"


def check_directory(path: Path) -> None:
    """Refuse a file to be written whose directory does not exist.

    Raises
    ------
    PathNotFoundError
        If it does not.
    """
    if not path.parent.is_dir():
        raise PathNotFoundError(f"directory {path.parent} does not exist")


def unreadable(message: str, cause: Exception) -> ValueError:
    """Return the error for a file that cannot be read: one that does not exist is a `PathNotFoundError`."""
    return PathNotFoundError(message) if isinstance(cause, FileNotFoundError) else ValueError(message)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same name, and move it to `path` if the block succeeds."""
    with tempfile.TemporaryDirectory(prefix=".sdcffi-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
