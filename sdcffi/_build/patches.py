"""The patches of csrc/patches: find those that an upstream tree needs, and apply them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import patch_ng

from ..errors import BuildError


@dataclass(frozen=True)
class Patch:
    r"""A unified diff with a header that says why it exists and which revisions need it.

    Parameters
    ----------
    path : Path
        The patch file.
    subject : str
        What it does, in one line.
    upstream_issue : str
        Upstream's issue or commit, or ``not reported``.
    needed_file, needed_text : str
        A tree needs the patch if this file of it contains this text; ``\n`` there is a line end.
    test : str
        The test that fails without the patch.
    """

    path: Path
    subject: str
    upstream_issue: str
    needed_file: str
    needed_text: str
    test: str

    @property
    def name(self) -> str:
        """The file name, as the manifest records it."""
        return self.path.name

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Read a patch file; BuildError names a header line that is missing."""
        header = path.read_text("utf-8").split("\n--- ", 1)[0]
        fields = dict(re.findall(r"^([A-Z][\w-]+): (.+)$", header, flags=re.MULTILINE))
        try:
            needed_file, needed_text = fields["Needed-when"].split(": ", 1)
            needed_text = needed_text.replace("\\n", "\n")
            return cls(path, fields["Subject"], fields["Upstream-issue"], needed_file, needed_text, fields["Test"])
        except (KeyError, ValueError) as error:
            raise BuildError(f"{path}: a line of the header is missing or malformed: {error}") from error

    def is_needed(self, tree: Path) -> bool:
        """Return whether the revision in `tree` still has the text that this patch replaces."""
        file = tree / self.needed_file
        return file.is_file() and self.needed_text in file.read_text("utf-8", errors="replace")

    def apply(self, tree: Path) -> None:
        """Change the files of `tree`.

        Lines may have moved, but every line of every hunk must exist; the place nearest to the stated one is used.

        Raises
        ------
        BuildError
            If a hunk doesn't fit; the message names patch, target file and hunk.
        """
        with _patch_log() as log:
            patches = patch_ng.fromfile(str(self.path))
            if not patches:
                raise BuildError(f"{self.path} is not a unified diff", tuple(log))
            for item in patches.items:
                _locate_hunks(self, item, tree)
            if not patches.apply(strip=1, root=str(tree)):
                raise BuildError(f"patch {self.name} does not apply to {tree}", tuple(log))


def read_patches(directory: Path) -> tuple[Patch, ...]:
    """Return the patches of `directory` in the order of their names."""
    return tuple(Patch.read(path) for path in sorted(directory.glob("*.patch")))


def apply_needed(patches: tuple[Patch, ...], tree: Path) -> tuple[str, ...]:
    """Apply to `tree` those patches that it needs and return their names."""
    applied = []
    for patch in patches:
        if patch.is_needed(tree):
            patch.apply(tree)
            applied.append(patch.name)
    return tuple(applied)


def _locate_hunks(patch: Patch, item: patch_ng.Patch, tree: Path) -> None:
    """Set the start of each hunk to the place of its lines, because patch-ng tries only the stated line."""
    if item.source == b"/dev/null":
        return
    target = item.target.decode().removeprefix("b/")
    file = tree / target
    lines = file.read_bytes().splitlines() if file.is_file() else []
    for number, hunk in enumerate(item.hunks, 1):
        old = [line[1:].rstrip(b"\r\n") for line in hunk.text if line[:1] in (b" ", b"-")]
        starts = [i for i in range(len(lines) - len(old) + 1) if lines[i : i + len(old)] == old]
        if not starts:
            raise BuildError(
                f"patch {patch.name} does not apply: hunk {number} of {target} (line {hunk.startsrc}) is not found in "
                f"{tree}. Use a revision that the patch fits, or change its Needed-when line to leave this one out."
            )
        hunk.startsrc = min(starts, key=lambda start: abs(start + 1 - hunk.startsrc)) + 1


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
