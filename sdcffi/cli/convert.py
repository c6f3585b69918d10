"""``sdcffi convert``: write a model with other weight types."""

from __future__ import annotations

import argparse
from typing import Any

from ._flags import LIBRARY_HELP, add_command
from ._terminal import logger, progress_bar

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "convert", _run, "write a model with other weight types", arguments="INPUT OUTPUT")
    command.add_argument("input", metavar="INPUT", help="model file")
    command.add_argument("output", metavar="OUTPUT", help="file to write: .gguf, or .safetensors for float types")
    command.add_argument("--type", required=True, metavar="NAME", help="weight type: f16, q8_0, q4_0, ...")
    command.add_argument("--tensor-type-rules", metavar="REGEX=TYPE,...", help="weight types by tensor name")
    command.add_argument("--vae", metavar="PATH", help="autoencoder to write into the file too")
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)


def _run(options: argparse.Namespace) -> None:
    from ..engine.conversion import convert

    names = ("type", "tensor_type_rules", "vae", "library")
    keywords = {name: value for name in names if (value := getattr(options, name)) is not None}
    with progress_bar() as shown:
        written = convert(options.input, options.output, **keywords, on_progress=shown, on_log=logger(options))
    print(written)
