"""The files of entries: where they are on this machine, and how they get there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .._files import file_digest
from .._quoting import shown_path
from .._references import CatalogueReference, fetch, is_there, parse
from ..errors import PathNotFoundError, SDError
from .entries import Entry, File, LoraEntry, ModelEntry, Variant
from .reader import PACKAGE

__all__ = ["fetched", "files_of", "has", "is_ours", "local", "pull", "remove", "size_of", "total"]

_PACKAGE = Path(__file__).resolve().parent.parent


def is_ours(file: File) -> bool:
    """Return whether the file is downloaded, so that it may be removed too."""
    return not file.reference.startswith(PACKAGE) and parse(file.reference) is not None


def local(file: File) -> Path | None:
    """Return the file if it is on this machine, without the network."""
    if file.reference.startswith(PACKAGE):
        path = _PACKAGE / file.reference.removeprefix(PACKAGE)
    else:
        reference = parse(file.reference)
        if reference is not None:
            assert not isinstance(reference, CatalogueReference)
            return is_there(reference)
        path = Path(file.reference)
    return path if path.exists() else None


def fetched(file: File) -> Path:
    """Return the file, which is downloaded if it is not on this machine.

    Raises
    ------
    PathNotFoundError
        If it is a path to nothing.
    SDError
        If it cannot be downloaded.
    """
    if (path := local(file)) is not None:
        return path
    if file.reference.startswith(PACKAGE):
        raise PathNotFoundError(
            f"{file.reference.removeprefix(PACKAGE)} is missing, so this installation of sdcffi is incomplete: install"
            " it again"
        )
    reference = parse(file.reference)
    if reference is None:
        raise PathNotFoundError(f"{shown_path(file.reference)}, a file of the catalogue, does not exist")
    assert not isinstance(reference, CatalogueReference)
    return fetch(reference)


def pull(file: File) -> Path:
    """Return the file as `fetched` does, and compare its digest with the catalogue's if it was downloaded now.

    Raises
    ------
    SDError
        If its digest is another one.
    """
    if (path := local(file)) is not None:
        return path
    path = fetched(file)
    if file.sha256 is not None and (digest := file_digest(path)) != file.sha256:
        raise SDError(
            f"{path} has the sha256 {digest}, but the catalogue has {file.sha256}: it was replaced there, or damaged."
            f" Remove it if you do not trust it; {file.reference} loads it all the same"
        )
    return path


def remove(file: File) -> None:
    """Remove a file that was downloaded, if it is there: a link into a cache, and what it points to."""
    if is_ours(file) and (path := local(file)) is not None:
        target = Path(os.path.realpath(path))
        path.unlink()
        if target != path:
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
