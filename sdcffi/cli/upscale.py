"""``sdcffi upscale``: enlarge an image with a network."""

from __future__ import annotations

import argparse
from typing import Any

from .._files import expanded
from ._flags import ALPHA_HELP, BACKEND_HELP, LIBRARY_HELP, SHORT_RUN, TIMEOUT_HELP, add_command
from ._saving import save_safely
from ._terminal import logger, progress_bar

__all__ = ["add"]

_MOST_FACTOR = 64  # three passes of a network of factor 4

SHORT = {
    "image and network": {
        "INPUT": "image to enlarge",
        "--model": "network such as Real-ESRGAN",
        "--factor": "times wider and higher (default: the network's)",
        "--alpha": "colour behind transparent pixels",
    },
    "output": {"--output": "file to write (default: upscaled.png)"},
    "how to run": SHORT_RUN,
}


def add(commands: Any) -> None:
    """Add the command."""
    text = "enlarge an image with a network such as Real-ESRGAN"
    command = add_command(commands, "upscale", _run, text, arguments="INPUT", short=SHORT)
    command.add_argument("input", metavar="INPUT", help="image to enlarge")
    command.add_argument(
        "-m", "--model", required=True, metavar="PATH", help="file of the network: safetensors, gguf or pth"
    )
    command.add_argument(
        "-o", "--output", default="upscaled.png", metavar="FILE", help="file to write (default: upscaled.png)"
    )
    command.add_argument(
        "--factor", type=float, metavar="FLOAT", help="times wider and higher (default: the network's own factor)"
    )
    command.add_argument(
        "--tile-size",
        type=int,
        default=128,
        metavar="INT",
        help="side of a tile in pixels; 0: the whole image (default: 128)",
    )
    command.add_argument("--conv-direct", action="store_true", help="convolve directly: less memory")
    command.add_argument(
        "--offload-to-cpu", action="store_true", help="keep the weights in main memory while they are not used"
    )
    command.add_argument("--precision", metavar="NAME", help="how the CPU convolves: exact or fast (default: exact)")
    command.add_argument("--alpha", default="refuse", metavar="COLOUR", help=ALPHA_HELP)
    command.add_argument("-t", "--threads", type=int, metavar="INT", help="number of CPU threads")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help=TIMEOUT_HELP)
    command.add_argument("--backend", default="auto", metavar="NAME", help=BACKEND_HELP)
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)


def _run(options: argparse.Namespace) -> None:
    from ..engine.results import check_image_path
    from ..engine.upscaler import Upscaler
    from ..images.convert import as_rgb

    output = expanded(options.output)
    check_image_path(output)  # before minutes of work
    image = as_rgb(options.input, "input", options.alpha)
    names = ("tile_size", "conv_direct", "offload_to_cpu", "precision", "threads", "backend", "library")
    keywords = {name: getattr(options, name) for name in names}
    with (
        progress_bar() as shown,
        Upscaler(options.model, **keywords, on_progress=shown, on_log=logger(options)) as upscaler,
    ):
        factor = upscaler.factor if options.factor is None else options.factor
        if 1 <= factor <= _MOST_FACTOR:  # others are refused
            check_image_path(output, round(image.shape[0] * image.shape[1] * factor**2))
        result = upscaler.upscale(image, options.factor, timeout=options.timeout)
    height, width = result.array.shape[:2]
    (path,) = save_safely(lambda target, **_changes: [result.save(target)], output)
    print(f"{path} ({width}x{height})")
