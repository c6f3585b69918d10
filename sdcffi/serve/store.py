"""Results on disk: image files with their records inside, and each job as JSON, for a while and up to a size."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._files import read_kept_json, replacing

__all__ = ["Store", "StoredImage"]

_JOB = "job.json"


@dataclass(frozen=True)
class StoredImage:
    """An image of a job.

    Attributes
    ----------
    id : str
        Its name, which cannot be guessed.
    media_type : str
    width, height : int
    seed : int or None
        None for an image that was only upscaled.
    record : dict or None
        How it was made, see `Record.to_dict`.
    path : Path
        The file.
    """

    id: str
    media_type: str
    width: int
    height: int
    seed: int | None
    record: dict[str, Any] | None = field(repr=False)
    path: Path = field(repr=False)

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return self.path.read_bytes()


class Store:
    """The directory of results. Its methods block: call them on a thread.

    Parameters
    ----------
    directory : Path
    most_bytes : int
        Size of all results.
    most_seconds : float
        Age of a result.
    """

    def __init__(self, directory: Path, most_bytes: int, most_seconds: float) -> None:
        self.directory, self._most_bytes, self._most_seconds = directory, most_bytes, most_seconds

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job, which is made."""
        folder = self.directory / job_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def write(self, job_id: str, data: dict[str, Any]) -> None:
        """Write what is known of a job."""
        with replacing(self.folder(job_id) / _JOB) as temporary:
            temporary.write_text(json.dumps(data), "utf-8")

    def read(self) -> Iterable[dict[str, Any]]:
        """Return what is known of every job that is kept, the oldest first; damaged ones are left out."""
        found = []
        if self.directory.is_dir():
            for path in self.directory.glob(f"*/{_JOB}"):
                with suppress(OSError, ValueError):
                    data = read_kept_json(path)
                    if isinstance(data, dict) and data.get("id") == path.parent.name:
                        found.append(data)
        return sorted(found, key=lambda data: float(data.get("created") or 0))

    def remove(self, job_id: str) -> None:
        """Remove a job and its images."""
        shutil.rmtree(self.directory / job_id, ignore_errors=True)

    def expire(self, keep: Iterable[str] = ()) -> list[str]:
        """Remove what is too old or too much, the oldest first, but for `keep`; return the ids of those jobs."""
        kept = set(keep)
        found: list[tuple[float, int, str]] = []
        for folder in self.directory.iterdir() if self.directory.is_dir() else ():
            with suppress(OSError):
                if folder.is_dir() and folder.name not in kept:
                    size = sum(path.stat().st_size for path in folder.iterdir())
                    found.append((folder.stat().st_mtime, size, folder.name))
        total, now, removed = sum(size for _, size, _ in found), time.time(), []
        for written, size, name in sorted(found):
            if total > self._most_bytes or now - written > self._most_seconds:
                self.remove(name)
                removed.append(name)
                total -= size
        return removed
