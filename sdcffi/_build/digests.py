"""Digests of contents, which identify a cached build."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .._files import file_digest

NEEDED_SUBMODULE = "ggml"
"""The path of the only submodule of upstream that a build needs."""


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


def source_files(root: Path) -> Iterator[Path]:
    """Yield the files of an upstream tree that belong to a revision: without the submodules that no build needs."""
    file = root / ".gitmodules"
    submodules = re.findall(
        r"^\s*path\s*=\s*(.+?)\s*$", file.read_text("utf-8") if file.is_file() else "", re.MULTILINE
    )
    left_out = [root / path for path in submodules if path != NEEDED_SUBMODULE]
    for path in tree_files(root):
        if not any(path.is_relative_to(directory) for directory in left_out):
            yield path


def source_digest(root: Path) -> str:
    """Return the digest of an upstream tree by which a revision is verified; csrc/upstream.toml defines it."""
    lines = (f"{_git_blob(path)} {path.relative_to(root).as_posix()}\n" for path in source_files(root))
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _git_blob(path: Path) -> str:
    content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
