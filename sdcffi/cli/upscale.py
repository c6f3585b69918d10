"""``sdcffi upscale``: enlarge a picture by a network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._flags import BACKEND_HELP, add_command
from ._terminal import logger, progress_bar

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "upscale", _run, "enlarge a picture by a network such as Real-ESRGAN")
    command.add_argument("input", help="picture")
    command.add_argument("-m", "--model", required=True, metavar="PATH", help="network: safetensors, gguf or pth")
    command.add_argument("-o", "--output", default="upscaled.png", help="file to write (default: upscaled.png)")
    command.add_argument("--factor", type=float, help="how many times wider and higher (default: the network's own)")
    command.add_argument("--tile-size", type=int, default=128, help="pixels a side; 0 takes the whole (default: 128)")
    command.add_argument("--conv-direct", action="store_true", help="convolutions that take less memory")
    command.add_argument("--offload-to-cpu", action="store_true", help="keep the weights in main memory")
    command.add_argument("--alpha", default="refuse", help="refuse, ignore, or a colour behind transparent pixels")
    command.add_argument("-t", "--threads", type=int, help="CPU threads")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="that it may take")
    command.add_argument("--backend", default="auto", help=BACKEND_HELP)
    command.add_argument("--library", help="directory of the native build to use")


def _run(options: argparse.Namespace) -> None:
    from ..engine.results import check_image_path
    from ..engine.upscaler import Upscaler
    from ..images.convert import as_rgb

    output = Path(options.output).expanduser()
    check_image_path(output)  # before minutes of work
    picture = as_rgb(options.input, "input", options.alpha)
    names = ("tile_size", "conv_direct", "offload_to_cpu", "threads", "backend", "library")
    keywords = {name: getattr(options, name) for name in names}
    with (
        progress_bar() as shown,
        Upscaler(options.model, **keywords, on_progress=shown, on_log=logger(options)) as upscaler,
    ):
        result = upscaler.upscale(picture, options.factor, timeout=options.timeout)
    height, width = result.array.shape[:2]
    print(f"{result.save(output)} ({width}x{height})")
