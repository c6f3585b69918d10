"""Generate images for a file of prompts: finished lines are skipped, and a failed line does not stop the others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import expanded
from .._references import local_path
from ..errors import SDError
from ._flags import in_flags, preview_keywords
from ._saving import enlarged, recorded, refuse_same, save_safely
from ._terminal import line_bar, logger, say
from ._upscaling import upscaling

if TYPE_CHECKING:
    from .._batches.jobs import Job
    from ..engine.engine import Engine
    from ..engine.results import Result
    from ..engine.resuming import Request
    from ..parameter_files import Arguments

__all__ = ["run_batch"]


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
    from .._batches.jobs import check_outputs, jobs_of

    if options.save_params:
        raise ValueError("--save-params cannot be used with --prompts: leave one of them out")

    jobs = list(jobs_of(Path(options.prompts), given, output))
    owners = check_outputs(jobs, factor)
    if options.preview is not None:
        refuse_same("--preview-path", expanded(options.preview_path), owners)
    request = _request(options, given)
    waiting = _unfinished(jobs, request, options)
    failures = _generate(options, given, waiting, request, factor) if waiting else 0
    if failures:
        raise SDError(
            f"{failures} of {len(jobs)} lines of {options.prompts} failed: correct what their errors say, then run the"
            " same command again, which skips finished lines"
        )


def _request(options: argparse.Namespace, given: Arguments) -> Request:
    from ..engine.resuming import Request

    network = None if options.upscale_model is None else local_path(options.upscale_model)
    return Request(given.engine, network, options.upscale_repeats, options.upscale_tile_size)


def _unfinished(jobs: list[Job], request: Request, options: argparse.Namespace) -> list[Job]:
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


def _generate(options: argparse.Namespace, given: Arguments, jobs: list[Job], request: Request, factor: float) -> int:
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

    def do(self, job: Job, *, wait: bool = False) -> bool:
        """Generate the images of a line, unless another run has done that; return False if one is about to."""
        from .._batches.jobs import claimed
        from ..engine.results import check_image_path
        from ..parameter_files import pixels_of

        try:
            check_image_path(job.files[0], pixels_of(job.arguments, self._factor))  # the disk may be full by now
            with claimed(job.files[0], wait) as ours:
                if not ours:
                    return False
                if self._is_done(job):
                    say(f"sdcffi: line {job.row} was generated by another run")
                else:
                    self._images(job)
        except BrokenPipeError:  # nobody reads what we print
            raise
        except (ValueError, TypeError, SDError, OSError) as error:
            self.failures += 1
            message = error.message if isinstance(error, SDError) else str(error)
            say(f"sdcffi: error: line {job.row}: {in_flags(message, self._options)}")
        return True

    def _is_done(self, job: Job) -> bool:
        """Return whether another run has finished the job since this one looked."""
        from ..engine.resuming import Unrecorded

        try:
            return not self._options.overwrite and job.checked(self._request, overwrite=False) is None
        except Unrecorded:
            return True

    def _images(self, job: Job) -> None:
        if job.why:
            say(f"sdcffi: line {job.row} is generated again: {in_flags(job.why, self._options)}")
        result = self._engine.generate(**job.arguments.generate, **self._previews, timeout=self._options.timeout)
        result = enlarged(result, self._enlarge, job.output, self._options)
        paths = save_safely(recorded(result, self._options), job.output)
        for path, seed in zip(paths, result.seeds, strict=True):
            report = {"line": job.row, "path": str(path), "seed": seed}
            say(json.dumps(report) if self._options.json else f"{path} (seed {seed})", sys.stdout)
