"""``sdcffi video``: make a video with a model of the Wan family."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..params.video import VideoParams
from ._flags import add_call, add_command, add_engine, arguments_of, preview_keywords
from ._terminal import logger, progress_bar, say

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "video", _run, "make a video")
    command.add_argument(
        "-o",
        "--output",
        default="output.webp",
        help=".webp, .gif, .mp4, or a picture's ending for a numbered file for each frame (default: output.webp)",
    )
    command.add_argument("--fps", type=float, default=16, help="frames a second (default: 16)")
    command.add_argument("--lossless", action="store_true", help="of a WebP: keep every pixel")
    command.add_argument("--params", metavar="FILE", help="parameters by name, .json or .toml; flags win")
    command.add_argument("--json", action="store_true", help="tell the result for machines")
    add_call(command, VideoParams)
    add_engine(command)


def _run(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ..engine.results import check_video_path

    given = arguments_of(options, video=True)
    if not isinstance(given.generate["prompt"], str):
        raise ValueError("nothing to show: give --prompt, or --params with a prompt")
    output = Path(options.output).expanduser()
    check_video_path(output, options.fps)  # before minutes of work
    keywords = {**given.generate, **preview_keywords(options), "timeout": options.timeout}
    with progress_bar() as shown, Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
        result = engine.generate_video(**keywords, fps=options.fps)
    for report in result.loras:
        say(str(report))
    kept = {"metadata": options.metadata, "digests": options.digests, "paths": options.paths}
    paths = result.save(output, lossless=options.lossless, **kept)
    if options.json:
        told = {"paths": [str(path) for path in paths], "frames": len(result.arrays), "seed": result.seed}
        print(json.dumps({**told, "seconds": result.seconds}))
        return
    for path in paths:
        print(f"{path} (seed {result.seed})")
