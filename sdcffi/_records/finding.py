"""Find the files that a record names, on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from .._files import expanded
from .._quoting import shown, shown_path
from .._references import HubReference, fetch, is_there, parse
from ..errors import DownloadError, PathNotFoundError
from ..params.struct import StrPath
from .digests import file_state, sha256
from .origin import FileRecord, is_plain
from .record import Record

__all__ = ["find_files", "find_named", "find_some_files", "is_same"]

_ON_WINDOWS = os.name == "nt"
_SERVER = re.compile(r"[\\/]{2}|[\\/]\?\?[\\/]")  # begins \\server\share, or a way to write such a path

_SHIPPED = Path(__file__).resolve().parent.parent / "weights"  # the demonstration model


def find_files(record: Record, models: StrPath | Iterable[StrPath] | None = None) -> dict[str, Path]:
    """Find the files of a record by name, size and digest; download those of the Hub that are not there.

    Parameters
    ----------
    models : path or iterable of paths, optional
        Directories in which they are, or in directories below; the working directory is looked in too.

    Returns
    -------
    dict of str to Path
        Absolute paths by role. If no file of a name has the recorded content, the first one of that name.

    Raises
    ------
    ValueError
        If a file is not found, or a directory does not exist; the message names it.
    DownloadError
        If a file of the Hub, at the recorded commit, cannot be downloaded, and there is none of its name.
    """
    folders = _folders(models)
    found = _found(record, folders, downloads=True)
    if missing := [_named(file) for file in record.files if file.role not in found]:
        where = ", ".join(map(str, [*folders, Path.cwd()]))
        raise ValueError(f"not found: {', '.join(missing)}; looked in {where}. Name other directories with models=")
    return found


def find_some_files(record: Record) -> dict[str, Path]:
    """Find those files of a record that are in the working directory, where they were, or downloaded already.

    See `find_files`.
    """
    return _found(record, [])


def find_named(
    name: str, beginning: str | None, endings: Iterable[str], models: StrPath | Iterable[StrPath] | None
) -> tuple[Path, bool]:
    """Find a file of which only the name is known, perhaps without its ending, and the beginning of its sha256.

    Returns
    -------
    path : Path
        Absolute. If none has the digest, the first one of that name.
    same : bool
        Whether it has the digest; True if none is known.

    Raises
    ------
    ValueError
        If no file has the name, or it is not a plain one.
    """
    if not is_plain(name):  # it is of an image that may be anyone's
        raise ValueError(f"{shown(name)} is not the name of a file: pass the file itself")
    folders = _folders(models)
    names = [name, *(name + ending for ending in endings)]
    found = [path for one in names for path in _candidates(FileRecord(role="", name=one), folders) if path.is_file()]
    if not found:
        where = ", ".join(map(str, [*folders, Path.cwd()]))
        raise ValueError(f"not found: {name}; looked in {where}. Name other directories with models=")
    if beginning is None:
        return found[0].absolute(), True
    match = next((path for path in found if sha256(path).startswith(beginning)), None)
    return (match or found[0]).absolute(), match is not None


def _folders(models: StrPath | Iterable[StrPath] | None) -> list[Path]:
    folders = [expanded(folder, "models") for folder in _as_paths(models)]
    for folder in folders:
        if not folder.exists():
            raise PathNotFoundError(f"models: directory {folder} does not exist")
        if not folder.is_dir():
            raise ValueError(f"models: {folder} is not a directory")
    return folders


def _found(record: Record, folders: Iterable[Path], downloads: bool = False) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in record.files:
        candidates = list(_candidates(file, folders))
        match = next((path for path in candidates if is_same(path, file)), None)
        if match is None and downloads:
            match = _downloaded(file, optional=bool(candidates))
        if match := match or next(iter(candidates), None):
            found[file.role] = match.absolute()
    return found


def _downloaded(file: FileRecord, optional: bool) -> Path | None:
    """Download a file of the Hub, as it was then. Other servers are not asked for anybody who wrote into an image."""
    reference = parse(file.reference or "")
    if not isinstance(reference, HubReference):
        return None
    try:
        return fetch(reference, _kind(file))
    except (DownloadError, ValueError):
        if optional:
            return None
        raise


def _kind(file: FileRecord) -> Literal["model", "file"]:
    return "model" if file.role == "model_path" else "file"


def _asks_a_server(path: str) -> bool:
    """Return whether this system would ask a server that the path names, and perhaps log in there, to look at it."""
    return _ON_WINDOWS and _SERVER.match(path) is not None


def _named(file: FileRecord) -> str:
    if file.reference is not None:
        return f"{file.name} ({file.reference})"
    if file.path and _asks_a_server(file.path):
        return f"{file.name} (recorded at {shown_path(file.path)}, where only you can look)"
    return file.name


def _as_paths(models: StrPath | Iterable[StrPath] | None) -> list[StrPath]:
    if models is None:
        return []
    return [models] if isinstance(models, (str, os.PathLike)) else list(models)


def _candidates(file: FileRecord, folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, and directories of models, that have the name; the record may be anyone's."""
    direct = [Path(file.path)] if file.path and not _asks_a_server(file.path) else []
    if (reference := parse(file.reference or "")) and (there := is_there(reference, _kind(file))):
        direct.append(there)
    for path in (*direct, *(folder / file.name for folder in folders), Path(file.name)):
        if file_state(path) is not None:
            yield path
    for path in (_SHIPPED / file.name, _SHIPPED / "loras" / file.name):  # other models have files of these names
        if is_same(path, file):
            yield path
    for folder in folders:
        for directory, below, names in os.walk(folder):
            if (file.name in names or file.name in below) and file_state(Path(directory) / file.name) is not None:
                yield Path(directory) / file.name


def is_same(path: Path, file: FileRecord) -> bool:
    """Return whether a file has the recorded size and digest."""
    state = file_state(path)
    if state is None or state.size != file.size:
        return False
    return file.sha256 is None or sha256(path) == file.sha256
