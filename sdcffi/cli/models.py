"""``sdcffi models inspect``: what a model file is, what else it needs, and how much memory."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .._references import local_path
from ._flags import JSON_HELP, add_command, add_commands

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    inner = add_commands(commands, "models", "show family, weight types, missing parts and memory of a model")
    text = "show family, weight types, missing parts and memory, from the header alone"
    command = add_command(inner, "inspect", _run, text, arguments="FILE")
    command.add_argument(
        "file", metavar="FILE", help="safetensors or gguf file, or a diffusers directory; or hf://OWNER/REPO/FILE"
    )
    command.add_argument("--json", action="store_true", help=JSON_HELP)


def _run(options: argparse.Namespace) -> None:
    from ._model_report import inspect_model, model_lines

    report = inspect_model(local_path(options.file, kind="model"))
    print(json.dumps(report, indent=2) if options.json else "\n".join(model_lines(report)))
