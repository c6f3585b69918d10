"""The cache directory, digests, and atomic writes: a reader finds the old file or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from .errors import PathNotFoundError

__all__ = [
    "cache_directory",
    "check_directory",
    "file_digest",
    "read_kept_json",
    "replacing",
    "stream_digest",
    "unreadable",
]

_BLOCK = 1 << 20
_MOST_KEPT = 16 << 20  # bytes of a JSON file in a cache or a build


def cache_directory() -> Path:
    """Return the absolute directory for sources, builds and digests. ``SDCFFI_CACHE`` overrides the user's cache.

    Raises
    ------
    OSError
        If this user has no home directory, as in a container with a random user id.
    """
    try:
        path = Path(os.environ.get("SDCFFI_CACHE") or platformdirs.user_cache_dir("sdcffi"))
    except RuntimeError:
        path = Path()
    if not path.is_absolute() and not os.environ.get("SDCFFI_CACHE"):
        raise OSError("this user has no home directory for a cache; set SDCFFI_CACHE to a directory to write to")
    return path.absolute()


def read_kept_json(path: Path) -> Any:
    """Return what a JSON file holds that this package wrote, and that may have been damaged since.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no JSON, or is too large or nested too deep to be what was written.
    """
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a regular file")
        content = file.read(_MOST_KEPT + 1)
    if len(content) > _MOST_KEPT:
        raise ValueError(f"{path} has more than {_MOST_KEPT >> 20} MiB")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep") from error


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
