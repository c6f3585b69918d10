"""Generate images for a file of prompts: finished lines are skipped, and a failed line does not stop the others.

A line is finished if each of its files is there and its record says what the line says now. Several runs may share a
file of prompts and a directory: a line that another run generates is left to it. A line is claimed by a lock on a
hidden file beside its first output, which the system gives up if the run is killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import check_target, expanded, locked
from .._quoting import shown
from ..engine.results import check_image_path, image_paths
from ..errors import SDError
from ._flags import in_flags, preview_keywords
from ._prompt_files import read_prompts
from ._saving import enlarged, pixels_of, recorded, refuse_same, save_safely
from ._terminal import line_bar, logger, say
from ._upscaling import upscaling

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.results import Result
    from ..engine.resuming import Request
    from ..parameter_files import Arguments

__all__ = ["batch_count", "run_batch"]

_MOST_IMAGES = 10_000  # of a call, as `check_image` has it


@dataclass(frozen=True)
class _Job:
    """One line of the file: its number, its arguments, and the files of its images."""

    line: int
    arguments: Arguments
    output: Path
    files: tuple[Path, ...]
    why: str = ""  # it must be generated again, though its files are there: "p_0001.png differs in steps"

    def checked(self, request: Request, overwrite: bool) -> _Job | None:
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
    from .._numbers import check_integer

    count = given.call_values.get(("batch_count",), 1)
    check_integer(f"{where}batch_count", count, 1, _MOST_IMAGES)
    return 1 if count is None else int(count)


def run_batch(options: argparse.Namespace, given: Arguments, output: Path, factor: float) -> None:
    """Generate images for every line of the file that ``--prompts`` names.

    Files are numbered by line: ``out.png`` becomes ``out_0001.png``. ``{line}`` in the name is replaced by the number.

    Raises
    ------
    ValueError
        If the file cannot be read, a line is malformed, or two lines have the same output; before anything is
        generated.
    SDError
        At the end, if a line failed; each error was printed when it happened.
    """
    if options.save_params:
        raise ValueError("--save-params cannot be used with --prompts: leave one of them out")
    jobs = list(_jobs(Path(options.prompts), given, output))
    _check_outputs(jobs, options, factor)
    request = _request(options, given)
    waiting = _unfinished(jobs, request, options)
    failures = _generate(options, given, waiting, request, factor) if waiting else 0
    if failures:
        raise SDError(
            f"{failures} of {len(jobs)} lines of {options.prompts} failed: correct what their errors say, then run the"
            " same command again, which skips finished lines"
        )


def _jobs(path: Path, given: Arguments, output: Path) -> Iterator[_Job]:
    from ..parameter_files import as_arguments

    lines = read_prompts(path)
    digits = max(4, len(str(lines[-1][0])))
    for number, own in lines:
        where = f"{path}, line {number}"
        target = _numbered(output, f"{number:0{digits}d}")
        if "output" in own:
            name = own.pop("output")
            if not isinstance(name, str):
                raise TypeError(f"{where}: output must be a string, not {shown(name)}")
            target = expanded(name)
        of_the_line = as_arguments(own, where)
        if of_the_line.context_values or of_the_line.engine_others:
            raise ValueError(
                f"{where}: all lines have the same model and engine: give their parameters as flags or in --params"
            )
        arguments = given.updated(of_the_line)
        if not isinstance(arguments.call_values.get(("prompt",)), str):
            raise ValueError(f"{where}: there is no prompt")
        if "{seed}" in target.name:
            raise ValueError("--output must not contain {seed} with --prompts: use {line}")
        yield _Job(number, arguments, target, tuple(image_paths(target, batch_count(arguments, f"{where}: "))))


def _numbered(output: Path, number: str) -> Path:
    if "{line}" in output.name:
        return output.with_name(output.name.replace("{line}", number))
    return output.with_name(f"{output.stem}_{number}{output.suffix}")


def _check_outputs(jobs: list[_Job], options: argparse.Namespace, factor: float) -> None:
    """Refuse files that could not be written, and those that two lines or the previews would write."""
    owners: dict[Path, int] = {}
    real = cache(os.path.realpath)
    checked: set[tuple[Path, str]] = set()
    for job in jobs:
        for file in job.files:
            place = Path(real(file)) if file.is_symlink() else Path(real(file.parent), file.name)
            if owners.setdefault(place, job.line) != job.line:
                raise ValueError(f"lines {owners[place]} and {job.line} have the same output {file}: name another one")
            if (kind := (file.parent, file.suffix)) in checked:
                check_target(file)
            else:  # writing is tried once in each directory
                check_image_path(file, pixels_of(job.arguments, factor))
                checked.add(kind)
    if options.preview is not None:
        refuse_same("--preview-path", expanded(options.preview_path), owners)


def _request(options: argparse.Namespace, given: Arguments) -> Request:
    from ..engine.resuming import Request

    network = None if options.upscale_model is None else Path(options.upscale_model)
    return Request(given.engine, network, options.upscale_repeats, options.upscale_tile_size)


def _unfinished(jobs: list[_Job], request: Request, options: argparse.Namespace) -> list[_Job]:
    """Return the jobs to be done, and say what the files of the others are."""
    from ..engine.resuming import Unrecorded

    waiting, unknown = [], 0
    for job in jobs:
        try:
            if found := job.checked(request, options.overwrite):
                waiting.append(found)
        except Unrecorded:
            unknown += 1
    finished = len(jobs) - len(waiting) - unknown
    if finished:
        say(f"sdcffi: {finished} of {len(jobs)} lines are finished already")
    if unknown:
        say(
            f"sdcffi: warning: {unknown} of {len(jobs)} lines are skipped, because their files have no record that"
            " tells what they show; pass --overwrite to generate them again"
        )
    return waiting


def _generate(options: argparse.Namespace, given: Arguments, jobs: list[_Job], request: Request, factor: float) -> int:
    from ..engine.engine import Engine

    with (
        line_bar(len(jobs)) as (bar, shown),
        Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine,
        upscaling(options, given, shown) as enlarge,
    ):
        run = _Run(options, engine, enlarge, request, factor)
        others = []
        for job in jobs:
            if run.do(job):
                bar.update()
            else:
                others.append(job)
        for job in others:  # now the other run has finished them, or has ended
            run.do(job, wait=True)
            bar.update()
    return run.failures


class _Run:
    """The jobs of this run."""

    def __init__(
        self,
        options: argparse.Namespace,
        engine: Engine,
        enlarge: Callable[[Result], Result],
        request: Request,
        factor: float,
    ) -> None:
        self._options, self._engine, self._enlarge = options, engine, enlarge
        self._request, self._factor = request, factor
        self._previews = preview_keywords(options)
        self.failures = 0

    def do(self, job: _Job, *, wait: bool = False) -> bool:
        """Generate the images of a line, unless another run has done that; return False if one is about to."""
        try:
            check_image_path(job.files[0], pixels_of(job.arguments, self._factor))  # the disk may be full by now
            with _claimed(job.files[0], wait) as ours:
                if not ours:
                    return False
                if self._is_done(job):
                    say(f"sdcffi: line {job.line} was generated by another run")
                else:
                    self._images(job)
        except BrokenPipeError:  # nobody reads what we print
            raise
        except (ValueError, TypeError, SDError, OSError) as error:
            self.failures += 1
            message = error.message if isinstance(error, SDError) else str(error)
            say(f"sdcffi: error: line {job.line}: {in_flags(message, self._options)}")
        return True

    def _is_done(self, job: _Job) -> bool:
        """Return whether another run has finished the job since this one looked."""
        from ..engine.resuming import Unrecorded

        try:
            return not self._options.overwrite and job.checked(self._request, overwrite=False) is None
        except Unrecorded:
            return True

    def _images(self, job: _Job) -> None:
        if job.why:
            say(f"sdcffi: line {job.line} is generated again: {in_flags(job.why, self._options)}")
        result = self._engine.generate(**job.arguments.generate, **self._previews, timeout=self._options.timeout)
        result = enlarged(result, self._enlarge, job.output, self._options)
        paths = save_safely(recorded(result, self._options), job.output)
        for path, seed in zip(paths, result.seeds, strict=True):
            report = {"line": job.line, "path": str(path), "seed": seed}
            say(json.dumps(report) if self._options.json else f"{path} (seed {seed})", sys.stdout)


@contextmanager
def _claimed(output: Path, wait: bool) -> Iterator[bool]:
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
