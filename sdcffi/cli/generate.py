"""``sdcffi generate``: generate images, in one call or for a file of prompts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import expanded
from ..params.image import ImageParams
from ._batch import run_batch
from ._flags import (
    JSON_HELP,
    PARAMS_HELP,
    SHORT_MODEL,
    SHORT_RUN,
    add_call,
    add_command,
    add_engine,
    arguments_of,
    preview_keywords,
)
from ._terminal import logger, progress_bar, say
from ._upscaling import add_upscaling, check_upscaling, upscaling

if TYPE_CHECKING:
    from ..engine.results import Result

__all__ = ["add"]

SHORT = {
    "model": {**SHORT_MODEL["model"], "--lora": "LoRA and its strength; may be repeated"},
    "what to generate": {
        "--prompt": "what to generate",
        "--negative-prompt": "what to leave out",
        "--width": "width in pixels",
        "--height": "height in pixels",
        "--steps": "number of denoising steps",
        "--cfg-scale": "how strictly to follow the prompt; 1 is off",
        "--sampler": "euler, euler_a, dpm++2m, ...",
        "--scheduler": "spacing of noise levels: discrete, karras, ...",
        "--seed": "random seed (default: chosen at random)",
        "--batch-count": "number of images",
    },
    "image to image": {
        "--init-image": "image to start from",
        "--strength": "how much to change it, from 0 to 1",
        "--mask": "part to generate anew: white in this image",
    },
    "output": {
        "--output": "file to write (default: output.png)",
        "--preview": "save previews to preview.png: proj, tae or vae",
        "--upscale-model": "enlarge the images with this network",
    },
    "how to run": {
        "--backend": SHORT_RUN["--backend"],
        "--params": "read parameters from a .json or .toml file",
        "--prompts": "generate an image for each line of a file",
    },
}


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "generate", _run, "generate images", short=SHORT)
    command.add_argument(
        "-o",
        "--output",
        default="output.png",
        metavar="FILE",
        help="file to write; its ending chooses the format (default: output.png)",
    )
    command.add_argument(
        "--prompts",
        metavar="FILE",
        help="generate images for each line of FILE: a prompt, or in a .jsonl file an object of parameters",
    )
    command.add_argument("--params", metavar="FILE", help=PARAMS_HELP)
    command.add_argument("--save-params", metavar="FILE", help="write all parameters to a JSON file for --params")
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    add_call(command, ImageParams)
    command.add_argument("--canny", action="store_const", const=True, help="use the edges of --control-image")
    add_upscaling(command)
    add_engine(command)


def _run(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ..engine.results import check_image_path

    given = arguments_of(options)
    output = expanded(options.output)
    check_upscaling(options)
    if options.prompts:
        run_batch(options, given, output)
        return
    if not isinstance(given.generate["prompt"], str):
        raise ValueError("there is no prompt: give --prompt, --prompts, or --params with a prompt")
    check_image_path(output)  # before minutes of work
    previews = preview_keywords(options)
    saved = _parameter_file(options)
    with progress_bar() as shown:
        with Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
            result = engine.generate(**given.generate, **previews, timeout=options.timeout)
        for report in result.loras:
            say(str(report))
        if result.parameters.cache is not None:
            say(f"the step cache reused {sum(map(len, result.cached_steps))} steps")
        with upscaling(options, given, shown) as enlarge:  # after the engine has freed its memory
            enlarged = enlarge(result)
    paths = enlarged.save(output, metadata=options.metadata, digests=options.digests, paths=options.paths)
    _report(enlarged, paths, options.json)
    if saved:
        _save({**given.table(), "seed": result.seeds[0]}, saved)


def _parameter_file(options: argparse.Namespace) -> Path | None:
    if options.save_params is None:
        return None
    from .._files import check_directory

    path = expanded(options.save_params)
    check_directory(path)
    return path


def _report(result: Result, paths: list[Path], as_json: bool) -> None:
    images = [{"path": str(path), "seed": seed} for path, seed in zip(paths, result.seeds, strict=True)]
    if as_json:
        loras = [asdict(report) for report in result.loras]
        values = {"images": images, "seconds": result.seconds, "loras": loras, "cached_steps": result.cached_steps}
        print(json.dumps(values))
        return
    for image in images:
        print(f"{image['path']} (seed {image['seed']})")


def _save(table: dict[str, Any], path: Path) -> None:
    from .._files import replacing

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
