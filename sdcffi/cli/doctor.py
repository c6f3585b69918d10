"""``sdcffi doctor``: check this installation, and say what to do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from .._machine.backends import BACKENDS
from ._flags import JSON_HELP, add_command

if TYPE_CHECKING:
    from ._checkup import Check

__all__ = ["add"]

_MARKS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}
_RED, _PLAIN = "\033[31m", "\033[0m"


def add(commands: Any) -> None:
    """Add the command."""
    text = "check compiler, drivers, files and devices, and say what to do"
    command = add_command(commands, "doctor", _run, text)
    command.epilog = (
        "It generates a small image on each device and CPU variant. The exit status is 1 if something that was built or"
        " asked for does not work."
    )
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    command.add_argument(
        "--backend",
        metavar="NAME,...",
        default="",
        help=f"backends that must work, besides those that are built: {', '.join(BACKENDS)}",
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="time limit for each image, in seconds (default: 600)",
    )
    command.add_argument("--library", metavar="DIR", help="directory of the native build to check")


def _run(options: argparse.Namespace) -> int:
    from ._checkup import examine

    asked = [name for name in options.backend.split(",") if name]
    if unknown := [name for name in asked if name not in BACKENDS]:
        raise ValueError(f"--backend must be one or more of {', '.join(BACKENDS)}, not {unknown[0]!r}")
    checks = []
    for check in examine(options.library, asked, options.timeout):
        checks.append(check)
        if not options.json:
            print(_line(check), flush=True)
    failed = sum(check.status == "failed" for check in checks)
    if options.json:
        print(json.dumps({"ok": not failed, "checks": [check.as_dict() for check in checks]}, indent=2))
    else:
        print(f"{failed} of {len(checks)} checks failed" if failed else "everything that was built works")
    return 1 if failed else 0


def _line(check: Check) -> str:
    words = " ".join(f"{check.name}: {check.detail}".split())
    line = f"{_MARKS[check.status]}  {words}" + (f" -> {check.advice}" if check.advice else "")
    coloured = check.status == "failed" and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"{_RED}{line}{_PLAIN}" if coloured else line
