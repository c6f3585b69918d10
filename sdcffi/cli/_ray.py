"""Generate images for a file of prompts on a Ray cluster; see `sdcffi.ray.generate`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SDError
from ._flags import in_flags
from ._terminal import line_bar, say

if TYPE_CHECKING:
    from ..parameter_files import Arguments

__all__ = ["add_ray", "check_ray", "run_on_ray"]

# Flags that have no meaning there: their names in the parsed options, and their values if they are not given.
_REFUSED = {"save_params": None, "preview": None, "upscale_model": None, "metadata": True}


def add_ray(command: argparse.ArgumentParser) -> None:
    """Add its flags."""
    group = command.add_argument_group("on a Ray cluster")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="with --prompts: use the Ray cluster at ADDRESS; without it, the one that Ray finds, or this machine",
    )
    group.add_argument(
        "--ray-concurrency",
        type=_range,
        metavar="N",
        help="number of engines, or MIN,MAX (default: as many as the machines have resources for)",
    )
    group.add_argument(
        "--ray-resources",
        type=_resources,
        metavar="NAME=N,...",
        help="what each engine takes: num_gpus=1,num_cpus=4,... (default: num_cpus=1)",
    )


def _range(text: str) -> int | tuple[int, int]:
    least, comma, most = text.partition(",")
    return (int(least), int(most)) if comma else int(least)


def _resources(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {name.strip(): float(amount) for name, _, amount in pairs}


def check_ray(options: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises
    ------
    ValueError
        If there are such flags.
    """
    if options.ray is None:
        if options.ray_concurrency is not None or options.ray_resources is not None:
            raise ValueError("--ray-concurrency and --ray-resources are for --ray: give it, or leave them out")
        return
    if not options.prompts:
        raise ValueError("--ray is for --prompts: give a file of prompts, or leave it out")
    for name, unset in _REFUSED.items():
        if getattr(options, name) != unset:
            flag = "--no-metadata" if name == "metadata" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} cannot be used with --ray: leave one of them out")


def run_on_ray(options: argparse.Namespace, given: Arguments, output: Path) -> None:
    """Generate images for every line of the file that ``--prompts`` names, on a cluster.

    Raises
    ------
    ValueError
        If the file cannot be read, or two lines have the same output; before anything is generated.
    SDError
        If Ray is not installed, or the model cannot be loaded; or at the end, if a line failed.
    """
    try:
        from ..ray.batches import Options, model_errors, outcomes, rows_of
    except ImportError as error:
        raise SDError(f"--ray: {error}") from error
    import ray

    level = logging.INFO if options.verbose else logging.ERROR
    ray.init(address=options.ray or None, logging_level=level, log_to_driver=options.verbose)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(level)
    how = Options(
        concurrency=options.ray_concurrency,
        resources=options.ray_resources,
        overwrite=options.overwrite,
        timeout=options.timeout,
        digests=options.digests,
        paths=options.paths,
    )
    rows = rows_of(options.prompts)
    table = outcomes(rows, given, output, how)
    count, states = len(rows), Counter[str]()
    with line_bar(count) as (bar, _), model_errors():
        for row in table.iter_rows():
            states[row["state"]] += 1
            _report(row, options)
            bar.update()
    if states["finished"]:
        say(f"sdcffi: {states['finished']} of {count} lines are finished already")
    if states["failed"]:
        raise SDError(
            f"{states['failed']} of {count} lines of {options.prompts} failed: correct what their errors say, then run"
            " the same command again, which skips finished lines"
        )


def _report(row: dict[str, Any], options: argparse.Namespace) -> None:
    if row["state"] == "failed":
        say(f"sdcffi: error: line {row['row']}: {in_flags(row['error'], options)}")
    if row["state"] != "generated":
        return
    for path, seed in zip(row["files"], row["seeds"], strict=True):
        report = {"line": row["row"], "path": path, "seed": seed}
        say(json.dumps(report) if options.json else f"{path} (seed {seed})", sys.stdout)
