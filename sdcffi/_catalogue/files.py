"""The files of entries: where they are on this machine, and how they get there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .._quoting import shown_path
from .._references import HubReference, fetch, is_there, parse
from ..errors import PathNotFoundError
from .entries import Entry, File, LoraEntry, ModelEntry, Variant
from .reader import PACKAGE

__all__ = ["files_of", "has", "is_ours", "local", "place", "pull", "remove", "size_of", "total"]

_PACKAGE = Path(__file__).resolve().parent.parent
_BLOBS = "blobs"  # the folder in which the Hub's client keeps files, by their digests


def is_ours(file: File) -> bool:
    """Return whether the file is downloaded, so that it may be removed too."""
    return not file.reference.startswith(PACKAGE) and parse(file.reference) is not None


def place(file: File) -> str:
    """Return what a parameter takes that takes a path: the path of the file, or its reference with its digest."""
    if file.reference.startswith(PACKAGE):
        return str(_PACKAGE / file.reference.removeprefix(PACKAGE))
    reference = parse(file.reference)
    if isinstance(reference, HubReference) and reference.sha256 is None:
        return str(replace(reference, sha256=file.sha256))
    return file.reference


def local(file: File) -> Path | None:
    """Return the file if it is on this machine, without the network."""
    reference = parse(place(file))
    if reference is not None:
        return is_there(reference)
    path = Path(place(file))
    return path if path.exists() else None


def pull(file: File) -> Path:
    """Return the file, which is downloaded if it is not on this machine.

    Raises
    ------
    PathNotFoundError
        If it is a path to nothing.
    DownloadError
        If it cannot be downloaded, or has another digest than the catalogue has.
    """
    if (reference := parse(place(file))) is not None:
        return fetch(reference)
    if (path := local(file)) is None:
        raise PathNotFoundError(f"{shown_path(place(file))}, a file of the catalogue, does not exist")
    return path


def remove(file: File) -> None:
    """Remove a file that was downloaded, if it is there: a link of a cache, and what it points to in that cache."""
    if is_ours(file) and (path := local(file)) is not None:
        target = Path(os.path.realpath(path))
        path.unlink(missing_ok=True)  # another process may remove it too
        if target.parent.name == _BLOBS and target.parent.parent in path.parents:  # not a file of the user's own
            target.unlink(missing_ok=True)


def size_of(file: File) -> int | None:
    """Return a file's size in bytes: the catalogue's, or that of the file on this machine. None: unknown."""
    if file.size is not None:
        return file.size
    path = local(file)
    return None if path is None else path.stat().st_size


def files_of(entry: Entry, variant: Variant | None = None) -> tuple[File, ...]:
    """Return the files of a LoRA, or of a variant of a model; None: of all its variants, each once."""
    if isinstance(entry, LoraEntry):
        return (entry.file,)
    assert isinstance(entry, ModelEntry)
    variants = entry.variants.values() if variant is None else (variant,)
    return tuple(dict.fromkeys(file for item in variants for file in item.files.values()))


def has(files: Iterable[File]) -> bool:
    """Return whether all of them are on this machine."""
    return all(local(file) is not None for file in files)


def total(files: Iterable[File]) -> int | None:
    """Return the size of files together, in bytes. None: that of one is unknown."""
    sizes = [size_of(file) for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)
