"""``sdcffi video``: generate a video with a model of the Wan family."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .._files import expanded
from ..params.video import VideoParams
from ._flags import (
    JSON_HELP,
    PARAMS_HELP,
    SHORT_RUN,
    add_call,
    add_command,
    add_engine,
    arguments_of,
    preview_keywords,
)
from ._saving import recorded, refuse_same, save_safely
from ._terminal import logger, progress_bar, say

__all__ = ["add"]

SHORT = {
    "model": {
        "--diffusion-model": "diffusion model of the Wan family",
        "--t5xxl": "text encoder (UMT5-XXL)",
        "--vae": "autoencoder (--taesd for a tiny one)",
        "--type": "convert weights while loading: q8_0, f16, ...",
        "--lora": "LoRA and its strength; may be repeated",
    },
    "what to generate": {
        "--prompt": "what to show",
        "--negative-prompt": "what to leave out",
        "--width": "width in pixels",
        "--height": "height in pixels",
        "--video-frames": "number of frames",
        "--steps": "number of denoising steps",
        "--cfg-scale": "how strictly to follow the prompt; 1 is off",
        "--sampler": "euler, euler_a, dpm++2m, ...",
        "--scheduler": "spacing of noise levels: discrete, karras, ...",
        "--seed": "random seed (default: chosen at random)",
        "--init-image": "first frame",
        "--end-image": "last frame",
    },
    "output": {
        "--output": "video, or numbered images (default: output.webp)",
        "--fps": "frames per second (default: 16)",
        "--preview": "save previews to preview.png: proj, tae or vae",
    },
    "how to run": {
        "--backend": SHORT_RUN["--backend"],
        "--threads": SHORT_RUN["--threads"],
        "--params": "read parameters from a .json or .toml file",
    },
}


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "video", _run, "generate a video", short=SHORT)
    command.add_argument(
        "-o",
        "--output",
        default="output.webp",
        metavar="FILE",
        help="file to write: .webp, .gif or .mp4; or .png, .jpg, ... for a numbered file per frame"
        " (default: output.webp)",
    )
    command.add_argument("--fps", type=float, default=16, metavar="FLOAT", help="frames per second (default: 16)")
    command.add_argument("--lossless", action="store_true", help="write a lossless WebP")
    command.add_argument("--params", metavar="FILE", help=PARAMS_HELP)
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    add_call(command, VideoParams)
    add_engine(command)


def _run(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ..engine.results import check_video_path
    from ..parameter_files import pixels_of

    given = arguments_of(options, video=True)
    if not isinstance(given.generate["prompt"], str):
        raise ValueError("there is no prompt: give --prompt, or --params with a prompt")
    output = expanded(options.output)
    check_video_path(output, options.fps, lossless=options.lossless, pixels=pixels_of(given))  # before minutes of work
    if options.preview is not None:
        refuse_same("--preview-path", expanded(options.preview_path), [output])
    keywords = {**given.generate, **preview_keywords(options), "timeout": options.timeout}
    result = None
    try:
        with progress_bar() as shown, Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
            result = engine.generate_video(**keywords, fps=options.fps)
    except BaseException:
        if result is not None:  # the model could not be freed, or Ctrl-C came meanwhile
            save_safely(recorded(result, options, lossless=options.lossless, digests=False), output)
        raise
    for lora in result.loras:
        say(str(lora))
    paths = save_safely(recorded(result, options, lossless=options.lossless), output)
    if options.json:
        report = {"paths": [str(path) for path in paths], "frames": len(result.arrays), "seed": result.seed}
        print(json.dumps({**report, "seconds": result.seconds}))
        return
    for path in paths:
        print(f"{path} (seed {result.seed})")
