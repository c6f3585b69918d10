"""``sdcffi lora inspect`` and ``sdcffi lora grid``: show what a LoRA holds, and compare strengths."""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from typing import Any

from .._files import expanded
from .._references import local_path
from ..params.image import ImageParams
from ._flags import (
    JSON_HELP,
    SHORT_CALL,
    SHORT_MODEL,
    SHORT_RUN,
    add_command,
    add_commands,
    add_engine,
    add_struct,
    arguments_of,
    in_flags,
)
from ._terminal import logger, progress_bar

__all__ = ["add"]

_OF_THE_GRID = ("loras", "seed", "batch_count")  # the grid sets these itself
SHORT_INSPECT = {
    "LoRA": {"FILE": "LoRA file: safetensors or gguf", "--json": "print the result as JSON"},
    "model": {**SHORT_MODEL["model"], "--type": "weight type that the model would get: q8_0, f16, ..."},
}
SHORT_GRID = {
    "contact sheet": {
        "--lora": "LoRA file, or a name in --lora-dir; may be repeated",
        "--scales": "strengths (default: 0.25,0.5,0.75,1)",
        "--seeds": "random seeds, one row each (default: 1)",
        "--output": "file to write (default: grid.png)",
    },
    **SHORT_MODEL,
    "what to generate": SHORT_CALL,
    "how to run": SHORT_RUN,
}


def add(commands: Any) -> None:
    """Add both commands."""
    lora_commands = add_commands(commands, "lora", "show what a LoRA holds, or compare strengths")
    _add_inspect(lora_commands)
    _add_grid(lora_commands)


def _add_inspect(commands: Any) -> None:
    text = "show what a LoRA file holds, and what would apply to a model"
    command = add_command(commands, "inspect", _inspect, text, arguments="FILE", short=SHORT_INSPECT)
    command.add_argument("file", metavar="FILE", help="LoRA file: safetensors or gguf (ckpt is not read)")
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    add_engine(command)


def _add_grid(commands: Any) -> None:
    command = add_command(
        commands, "grid", _grid, "generate a contact sheet of LoRAs at several strengths", short=SHORT_GRID
    )
    command.add_argument(
        "-o",
        "--output",
        default="grid.png",
        metavar="FILE",
        help="file to write; its ending chooses the format (default: grid.png)",
    )
    command.add_argument(
        "--lora",
        dest="adapters",
        action="append",
        required=True,
        metavar="PATH",
        help="LoRA file, or a name in --lora-dir; may be repeated",
    )
    command.add_argument(
        "--scales",
        default="0.25,0.5,0.75,1",
        metavar="N,N,...",
        help="strengths, one column each, after a column without LoRA (default: 0.25,0.5,0.75,1)",
    )
    command.add_argument(
        "--seeds", default="1", metavar="N,N,...", help="random seeds, one row each for every LoRA (default: 1)"
    )
    add_struct(command, "what to generate", ImageParams, _OF_THE_GRID)
    add_engine(command)


def _inspect(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ._lora_report import inspect

    path, fit = local_path(options.file, kind="lora"), None
    if options.model or options.diffusion_model:
        with Engine(**arguments_of(options).engine, load_weights=False, on_log=logger(options)) as engine:
            (fit,) = engine.check_loras([path])
    print("\n".join(inspect(path, options.json, fit)))


def _grid(options: argparse.Namespace) -> None:
    from .._catalogue.loras import entry_of, with_lora_files
    from .._models.loras import as_loras
    from ..engine.engine import Engine
    from ..engine.results import check_image_path
    from ..parameter_files import parse_lora
    from ._lora_report import make_grid, parse_numbers

    output = expanded(options.output)
    check_image_path(output)  # before minutes of work
    scales, seeds = parse_numbers(options.scales, float, "scales"), parse_numbers(options.seeds, int, "seeds")
    if min(seeds) < 0:
        raise ValueError(f"seeds must be at least 0, not {min(seeds)}: all images of a row need the same seed")
    given = arguments_of(options)
    lora_dir = given.engine.get("lora_dir")
    wanted = [parse_lora(text) for text in options.adapters]
    files, _ = with_lora_files(wanted, lora_dir is not None)
    loras = [  # a name of the catalogue stays one: it brings steps and more
        lora if entry_of(one) is None else replace(lora, path=one.path)
        for lora, one in zip(as_loras(files, lora_dir), wanted, strict=True)
    ]
    keywords = {**given.generate, "prompt": options.prompt or ""}
    with progress_bar() as shown, Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
        generate = functools.partial(engine.generate, **keywords)
        explained = functools.partial(in_flags, options=options)
        written = make_grid(generate, loras, scales, seeds, output, options.prompt or "", explained)
    print(written)
