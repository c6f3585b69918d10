"""Unified diffs: their hunks, and the lines that one finds and replaces in a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import patch_ng

from ..errors import BuildError


@dataclass(frozen=True)
class Hunk:
    """A part of a patch: lines that follow each other in one place of one file."""

    path: str
    number: int
    text: tuple[bytes, ...]

    @property
    def old(self) -> list[bytes]:
        """The lines that must be in the file, without their ends."""
        return [line[1:].rstrip(b"\r\n") for line in self.text if line[:1] in (b" ", b"-")]

    def places(self, lines: Sequence[bytes]) -> list[int]:
        """Return where the old lines are among `lines`, as indices of the first."""
        old, stripped = self.old, [line.rstrip(b"\r\n") for line in lines]
        starts = range(len(stripped) - len(old) + 1) if old else ()
        return [start for start in starts if stripped[start] == old[0] and stripped[start : start + len(old)] == old]

    def replacement(self, lines: Sequence[bytes]) -> list[bytes]:
        """Return what takes the place of the old `lines`, with their line ends."""
        end = b"\r\n" if lines[0].endswith(b"\r\n") else b"\n"
        old, new = iter(lines), []
        for line in self.text:
            if line[:1] == b"+":
                new.append(line[1:].rstrip(b"\r\n") + end)
            elif line[:1] in (b" ", b"-"):
                kept = next(old)
                new += [kept] if line[:1] == b" " else []
        return new


def replaced_lines(lines: list[bytes], starts: list[tuple[int, Hunk]]) -> list[bytes]:
    """Return the lines of a file in which each hunk, found at its start, is replaced; the starts rise."""
    new = list(lines)
    for start, hunk in reversed(starts):
        end = start + len(hunk.old)
        new[start:end] = hunk.replacement(lines[start:end])
    return new


def read_hunks(path: Path) -> Iterator[Hunk]:
    """Yield the hunks of a patch file; BuildError if it is no unified diff, or one has no lines to be found by."""
    with _patch_log() as log:
        diff = patch_ng.fromfile(str(path))
    if not diff:
        raise BuildError(f"{path} is not a unified diff", tuple(log))
    for item in diff.items:
        for number, hunk in enumerate(item.hunks, 1):
            read = Hunk(item.target.decode().removeprefix("b/"), number, tuple(hunk.text))
            if not read.old:
                raise BuildError(f"{path}: hunk {number} of {read.path} has no line by which to find its place")
            yield read


@contextmanager
def _patch_log() -> Iterator[list[str]]:
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("patch_ng")
    handler, propagate = Collector(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
