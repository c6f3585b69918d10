"""``sdcffi generate``: generate images, in one call or for a file of prompts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import check_target, expanded
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
from ._ray import add_ray, check_ray, run_on_ray
from ._saving import (
    all_of,
    check_parameter_file,
    enlarged,
    recorded,
    refuse_same,
    save_parameters,
    save_safely,
)
from ._terminal import logger, progress_bar, say
from ._upscaling import add_upscaling, check_upscaling, upscaling

if TYPE_CHECKING:
    from ..engine.results import Result
    from ..events import Progress
    from ..parameter_files import Arguments

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
        help="generate images for each line of FILE: a prompt; in a .jsonl file an object of parameters; in a .csv file"
        " the parameters that its first line names. Lines whose images are there are skipped",
    )
    command.add_argument(
        "--overwrite", action="store_true", help="with --prompts: generate lines whose images are there again"
    )
    command.add_argument("--params", metavar="FILE", help=PARAMS_HELP)
    command.add_argument("--save-params", metavar="FILE", help="write all parameters to a JSON file for --params")
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    add_call(command, ImageParams)
    command.add_argument("--canny", action="store_const", const=True, help="use the edges of --control-image")
    add_upscaling(command)
    add_engine(command)
    add_ray(command)


def _run(options: argparse.Namespace) -> None:
    given = arguments_of(options)
    output = expanded(options.output)
    factor = check_upscaling(options)
    if options.overwrite and not options.prompts:
        raise ValueError("--overwrite is for --prompts; a single call replaces its output anyway: leave it out")
    check_ray(options)
    if options.ray is not None:
        run_on_ray(options, given, output)
        return
    if options.prompts:
        run_batch(options, given, output, factor)
        return
    if not isinstance(given.generate["prompt"], str):
        raise ValueError("there is no prompt: give --prompt, --prompts, or --params with a prompt")
    saved = _check_outputs(options, given, output, factor)  # before minutes of work
    with progress_bar() as shown:
        result = _generated(options, given, output, shown)
        for report in result.loras:
            say(str(report))
        if result.parameters.cache is not None:
            say(f"the step cache reused {sum(map(len, result.cached_steps))} steps")
        if options.upscale_model is not None:  # after the engine has freed its memory
            result = enlarged(result, partial(_enlarged, options, given, shown), output, options)
    saves = [partial(save_safely, recorded(result, options), output)]
    if saved:
        saves.append(partial(save_parameters, {**given.table(), "seed": result.seeds[0]}, saved))
    paths, *_ = all_of(saves)
    _report(result, paths, options.json)


def _generated(
    options: argparse.Namespace, given: Arguments, output: Path, on_progress: Callable[[Progress], None]
) -> Result:
    """Return the images, and free the model. If that fails or is interrupted, they are saved first."""
    from ..engine.engine import Engine

    previews, result = preview_keywords(options), None
    try:
        with Engine(**given.engine, on_progress=on_progress, on_log=logger(options)) as engine:
            result = engine.generate(**given.generate, **previews, timeout=options.timeout)
    except BaseException:
        if result is not None:
            save_safely(recorded(result, options, digests=False), output)
        raise
    return result


def _check_outputs(options: argparse.Namespace, given: Arguments, output: Path, factor: float) -> Path | None:
    """Refuse what could not be saved, and return the path of ``--save-params``."""
    from .._batches.jobs import batch_count
    from ..engine.results import check_image_path, image_paths
    from ..parameter_files import pixels_of

    outputs = image_paths(output, batch_count(given))
    check_image_path(outputs[0], pixels_of(given, factor))
    for path in outputs[1:]:
        check_target(path)
    if options.preview is not None:
        refuse_same("--preview-path", expanded(options.preview_path), outputs)
    return check_parameter_file(options, given, outputs)


def _enlarged(
    options: argparse.Namespace, given: Arguments, on_progress: Callable[[Progress], None], result: Result
) -> Result:
    with upscaling(options, given, on_progress) as enlarge:
        return enlarge(result)


def _report(result: Result, paths: list[Path], as_json: bool) -> None:
    images = [{"path": str(path), "seed": seed} for path, seed in zip(paths, result.seeds, strict=True)]
    if as_json:
        loras = [asdict(report) for report in result.loras]
        values = {"images": images, "seconds": result.seconds, "loras": loras, "cached_steps": result.cached_steps}
        print(json.dumps(values))
        return
    for image in images:
        print(f"{image['path']} (seed {image['seed']})")
