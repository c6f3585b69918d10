"""The cache directory, digests, and atomic writes: a reader finds the old file or the whole new one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

__all__ = ["cache_directory", "file_digest", "replacing", "stream_digest"]

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same name, and move it to `path` if the block succeeds."""
    with tempfile.TemporaryDirectory(prefix=".sdcffi-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
