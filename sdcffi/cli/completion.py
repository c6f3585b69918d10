"""``sdcffi completion``: a script with which a shell completes commands and flags."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import SDError

__all__ = ["add"]

_SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command, which completes the commands and flags of the parser `whole`."""
    text = "print a completion script for bash, zsh or tcsh"
    example = "For bash: source <(sdcffi completion bash)"
    command = commands.add_parser("completion", help=text, description=f"P{text[1:]}.", epilog=example)
    command.set_defaults(run=lambda options: _run(options, whole), verbose=False)
    command.add_argument("shell", choices=_SHELLS)


def _run(options: argparse.Namespace, whole: argparse.ArgumentParser) -> None:
    try:
        import shtab
    except ImportError as error:
        raise SDError("shtab, which makes completion scripts, is not installed. Run: pip install shtab") from error
    print(shtab.complete(whole, options.shell))
