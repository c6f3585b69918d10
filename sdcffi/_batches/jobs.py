"""The jobs of a batch: one for each line of a file of prompts, or for each row of another table.

A job is finished if each of its files is there and its record says what the job says now. Several runs may share a
file of prompts and a directory: a job that another run does is left to it. A job is claimed by a lock on a hidden file
beside its first output, which the system gives up if the run is killed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from .._files import check_target, expanded, locked
from .._numbers import check_integer
from .._quoting import shown
from ..engine.results import check_image_path, image_paths
from ..engine.resuming import Request
from ..parameter_files import Arguments, as_arguments, pixels_of
from .prompts import Line, read_prompts

__all__ = ["Job", "batch_count", "check_outputs", "claimed", "job_of", "jobs_of", "output_of", "own_arguments"]

_MOST_IMAGES = 10_000  # of a call, as `check_image` has it
_DIGITS = 4  # of a number in a file's name, at least


@dataclass(frozen=True)
class Job:
    """One line of a file, or one row of a table: its number or name, its arguments, and the files of its images."""

    row: int | str
    arguments: Arguments
    output: Path
    files: tuple[Path, ...]
    why: str = ""  # it must be generated again, though its files are there: "p_0001.png differs in steps"

    def checked(self, request: Request, overwrite: bool) -> Job | None:
        """Return the job, with the reason why it must be generated again; None if it is finished.

        Raises
        ------
        Unrecorded
            If a file has no record, so that nobody can tell.
        """
        if not all(file.exists() for file in self.files):
            return self
        if overwrite:
            return self
        call = self.arguments.generate
        for index, file in enumerate(self.files):
            if found := request.difference(file, index, call):
                return replace(self, why=f"{file} {found}")
        return None


def batch_count(given: Arguments, where: str = "") -> int:
    """Return the number of images of a call.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer in its range.
    """
    count = given.call_values.get(("batch_count",), 1)
    check_integer(f"{where}batch_count", count, 1, _MOST_IMAGES)
    return 1 if count is None else int(count)


def own_arguments(own: Mapping[str, Any], given: Arguments, where: str) -> Arguments:
    """Return the arguments of a row: its own, and those of the batch for what it does not have.

    Raises
    ------
    TypeError, ValueError
        If the row has an unknown parameter, one of the engine, or no prompt.
    """
    of_the_row = as_arguments(own, where)
    if of_the_row.context_values or of_the_row.engine_others:
        raise ValueError(
            f"{where}: all lines have the same model and engine: give their parameters as flags or in --params"
        )
    arguments = given.updated(of_the_row)
    if not isinstance(arguments.call_values.get(("prompt",)), str):
        raise ValueError(f"{where}: there is no prompt")
    return arguments


def job_of(row: int | str, own: Mapping[str, Any], given: Arguments, output: Path, where: str, digits: int = 0) -> Job:
    """Return the job of a row.

    Parameters
    ----------
    row : int or str
        Its number or name.
    own : mapping
        Its parameters, and perhaps ``output``, a path.
    given : Arguments
        Parameters of all rows.
    output : Path
        ``out.png`` becomes ``out_0001.png``; ``{line}`` in the name is replaced by the number.
    where : str
        The row's name in messages.
    digits : int
        Digits of a number, at least; never below four.

    Raises
    ------
    TypeError, ValueError
        As in `own_arguments`; and if `output` cannot name the files.
    """
    target = output_of(row, output, digits)
    if "output" in own:
        own = dict(own)
        name = own.pop("output")
        if not isinstance(name, str):
            raise TypeError(f"{where}: output must be a string, not {shown(name)}")
        target = expanded(name)
    arguments = own_arguments(own, given, where)
    if "{seed}" in target.name:
        raise ValueError("--output must not contain {seed} with --prompts: use {line}")
    return Job(row, arguments, target, tuple(image_paths(target, batch_count(arguments, f"{where}: "))))


def jobs_of(path: Path, given: Arguments, output: Path) -> Iterator[Job]:
    """Yield the jobs of a file of prompts, in its order; parameters and errors are as of `job_of`."""
    lines: list[Line] = read_prompts(path)
    digits = len(str(lines[-1][0]))
    for number, own in lines:
        yield job_of(number, own, given, output, f"{path}, line {number}", digits)


def output_of(row: int | str, output: Path, digits: int = 0) -> Path:
    """Return what the files of a row are named after, unless it names its own; see `job_of`."""
    name = f"{row:0{max(digits, _DIGITS)}d}" if isinstance(row, int) else row
    if "{line}" in output.name:
        return output.with_name(output.name.replace("{line}", name))
    return output.with_name(f"{output.stem}_{name}{output.suffix}")


def check_outputs(jobs: Iterable[Job], factor: float = 1) -> dict[Path, int | str]:
    """Refuse files that could not be written, and those that two jobs would write; return the job of each file.

    Parameters
    ----------
    jobs : iterable of Job
    factor : float
        Factor by which width and height are enlarged after generation.

    Raises
    ------
    ValueError, OutputError
        As `check_image_path`; and if two jobs have the same output.
    """
    owners: dict[Path, int | str] = {}
    real = cache(os.path.realpath)
    checked: set[tuple[Path, str]] = set()
    for job in jobs:
        for file in job.files:
            place = Path(real(file)) if file.is_symlink() else Path(real(file.parent), file.name)
            if owners.setdefault(place, job.row) != job.row:
                raise ValueError(f"lines {owners[place]} and {job.row} have the same output {file}: name another one")
            if (kind := (file.parent, file.suffix)) in checked:
                check_target(file)
            else:  # writing is tried once in each directory
                check_image_path(file, pixels_of(job.arguments, factor))
                checked.add(kind)
    return owners


@contextmanager
def claimed(output: Path, wait: bool) -> Iterator[bool]:
    """Claim a file during the block, and yield whether no other run has claimed it."""
    name = hashlib.sha256(output.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    claim = output.with_name(f".sdcffi-{name}.claim")
    with ExitStack() as stack:
        while True:
            try:
                claim.touch()
                ours = stack.enter_context(locked(claim, wait=wait))
                break
            except FileNotFoundError:  # the run that had it has removed it
                if not claim.parent.is_dir():
                    raise
        try:
            yield ours
        finally:
            if ours:
                with suppress(OSError):  # with its directory gone, so is the claim
                    claim.unlink()
