"""``sdcffi convert``: write a model with other weight types."""

from __future__ import annotations

import argparse
from typing import Any

from ._flags import add_command
from ._terminal import logger, progress_bar

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "convert", _run, "write a model with other weight types")
    command.add_argument("input", help="model file")
    command.add_argument("output", help="file to write: .gguf, or .safetensors for float types")
    command.add_argument("--type", required=True, help="weight type: f16, q8_0, q4_0, ...")
    command.add_argument("--tensor-type-rules", help="weight types by tensor name: REGEX=TYPE,...")
    command.add_argument("--vae", help="autoencoder to put into the file too")
    command.add_argument("--library", help="directory of the native build to use")


def _run(options: argparse.Namespace) -> None:
    from ..engine.conversion import convert

    names = ("type", "tensor_type_rules", "vae", "library")
    keywords = {name: value for name in names if (value := getattr(options, name)) is not None}
    with progress_bar() as shown:
        written = convert(options.input, options.output, **keywords, on_progress=shown, on_log=logger(options))
    print(written)
