"""The verified revisions of upstream, which ``csrc/upstream.toml`` names."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BuildError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NEWEST = "newest"


@dataclass(frozen=True)
class Package:
    """A source archive in the package index.

    Parameters
    ----------
    name, version : str
        Package and release.
    sha256 : str
        Digest of the archive.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Submodule:
    """A part of a repository that has a repository of its own."""

    path: str
    url: str
    commit: str


@dataclass(frozen=True)
class Repository:
    """A git repository, with the submodules that a build needs."""

    url: str
    submodules: tuple[Submodule, ...]


@dataclass(frozen=True)
class Revision:
    """A revision of upstream on which sdcffi's tests pass.

    Parameters
    ----------
    name : str
        What ``--engine`` takes, such as ``2026-05``.
    commit : str
        Upstream's commit, in full.
    date : datetime.date
        The commit's date.
    tree : str
        Digest of its files, by `digests.source_digest`.
    package : Package or None
        The archive that contains it.
    git : Repository or None
        The repository that contains it.
    moved : mapping of str to str
        By the path that patches name, the path in this revision, where it is another.
    """

    name: str
    commit: str
    date: datetime.date
    tree: str
    package: Package | None
    git: Repository | None
    moved: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} ({self.commit[:8]}, {self.date})"


@dataclass(frozen=True)
class Revisions:
    """All verified revisions, the oldest first, and the one that is built by default."""

    all: tuple[Revision, ...]
    default: Revision

    @property
    def newest(self) -> Revision:
        """The last one."""
        return self.all[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, the oldest first."""
        return tuple(revision.name for revision in self.all)

    def named(self, name: str) -> Revision:
        """Return the revision of this name; BuildError has the legal names."""
        for revision in self.all:
            if name in (revision.name, NEWEST if revision is self.newest else None):
                return revision
        raise BuildError(f"--engine {name}: no such revision (legal: {', '.join(self.names)}, {NEWEST})")

    def of_tree(self, digest: str) -> Revision | None:
        """Return the revision whose files have this digest, or None."""
        return next((revision for revision in self.all if revision.tree == digest), None)


def read_revisions(csrc: Path) -> Revisions:
    """Read ``upstream.toml`` in the directory of the C sources."""
    table: dict[str, Any] = tomllib.loads((csrc / "upstream.toml").read_text("utf-8"))
    revisions = tuple(_revision(**entry) for entry in table["revision"])
    return Revisions(revisions, next(revision for revision in revisions if revision.name == table["default"]))


def _revision(
    package: Mapping[str, str] | None = None,
    git: Mapping[str, Any] | None = None,
    moved: Mapping[str, str] | None = None,
    **named: Any,
) -> Revision:
    repository = git and Repository(git["url"], tuple(Submodule(**entry) for entry in git["submodules"]))
    return Revision(package=Package(**package) if package else None, git=repository or None, moved=moved or {}, **named)
