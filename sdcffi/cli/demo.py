"""``sdcffi demo``: generate images without any download."""

from __future__ import annotations

import argparse
from typing import Any

from ._flags import BACKEND_HELP, add_command
from ._parser import as_utf8
from ._saving import save_safely
from ._terminal import logger, progress_bar

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    text = "generate simple images with the model in the package"
    command = add_command(commands, "demo", _run, text)
    command.add_argument(
        "-o",
        "--output",
        default="sdcffi-demo.png",
        metavar="PATH",
        help="contact sheet to write, or a directory for it (default: sdcffi-demo.png)",
    )
    command.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        action="append",
        type=as_utf8,
        metavar="TEXT",
        help="what to generate, such as 'a red circle above a blue star on white'; may be repeated",
    )
    command.add_argument("-s", "--seed", type=int, metavar="INT", help="random seed (default: 42)")
    command.add_argument("--backend", metavar="NAME", help=BACKEND_HELP)
    command.add_argument("-t", "--threads", type=int, metavar="INT", help="number of CPU threads")


def _run(options: argparse.Namespace) -> None:
    from .. import demo

    names = ("prompts", "seed", "backend", "threads")
    keywords = {name: value for name in names if (value := getattr(options, name)) is not None}
    with progress_bar() as shown:
        report = demo.run(options.output, on_progress=shown, on_log=logger(options), saving=save_safely, **keywords)
    print(report)
