"""``sdcffi lora inspect`` and ``sdcffi lora grid``: look into adapters, compare their strengths."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from ..params.image import ImageParams
from ._flags import add_command, add_engine, add_struct, arguments_of
from ._terminal import logger, progress_bar

__all__ = ["add"]

_OF_THE_GRID = ("loras", "seed", "batch_count")  # it draws one picture for each of its seeds


def add(commands: Any) -> None:
    """Add both commands."""
    lora = commands.add_parser("lora", help="look into LoRA files, compare their strengths")
    lora_commands = lora.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(lora_commands)
    _add_grid(lora_commands)


def _add_inspect(commands: Any) -> None:
    text = "what a LoRA file holds, and with a model what would apply"
    command = add_command(commands, "inspect", _inspect, text)
    command.add_argument("file", help="LoRA file: safetensors or gguf; ckpt is not looked into")
    command.add_argument("--json", action="store_true", help="for machines")
    add_engine(command)


def _add_grid(commands: Any) -> None:
    command = add_command(commands, "grid", _grid, "draw LoRAs at several strengths as a contact sheet")
    command.add_argument("-o", "--output", default="grid.png", help="file to write; its ending chooses the format")
    command.add_argument(
        "--lora",
        dest="adapters",
        action="append",
        required=True,
        metavar="PATH",
        help="adapter, with rows of its own; may be repeated",
    )
    command.add_argument("--scales", default="0.25,0.5,0.75,1", help="strengths, a column each beside that of none")
    command.add_argument("--seeds", default="1", help="seeds, a row each")
    add_struct(command, "picture", ImageParams, _OF_THE_GRID)
    add_engine(command)


def _inspect(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ._lora_report import inspect

    path, fit = Path(options.file), None
    if options.model or options.diffusion_model:
        with Engine(**arguments_of(options).engine, load_weights=False, on_log=logger(options)) as engine:
            (fit,) = engine.check_loras([path])
    print("\n".join(inspect(path, options.json, fit)))


def _grid(options: argparse.Namespace) -> None:
    from .._models.loras import as_loras
    from ..engine.engine import Engine
    from ..engine.results import check_image_path
    from ..parameter_files import parse_lora
    from ._lora_report import draw_grid, parse_numbers

    output = Path(options.output).expanduser()
    check_image_path(output)  # before minutes of work
    scales, seeds = parse_numbers(options.scales, float, "scales"), parse_numbers(options.seeds, int, "seeds")
    if min(seeds) < 0:
        raise ValueError(
            f"seeds must be at least 0, not {min(seeds)}: each picture of a row is drawn with the same one"
        )
    loras = as_loras(parse_lora(text) for text in options.adapters)
    given = arguments_of(options)
    keywords = {**given.generate, "prompt": options.prompt or ""}
    with progress_bar() as shown, Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
        generate = functools.partial(engine.generate, **keywords)
        drawn = draw_grid(generate, loras, scales, seeds, output, options.prompt or "")
    print(drawn)
