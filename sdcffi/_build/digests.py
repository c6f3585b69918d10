"""Digests of contents, which identify a cached build."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .._files import file_digest


def value_digest(value: object) -> str:
    """Return the sha256 of a JSON value, in hex; the order of a mapping's keys doesn't matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree_files(root: Path) -> Iterator[Path]:
    """Yield the files of a source tree in a fixed order, leaving out ``.git`` and CMake's build directories."""
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not _is_generated(Path(directory, name)))
        for name in sorted(files):
            if name != ".git":
                yield Path(directory, name)


def _is_generated(directory: Path) -> bool:
    return directory.name in (".git", "__pycache__") or (directory / "CMakeCache.txt").is_file()


def tree_digest(root: Path) -> str:
    """Return one sha256 over the relative paths and contents of a source tree."""
    return value_digest({path.relative_to(root).as_posix(): file_digest(path) for path in tree_files(root)})
