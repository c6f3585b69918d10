"""``sdcffi devices``: the devices and CPU variants of this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ._flags import BACKEND_HELP, JSON_HELP, LIBRARY_HELP, add_command
from ._terminal import logger

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    text = "list devices and CPU variants, and say why others cannot be used"
    command = add_command(commands, "devices", _run, text)
    command.epilog = "The exit status is 1 if no device can be used."
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    command.add_argument("--backend", default="auto", metavar="NAME", help=BACKEND_HELP)
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)


def _run(options: argparse.Namespace) -> int:
    from ..inventory import list_devices

    inventory = list_devices(options.library, backend=options.backend, on_log=logger(options))
    print(json.dumps(inventory.as_dict(), indent=2) if options.json else "\n".join(inventory.lines()))
    return 0 if inventory.device else 1
