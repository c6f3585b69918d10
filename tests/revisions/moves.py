"""Files that another revision has under other names: found by the lines that they share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

FOLDERS = ("include", "src", "ggml/include", "ggml/src")
_SOURCES = {".c", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".inl", ".m"}
_LARGEST = 1_000_000  # bytes; larger files are vocabularies
_SHORTEST = 8  # characters; a shorter line says nothing about its file
_LEAST = 0.3  # of an old file's lines


def moved_files(old: Path, new: Path) -> dict[str, list[tuple[str, float]]]:
    """Return, for each file that `new` lacks, the new files that have its lines, and which part: the most first."""
    before, after = _files(old), _files(new)
    came = {name: _lines(new / name) for name in sorted(after - before)}
    moved = {}
    for name in sorted(before - after):
        lines = _lines(old / name)
        count = sum(lines.values())
        parts = {other: sum((lines & others).values()) / count for other, others in came.items()} if count else {}
        found = sorted(((other, part) for other, part in parts.items() if part >= _LEAST), key=lambda item: -item[1])
        if found:
            moved[name] = found
    return moved


def _files(tree: Path) -> set[str]:
    paths = [path for folder in FOLDERS for path in (tree / folder).rglob("*") if path.suffix in _SOURCES]
    return {path.relative_to(tree).as_posix() for path in paths if path.stat().st_size < _LARGEST}


def _lines(file: Path) -> Counter[str]:
    lines = (" ".join(line.split()) for line in file.read_text("utf-8", errors="replace").splitlines())
    return Counter(line for line in lines if len(line) >= _SHORTEST)
