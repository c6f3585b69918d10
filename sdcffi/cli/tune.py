"""``sdcffi tune``: measure the fastest settings for a model on this machine."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..params.names import words_of
from ._flags import add_command, add_engine, arguments_of
from ._terminal import logger, say

if TYPE_CHECKING:
    from ..tuning import Trial

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    text = "measure the fastest settings for a model on this machine, and store them for --tune and Engine(tune=True)"
    command = add_command(commands, "tune", _run, text)
    command.add_argument(
        "--size", type=int, metavar="INT", help="pixels a side to draw with (default: 128 to 512, as the budget allows)"
    )
    command.add_argument(
        "--budget", type=float, default=100.0, metavar="SECONDS", help="that it may take (default: 100)"
    )
    command.add_argument("--json", action="store_true", help="tell what was measured for machines")
    add_engine(command, tunes=True)


def _run(options: argparse.Namespace) -> None:
    from ..tuning import tune

    engine = arguments_of(options).engine
    found = tune(**engine, size=options.size, budget=options.budget, on_trial=_tell, on_log=logger(options))
    if options.json:
        print(json.dumps(found.as_dict()))
        return
    say(
        f"{found.speedup:.2f} times as fast as the defaults at {found.size}x{found.size} on {found.device}; --tune uses"
    )
    print(" ".join(word for name, value in found.choice.items() for word in words_of(name, value)))


def _tell(trial: Trial) -> None:
    say(f"{' '.join(words_of(trial.name, trial.value))}: {trial.outcome}")
