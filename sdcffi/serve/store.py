"""Results on disk: image files with their records inside, and each job as JSON, for a while and up to a size."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .._files import locked, read_kept_json, read_whole, replacing
from .._records.record import Record
from ..errors import SDError

__all__ = ["Store", "StoredImage", "is_regular", "remove"]

_SECRET = "secret"
_FILE = re.compile(r"([0-9a-f]{32})(?:\.json|-\d+\.png)")
_SECRET_BYTES = 32
_LATEST = 1e12  # seconds since 1970 that a damaged file may say


@dataclass(frozen=True)
class StoredImage:
    """An image of a job.

    Attributes
    ----------
    id : str
        Its name, which cannot be guessed.
    path : Path
        The file, a PNG.
    width, height : int
    seed : int or None
        None for an image that was only upscaled.
    has_record : bool
        Whether the file says how it was made.
    """

    id: str
    path: Path
    width: int
    height: int
    seed: int | None = None
    has_record: bool = True
    media_type: ClassVar[str] = "image/png"

    def read(self) -> bytes:
        """Return the bytes of the file. This and `record` block: call them on a thread.

        Raises
        ------
        OSError
            If it has been removed.
        """
        return self.path.read_bytes()

    @property
    def record(self) -> dict[str, Any] | None:
        """How it was made, see `Record.to_dict`, read from the file."""
        return Record.from_file(self.path).to_dict() if self.has_record else None


@dataclass(frozen=True)
class _Kept:
    """A job that has ended: when, and its files."""

    ended: float
    size: int
    files: list[Path]


class Store:
    """The directory of results, which one server has at a time. Its methods block: call one at a time, on a thread.

    Parameters
    ----------
    directory : Path
    most_jobs, most_bytes : int
        Number of the results' jobs, and size of all results. The oldest leave first.
    most_seconds : float
        Age of a result.

    Attributes
    ----------
    size : int
        Size of all results, in bytes.
    """

    def __init__(self, directory: Path, most_jobs: int, most_bytes: int, most_seconds: float) -> None:
        self.directory, self.size = directory, 0
        self._most_jobs, self._most_bytes, self._most_seconds = most_jobs, most_bytes, most_seconds
        self.secret = secrets.token_bytes(_SECRET_BYTES)
        self._kept: dict[str, _Kept] = {}  # by job, in the order in which they ended
        self._stack = ExitStack()

    def open(self) -> list[dict[str, Any]]:
        """Take the directory, and return what is known of every job that is kept, the oldest first.

        Raises
        ------
        SDError
            If another server has it.
        OSError
            If it cannot be written to.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._stack.enter_context(locked(self.directory)):
            self._stack.close()
            raise SDError(
                f"another server keeps its results in {self.directory}: stop it, or choose another directory with"
                " --store, or another port"
            )
        self._read_secret()
        files: dict[str, list[Path]] = {}
        for path in self.directory.iterdir():
            if (found := _FILE.fullmatch(path.name)) and is_regular(path):
                files.setdefault(found[1], []).append(path)
        jobs = []
        for job_id, paths in files.items():
            data = _read_job(self._job(job_id))
            if data is None:
                remove(paths)
            else:
                jobs.append(data)
        for data in sorted(jobs, key=lambda data: float(data["ended"] or time.time())):
            self._keep(data["id"], data["ended"] or time.time(), files[data["id"]])
        return sorted(jobs, key=lambda data: float(data["created"]))

    def close(self) -> None:
        """Let another server have the directory."""
        self._stack.close()

    def _read_secret(self) -> None:
        path = self.directory / _SECRET
        with suppress(OSError, ValueError):
            kept = read_whole(path, _SECRET_BYTES)
            if len(kept) == _SECRET_BYTES:
                self.secret = kept
                return
        with replacing(path) as temporary, open(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(self.secret)

    def image(self, image_id: str) -> Path:
        """Return the file of an image."""
        return self.directory / f"{image_id}.png"

    def _job(self, job_id: str) -> Path:
        return self.directory / f"{job_id}.json"

    def write(self, data: dict[str, Any]) -> None:
        """Write what is known of a job; one that has ended is kept from now on, with its images.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        path = self._job(data["id"])
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(data), "utf-8")
        if data["ended"]:
            self._keep(data["id"], data["ended"], [path, *(self.image(image["id"]) for image in data["images"])])

    def _keep(self, job_id: str, ended: float, files: list[Path]) -> None:
        before = self._kept.get(job_id, _Kept(0.0, 0, []))  # as it was written before
        files = list(dict.fromkeys([*before.files, *files]))
        size = sum(path.stat().st_size for path in files)
        self._kept.pop(job_id, None)  # it is the last one from now on
        self._kept[job_id] = _Kept(ended, size, files)
        self.size += size - before.size

    def expire(self) -> list[str]:
        """Remove what is too old or too much, the oldest first; return the ids of those jobs.

        The last one is never too much: its client has not been answered yet.
        """
        removed, now = [], time.time()
        for job_id, kept in list(self._kept.items()):
            too_much = len(self._kept) > self._most_jobs or (self.size > self._most_bytes and len(self._kept) > 1)
            if not too_much and now - kept.ended <= self._most_seconds:
                break
            del self._kept[job_id]
            self.size -= kept.size
            remove(kept.files)
            removed.append(job_id)
        return removed


def remove(files: Iterable[Path]) -> None:
    """Remove files, some of which may be gone already."""
    for path in files:
        with suppress(OSError):
            path.unlink()


def _read_job(path: Path) -> dict[str, Any] | None:
    """Return what is kept of a job; None if it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        data = read_kept_json(path)
        if data["id"] == path.stem and _is_time(data["created"]) and (data["ended"] is None or _is_time(data["ended"])):
            return dict(data)
    return None


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LATEST


def is_regular(path: Path) -> bool:
    """Return whether a file is there, and no link to one: all that a store writes are."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
