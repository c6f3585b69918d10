"""``sdcffi completion``: the script that completes commands and flags in a shell."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import SDError

__all__ = ["add"]

_SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command, which completes what the parser `whole` takes."""
    text = "print a completion script; for bash: source <(sdcffi completion bash)"
    command = commands.add_parser("completion", help=text, description=text)
    command.set_defaults(run=lambda options: _run(options, whole), verbose=False)
    command.add_argument("shell", choices=_SHELLS)


def _run(options: argparse.Namespace, whole: argparse.ArgumentParser) -> None:
    try:
        import shtab
    except ImportError as error:
        raise SDError("completion scripts are made by shtab, which is not installed: pip install shtab") from error
    print(shtab.complete(whole, options.shell))
