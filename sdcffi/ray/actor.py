"""What runs on the machines of a cluster: an engine, and the rows that it gets."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._batches.jobs import Job, claimed, job_of, own_arguments
from .._records.record import Record
from ..engine.engine import Engine
from ..engine.results import Result, check_image_path
from ..engine.resuming import Request, Unrecorded
from ..errors import NativeCrashError, SDError
from ..images.texts import KEEPS_TEXTS
from ..parameter_files import Arguments, as_arguments, pixels_of
from .rows import read_row, seed_of, unpacked

__all__ = ["Generator", "ModelUnavailable", "Task", "refuse_unrecorded"]


class ModelUnavailable(SDError):
    """The model could not be loaded on a machine, so that no row can be generated there."""


@dataclass(frozen=True)
class Task:
    """What all rows of a batch have in common.

    Attributes
    ----------
    given : Arguments
        Parameters of the engine, and of rows that do not have them.
    output : Path or None
        What the files are named after. None: images are returned.
    digits : int
        Digits of the rows' numbers in the names of files, at least.
    is_packed : bool
        Whether rows are those of `rows.packed`.
    directory : str
        Directory to which relative paths are relative, where it exists.
    overwrite, retries, timeout, format, digests, paths
        See `generate`.
    """

    given: Arguments
    output: Path | None
    digits: int
    is_packed: bool
    directory: str
    overwrite: bool
    retries: int
    timeout: float | None
    format: str
    digests: bool
    paths: bool


class Generator:
    """Generates the images of rows. Ray Data makes one in each of its actors.

    The model is loaded for the first row that is not finished.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._engine: Engine | None = None
        with suppress(OSError):  # then only whole paths are found here, as their errors say
            os.chdir(task.directory)
        self._request = Request(task.given.engine)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what became of a row."""
        started = time.perf_counter()
        given = row.get("row")
        name: int | str = given if isinstance(given, (int, str)) else str(given)
        found: dict[str, Any] = {}
        try:
            name, own = unpacked(row) if self._task.is_packed else read_row(row)
            found = self._images(name, own) if self._task.output is None else self._files(name, own, self._task.output)
        except ModelUnavailable:
            raise
        except Exception as error:  # whatever it is, it costs no other row
            found = {"state": "failed", "error": _message(error).removeprefix(f"row {name}: ")}
        empty: dict[str, Any] = {"images" if self._task.output is None else "files": [], "seeds": [], "error": ""}
        return {"row": name, **empty, **found, "seconds": time.perf_counter() - started}

    def _files(self, name: int | str, own: dict[str, Any], output: Path) -> dict[str, Any]:
        """Generate the files of a row, unless they are there."""
        task = self._task
        if "output" in own and not task.is_packed:
            raise ValueError(f"row {name}: files are named after the column row: leave out the column output")
        job = job_of(name, own, task.given, output, f"row {name}", task.digits)
        refuse_unrecorded(job.output, check_image_path(job.files[0], pixels_of(job.arguments)))
        if not task.overwrite:
            _refuse_unknown_edges(job.arguments, f"row {name}")
        with claimed(job.files[0], wait=True):
            try:
                job_now = job.checked(self._request, task.overwrite)
            except Unrecorded as error:
                raise ValueError(
                    f"row {name}: {job.files[0]} has no record that tells what it shows; pass overwrite=True to"
                    " generate it again"
                ) from error
            if job_now is None:
                return {"state": "finished", "files": _names(job), "seeds": _seeds(job)}
            result = self._result(name, job.arguments)
            result.save(job.output, digests=task.digests, paths=task.paths)
        return {"state": "generated", "files": _names(job), "seeds": result.seeds}

    def _images(self, name: int | str, own: dict[str, Any]) -> dict[str, Any]:
        task = self._task
        result = self._result(name, own_arguments(own, task.given, f"row {name}"))
        files = [
            result.to_bytes(task.format, index, digests=task.digests, paths=task.paths)
            for index in range(len(result.arrays))
        ]
        return {"state": "generated", "images": files, "seeds": result.seeds}

    def _result(self, name: int | str, arguments: Arguments) -> Result:
        seed = arguments.call_values.get(("seed",))
        if seed is None or (isinstance(seed, int) and seed < 0):
            arguments = arguments.updated(as_arguments({"seed": seed_of(name)}))
        engine = self._opened()
        for _ in range(self._task.retries):
            with suppress(NativeCrashError):  # the next call starts a new process
                return engine.generate(**arguments.generate, timeout=self._task.timeout)
        return engine.generate(**arguments.generate, timeout=self._task.timeout)

    def _opened(self) -> Engine:
        if self._engine is None:
            try:
                self._engine = Engine(**self._task.given.engine)
            except Exception as error:
                raise ModelUnavailable(
                    f"the model cannot be loaded on {os.uname().nodename}: {_message(error)}",
                    error.log if isinstance(error, SDError) else (),
                ) from error
        return self._engine


def refuse_unrecorded(output: Path, image_format: str) -> None:
    """Refuse files that cannot have a record: a lost machine's rows could not be told from finished ones.

    Raises
    ------
    ValueError
        If the format has none.
    """
    if image_format not in KEEPS_TEXTS:
        raise ValueError(f"{output.name}: {image_format} files have no record, which tells finished rows: use .png")


def _refuse_unknown_edges(arguments: Arguments, where: str) -> None:
    """Refuse an image in memory whose edges are used: the record has only the edges, and there is no file's time.

    Raises
    ------
    ValueError
        If the row could not be told from one that is not finished.
    """
    image = arguments.call_values.get(("control_image",))
    if arguments.call_others.get("canny") and not (image is None or isinstance(image, (str, os.PathLike))):
        raise ValueError(
            f"{where}: with canny=True, control_image must be a path, or each run would generate the row again; give"
            " a path, or control_image=sdcffi.canny(image) without canny"
        )


def _names(job: Job) -> list[str]:
    return [str(file) for file in job.files]


def _seeds(job: Job) -> list[int]:
    return [Record.from_file(file).seed for file in job.files]


def _message(error: Exception) -> str:
    """Return what an error says; of one that is not meant for a reader, also what it is."""
    if isinstance(error, SDError):
        return error.message
    plain = str(error)
    return plain if isinstance(error, (ValueError, TypeError)) and plain else f"{type(error).__name__}: {plain}"
