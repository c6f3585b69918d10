"""Digests of model files, cached in this process and in the user's cache directory.

A cached digest is valid for a file with the same path, size, modification time and inode. Digests of large files are
also cached on disk, except for files modified within the last seconds: a later change might not change their time.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from .._files import cache_directory, read_kept_json, replacing, stream_digest
from .._quoting import shown, shown_path
from ..errors import ModelLoadError

__all__ = ["FileState", "check_unchanged", "file_state", "sha256", "tensors_sha256"]

_LEAST_KEPT = 32 << 20  # bytes; smaller files are read fast enough
_MOST_PARTS = 10_000  # files of a directory; a diffusers directory has about 30
_SETTLED = 2 * 10**9  # nanoseconds; the coarsest file systems have a resolution of two seconds
_kept: dict[str, tuple[FileState, str]] = {}


@dataclass(frozen=True)
class FileState:
    """The state of a file, by which a change is noticed.

    Attributes
    ----------
    size : int
        In bytes; for a directory, the sum over its files.
    mtime_ns : int
        Modification time in nanoseconds; for a directory, that of its newest file.
    inode : int
    """

    size: int
    mtime_ns: int
    inode: int


def file_state(path: Path) -> FileState | None:
    """Return the state of a file or of a diffusers directory. None if it does not exist or cannot be read.

    Nor if it is neither, but a pipe, a device, or a directory of more files than a model has.
    """
    try:
        parts = [file.stat() for file in _files(path)]
        return FileState(
            sum(part.st_size for part in parts), max(part.st_mtime_ns for part in parts), path.stat().st_ino
        )
    except (OSError, ValueError):
        return None


def check_unchanged(states: Mapping[Path, FileState | None]) -> None:
    """Refuse files that are not those that were loaded, when they are loaded again after a crash.

    Parameters
    ----------
    states : mapping of Path to FileState or None
        The state of each file when it was loaded.

    Raises
    ------
    ModelLoadError
        If a file has changed since, or is gone.
    """
    if changed := [str(path) for path, state in states.items() if file_state(path) != state]:
        raise ModelLoadError(
            f"{', '.join(changed)} has changed since it was loaded, so it is not loaded again: open a new engine, or"
            " put the file back"
        )


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; for a directory, that of its files' digests and relative names.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is neither a regular file nor the directory of a model.
    """
    return _kept_digest(path, "")


def tensors_sha256(path: Path) -> str | None:
    """Return the sha256 of the data after a safetensors file's header, which web interfaces use to identify a LoRA.

    Returns
    -------
    str or None
        In hexadecimal. None for other formats.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    return _kept_digest(path, "tensors") if path.suffix.lower() == ".safetensors" else None


def _kept_digest(path: Path, part: str) -> str:
    state = file_state(path)
    key = hashlib.sha256(f"{path.absolute()}\0{part}".encode("utf-8", "surrogateescape")).hexdigest()
    if state is not None and (found := _look_up(key, state)):
        return found
    digest = _computed(path, part)
    if state is not None and file_state(path) == state:  # otherwise the file changed while it was read
        _keep(key, state, digest)
    return digest


def _computed(path: Path, part: str) -> str:
    if not path.is_dir():
        return _hashed(path, part)
    lines = (f"{_hashed(file, part)}  {file.relative_to(path).as_posix()}\n" for file in _files(path))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _hashed(path: Path, part: str) -> str:
    with path.open("rb") as file:
        if part == "tensors":
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        return stream_digest(file)


def _files(path: Path) -> list[Path]:
    """Return the regular files of a directory, or the file itself.

    Raises
    ------
    ValueError
        If it is no regular file, or if the directory holds too much.
    """
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError(f"{shown_path(path)} is not a regular file")
        return [path]
    found = list(islice(path.rglob("*"), _MOST_PARTS + 1))
    if len(found) > _MOST_PARTS:
        raise ValueError(f"{shown_path(path)} holds more than {_MOST_PARTS} files: it is not a model")
    return sorted(file for file in found if file.is_file())


def _look_up(key: str, state: FileState) -> str | None:
    if key not in _kept:
        try:
            kept = read_kept_json(_directory() / key)
            _kept[key] = FileState(**kept["state"]), _as_digest(kept["sha256"])
        except (OSError, ValueError, TypeError, KeyError):  # missing or damaged: it is computed again
            return None
    before, digest = _kept[key]
    return digest if before == state else None


def _as_digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"not a sha256: {shown(text)}")
    return text


def _keep(key: str, state: FileState, digest: str) -> None:
    _kept[key] = state, digest
    if state.size < _LEAST_KEPT or time.time_ns() - state.mtime_ns < _SETTLED:
        return
    try:
        _directory().mkdir(parents=True, exist_ok=True)
        with replacing(_directory() / key) as temporary:
            temporary.write_text(json.dumps({"state": asdict(state), "sha256": digest}), encoding="utf-8")
    except OSError:  # without a cache the digest is only computed again
        return


def _directory() -> Path:
    return cache_directory() / "digests"
