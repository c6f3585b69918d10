"""``sdcffi generate``: draw pictures, one call or a whole file of prompts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..params.image import ImageParams
from ._batch import run_batch
from ._flags import add_call, add_command, add_engine, arguments_of, preview_keywords
from ._terminal import logger, progress_bar, say
from ._upscaling import add_upscaling, check_upscaling, upscaling

if TYPE_CHECKING:
    from ..engine.results import Result

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "generate", _run, "draw pictures")
    command.add_argument(
        "-o",
        "--output",
        default="output.png",
        help="file to write; its ending chooses the format (default: output.png)",
    )
    command.add_argument(
        "--prompts", metavar="FILE", help="draw each line: a prompt, or in a .jsonl file an object of parameters"
    )
    command.add_argument("--params", metavar="FILE", help="parameters by name, .json or .toml; flags win")
    command.add_argument("--save-params", metavar="FILE", help="write what was drawn with, for --params, as JSON")
    command.add_argument("--json", action="store_true", help="tell the result for machines")
    add_call(command, ImageParams)
    command.add_argument("--canny", action="store_const", const=True, help="take the edges of --control-image")
    add_upscaling(command)
    add_engine(command)


def _run(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ..engine.results import check_image_path

    given = arguments_of(options)
    output = Path(options.output).expanduser()
    check_upscaling(options)
    if options.prompts:
        run_batch(options, given, output)
        return
    if not isinstance(given.generate["prompt"], str):
        raise ValueError("nothing to draw: give --prompt, --prompts, or --params with a prompt")
    check_image_path(output)  # before minutes of work
    previews = preview_keywords(options)
    saved = _parameter_file(options)
    with progress_bar() as shown:
        with Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
            result = engine.generate(**given.generate, **previews, timeout=options.timeout)
        for report in result.loras:
            say(str(report))
        with upscaling(options, given, shown) as enlarge:  # when the engine has given its memory back
            drawn = enlarge(result)
    paths = drawn.save(output, metadata=options.metadata, digests=options.digests, paths=options.paths)
    _tell(drawn, paths, options.json)
    if saved:
        _save({**given.table(), "seed": result.seeds[0]}, saved)


def _parameter_file(options: argparse.Namespace) -> Path | None:
    if options.save_params is None:
        return None
    from .._files import check_directory

    path = Path(options.save_params).expanduser()
    check_directory(path)
    return path


def _tell(result: Result, paths: list[Path], as_json: bool) -> None:
    pictures = [{"path": str(path), "seed": seed} for path, seed in zip(paths, result.seeds, strict=True)]
    if as_json:
        loras = [asdict(report) for report in result.loras]
        print(json.dumps({"pictures": pictures, "seconds": result.seconds, "loras": loras}))
        return
    for picture in pictures:
        print(f"{picture['path']} (seed {picture['seed']})")


def _save(table: dict[str, Any], path: Path) -> None:
    from .._files import replacing

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
