"""``sdcffi demo``: draw on a fresh machine, without any download."""

from __future__ import annotations

import argparse
from typing import Any

from ._flags import BACKEND_HELP, add_command
from ._terminal import logger, progress_bar

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    text = "draw with a tiny model made on the spot, with and without LoRA"
    command = add_command(commands, "demo", _run, text)
    command.add_argument("-o", "--output", default=".", help="directory for the two pictures")
    command.add_argument("-p", "--prompt", default="a cat", help="what to draw")
    command.add_argument("--backend", help=BACKEND_HELP)
    command.add_argument("-t", "--threads", type=int, help="CPU threads")


def _run(options: argparse.Namespace) -> None:
    from .. import demo

    keywords = {name: value for name in ("backend", "threads") if (value := getattr(options, name)) is not None}
    with progress_bar() as shown:
        report = demo.run(
            output=options.output, prompt=options.prompt, on_progress=shown, on_log=logger(options), **keywords
        )
    print(report)
