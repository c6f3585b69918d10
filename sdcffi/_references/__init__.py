"""References to files elsewhere, which are downloaded once and then are paths.

Everything here runs in the calling process, before native code.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .._files import expanded
from .forms import CatalogueReference, HubReference, Reference, WebReference, parse, pinned
from .weights import Kind

__all__ = [
    "CatalogueReference",
    "HubReference",
    "Kind",
    "Reference",
    "WebReference",
    "fetch",
    "is_there",
    "local_path",
    "parse",
    "reference_of",
]

_fetched: dict[Path, WebReference] = {}


def fetch(reference: Reference, kind: Kind = "file") -> Path:
    """Return the path of what a reference stands for, which is downloaded unless it was.

    Parameters
    ----------
    reference : Reference
        From `parse`.
    kind : str
        What it is to be, if it stands for a folder or a repository: ``"model"``, ``"lora"``, or ``"file"`` for parts of
        models and upscaling networks.

    Returns
    -------
    Path
        Absolute. A file, the first of several parts, or a diffusers directory.

    Raises
    ------
    DownloadError
        If it cannot be downloaded.
    ValueError
        If it does not exist (a `PathNotFoundError`), or it is not clear which file is meant.
    """
    from . import hub, web  # what they import takes time, and few programs need it

    if isinstance(reference, CatalogueReference):
        raise ValueError(
            f"{reference} is a name for Engine and loras, and a file must be given here: 'sdcffi models show"
            f" {reference.name}' lists its files"
        )
    if isinstance(reference, HubReference):
        return hub.fetch(reference, kind)
    path = web.fetch(reference)
    _fetched[path] = reference
    return path


def is_there(reference: Reference, kind: Kind = "file") -> Path | None:
    """Return the path of what a reference stands for if it was downloaded, else None; the network is not used."""
    from . import hub, web

    if isinstance(reference, HubReference):
        return hub.is_there(reference, kind)
    return web.is_there(reference) if isinstance(reference, WebReference) else None


def local_path(path: str | os.PathLike[str], name: str = "", kind: Kind = "file") -> Path:
    """Return where a file is that is given by its path, or by a reference, which is downloaded unless it was.

    Parameters
    ----------
    path : path
    name : str, optional
        Name of the parameter, for messages.
    kind : str
        See `fetch`.

    Raises
    ------
    TypeError
        If it is neither.
    DownloadError, ValueError
        See `fetch`; and `expanded` for a path.
    """
    reference = parse(path)
    return expanded(path, name) if reference is None else fetch(reference, kind)


def reference_of(path: Path) -> HubReference | WebReference | None:
    """Return the reference by which anybody can get the same file; None if it is not known to be on a server."""
    found = _fetched.get(path) or pinned(path)
    with suppress(ValueError):
        if found is not None and parse(str(found)) == found:  # not with a key in its address, or an @ in its name
            return found
    return None
