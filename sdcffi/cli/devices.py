"""``sdcffi devices``: what can be computed on here."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ._flags import BACKEND_HELP, add_command
from ._terminal import logger

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    text = "backends that are built, devices that are found, CPU variants; status 1 where nothing can be used"
    command = add_command(commands, "devices", _run, text)
    command.add_argument("--json", action="store_true", help="for machines")
    command.add_argument("--backend", default="auto", help=BACKEND_HELP)
    command.add_argument("--library", help="directory of the native build to use")


def _run(options: argparse.Namespace) -> int:
    from ..inventory import list_devices

    inventory = list_devices(options.library, backend=options.backend, on_log=logger(options))
    print(json.dumps(inventory.as_dict(), indent=2) if options.json else "\n".join(inventory.lines()))
    return 0 if inventory.device else 1
