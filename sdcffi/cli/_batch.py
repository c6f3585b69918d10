"""Generate images for a file of prompts: finished lines are skipped, and a failed line does not stop the others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import expanded, read_stream, read_whole, unreadable
from ..engine.results import check_image_path
from ..errors import SDError
from ._flags import in_flags, preview_keywords
from ._terminal import line_bar, logger, say
from ._upscaling import upscaling

if TYPE_CHECKING:
    from ..engine.results import Result
    from ..parameter_files import Arguments

__all__ = ["run_batch"]

_MOST_PROMPTS = 256 << 20  # bytes


@dataclass(frozen=True)
class _Job:
    """One line of the file: its number, its arguments, and the file of its images."""

    line: int
    arguments: Arguments
    output: Path

    @property
    def files(self) -> list[Path]:
        count = self.arguments.call_values.get(("batch_count",), 1)
        several = range(count) if isinstance(count, int) else range(1)
        if "{index}" in self.output.name:
            return [self.output.with_name(self.output.name.replace("{index}", str(index))) for index in several]
        if len(several) <= 1:
            return [self.output]
        return [self.output.with_name(f"{self.output.stem}_{index}{self.output.suffix}") for index in several]


def run_batch(options: argparse.Namespace, given: Arguments, output: Path) -> None:
    """Generate images for every line of the file that ``--prompts`` names.

    Files are numbered by line: ``out.png`` becomes ``out_0001.png``. ``{line}`` in the name is replaced by the number.

    Raises
    ------
    ValueError
        If the file cannot be read, or a line is malformed; before anything is generated.
    SDError
        At the end, if a line failed; each error was printed when it happened.
    """
    if options.save_params:
        raise ValueError("--save-params cannot be used with --prompts: leave one of them out")
    jobs = list(_jobs(Path(options.prompts), given, output))
    waiting = [job for job in jobs if not all(file.exists() for file in job.files)]
    if len(waiting) < len(jobs):
        say(f"sdcffi: {len(jobs) - len(waiting)} of {len(jobs)} lines are finished already")
    failures = _generate(options, given, waiting) if waiting else 0
    if failures:
        raise SDError(
            f"{failures} of {len(waiting)} lines of {options.prompts} failed; run the same command again for them"
        )


def _jobs(path: Path, given: Arguments, output: Path) -> Iterator[_Job]:
    from ..parameter_files import as_arguments

    text = _read(path)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} contains no prompt")
    digits = max(4, len(str(lines[-1][0])))
    for number, line in lines:
        where = f"{path}, line {number}"
        own = _parsed(line, where) if path.suffix in (".jsonl", ".ndjson") else {"prompt": line}
        target = expanded(own.pop("output")) if "output" in own else _numbered(output, f"{number:0{digits}d}")
        of_the_line = as_arguments(own, where)
        if of_the_line.context_values or of_the_line.engine_others:
            raise ValueError(
                f"{where}: all lines have the same model and engine: give their parameters as flags or in --params"
            )
        arguments = given.updated(of_the_line)
        if not isinstance(arguments.generate["prompt"], str):
            raise ValueError(f"{where}: there is no prompt")
        if "{seed}" in target.name:
            raise ValueError("--output must not contain {seed} with --prompts: use {line}")
        check_image_path(target)
        yield _Job(number, arguments, target)


def _read(path: Path) -> str:
    """Read a file of prompts, or of standard input for ``-``."""
    try:
        if str(path) in ("-", "/dev/stdin"):
            content = read_stream(sys.stdin.buffer, _MOST_PROMPTS)
        else:
            content = read_whole(expanded(path), _MOST_PROMPTS)
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise unreadable(f"{path} cannot be read: {error}", error) from error


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        own = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(own, dict):
        raise ValueError(f"{where} must be an object of parameters, not {type(own).__name__}")
    return own


def _numbered(output: Path, number: str) -> Path:
    if "{line}" in output.name:
        return output.with_name(output.name.replace("{line}", number))
    return output.with_name(f"{output.stem}_{number}{output.suffix}")


def _generate(options: argparse.Namespace, given: Arguments, jobs: list[_Job]) -> int:
    from ..engine.engine import Engine

    failures = 0
    previews = preview_keywords(options)
    with (
        line_bar(len(jobs)) as (bar, shown),
        Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine,
        upscaling(options, given, shown) as enlarge,
    ):
        for job in jobs:
            try:
                result = engine.generate(**job.arguments.generate, **previews, timeout=options.timeout)
                _save(enlarge(result), job, options)
            except (ValueError, TypeError, SDError) as error:
                failures += 1
                say(f"sdcffi: error: line {job.line}: {in_flags(str(error), options)}")
            bar.update()
    return failures


def _save(result: Result, job: _Job, options: argparse.Namespace) -> None:
    paths = result.save(job.output, metadata=options.metadata, digests=options.digests, paths=options.paths)
    for path, seed in zip(paths, result.seeds, strict=True):
        report = {"line": job.line, "path": str(path), "seed": seed}
        say(json.dumps(report) if options.json else f"{path} (seed {seed})", sys.stdout)
