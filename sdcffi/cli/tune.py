"""``sdcffi tune``: measure the fastest settings for a model on this machine."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..params.names import words_of
from ._flags import JSON_HELP, SHORT_MODEL, SHORT_RUN, add_command, add_engine, arguments_of
from ._terminal import logger, say

if TYPE_CHECKING:
    from ..tuning import Trial

__all__ = ["add"]

SHORT = {
    **SHORT_MODEL,
    "measurement": {
        "--size": "side of the images in pixels",
        "--budget": "time limit, in seconds (default: 100)",
        "--json": "print the result as JSON",
    },
    "how to run": SHORT_RUN,
}


def add(commands: Any) -> None:
    """Add the command."""
    text = "measure the fastest settings on this machine, for generate --tune"
    command = add_command(commands, "tune", _run, text, short=SHORT)
    command.add_argument(
        "--size",
        type=int,
        metavar="INT",
        help="side of the images in pixels, a multiple of 64 (default: 128 to 512, as the budget allows)",
    )
    command.add_argument(
        "--budget",
        type=float,
        default=100.0,
        metavar="SECONDS",
        help="time limit for all measurements, in seconds (default: 100)",
    )
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    add_engine(command, tunes=True)


def _run(options: argparse.Namespace) -> None:
    from ..tuning import tune

    engine = arguments_of(options).engine
    found = tune(**engine, size=options.size, budget=options.budget, on_trial=_report, on_log=logger(options))
    if options.json:
        print(json.dumps(found.as_dict()))
        return
    say(
        f"{found.speedup:.2f} times as fast as the defaults at {found.size}x{found.size} on {found.device}; --tune uses"
    )
    print(" ".join(word for name, value in found.choice.items() for word in words_of(name, value)))


def _report(trial: Trial) -> None:
    say(f"{' '.join(words_of(trial.name, trial.value))}: {trial.outcome}")
