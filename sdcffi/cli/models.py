"""``sdcffi models inspect``: what a file is, what it needs and what it takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._flags import add_command

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    models = commands.add_parser("models", help="look into model files")
    inner = models.add_subparsers(required=True, metavar="COMMAND")
    text = "family, parts, weight types, what else is needed, memory; from the header alone"
    command = add_command(inner, "inspect", _run, text)
    command.add_argument("file", help="safetensors or gguf file, or a diffusers directory")
    command.add_argument("--json", action="store_true", help="for machines")


def _run(options: argparse.Namespace) -> None:
    from ._model_report import inspect_model, model_lines

    report = inspect_model(Path(options.file).expanduser())
    print(json.dumps(report, indent=2) if options.json else "\n".join(model_lines(report)))
