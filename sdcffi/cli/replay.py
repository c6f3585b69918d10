"""``sdcffi replay``: generate an image again from its file."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .._files import expanded
from ..params.context import ContextParams
from ..params.names import parameters
from ._flags import BACKEND_NAMES, JSON_HELP, LIBRARY_HELP, TIMEOUT_HELP, add_command, add_struct
from ._saving import save_safely
from ._terminal import logger, progress_bar

__all__ = ["add"]

_IMAGES = {
    "init_image": "the original input image",
    "mask_image": "the original mask: an image, or LEFT,TOP,RIGHT,BOTTOM",
    "control_image": "the original image for the ControlNet",
    "end_image": "the original last frame",
}
_SEVERAL = {
    "ref_images": ("--ref-image", "an original reference image; may be repeated"),
    "control_frames": ("--control-frame", "an original control frame; may be repeated"),
    "id_images": ("--pm-id-image", "an original photograph of the person; may be repeated"),
}


# Files of the model, which `replay` takes for `Engine`.
_MODEL = tuple(item.name for item in parameters(ContextParams) if item.annotation == "StrPath")


def add(commands: Any) -> None:
    """Add the command."""
    text = "generate an image again from its file, and report what differs"
    command = add_command(commands, "replay", _run, text, arguments="FILE")
    command.epilog = "The exit status is 1 if the pixels differ."
    command.add_argument(
        "file",
        metavar="FILE",
        help="PNG, JPEG or WebP of sdcffi, or of AUTOMATIC1111's web interface",
    )
    command.add_argument(
        "-o", "--output", metavar="PATH", help="file to write (default: none; the pixels are only compared)"
    )
    command.add_argument(
        "--models", action="append", metavar="DIR", help="directory with the model's files; may be repeated"
    )
    add_struct(
        command,
        "model, for an image of another program, whose text does not name all files",
        ContextParams,
        [item.name for item in parameters(ContextParams) if item.name not in _MODEL],
    )
    command.add_argument(
        "--lora-model-dir",
        "--lora-dir",
        dest="lora_dir",
        metavar="DIR",
        help="directory of LoRAs that are given by name",
    )
    for name, meaning in _IMAGES.items():
        command.add_argument("--" + name.replace("_", "-"), metavar="PATH", help=meaning)
    for name, (flag, meaning) in _SEVERAL.items():
        command.add_argument(flag, dest=name, action="append", default=[], metavar="PATH", help=meaning)
    command.add_argument(
        "--alpha", default="refuse", metavar="COLOUR", help="the original --alpha for transparent pixels"
    )
    command.add_argument("--backend", metavar="NAME", help=f"backend (default: the recorded one): {BACKEND_NAMES}")
    command.add_argument(
        "-t", "--threads", type=int, metavar="INT", help="number of CPU threads (default: the recorded one)"
    )
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)
    command.add_argument("--timeout", type=float, metavar="SECONDS", help=TIMEOUT_HELP)
    command.add_argument("--json", action="store_true", help=JSON_HELP)


def _run(options: argparse.Namespace) -> int:
    from ..engine.results import check_video_path
    from ..parameter_files import parse_mask
    from ..reproduction import replay

    output = None if options.output is None else expanded(options.output)
    if output is not None:
        check_video_path(output, 1)  # before minutes of work
    names = ("models", "backend", "timeout", "alpha", *_IMAGES, *_SEVERAL)
    keywords = {name: getattr(options, name) for name in names}
    if options.mask_image is not None:
        keywords["mask_image"] = parse_mask(options.mask_image)
    names = ("threads", "library", "lora_dir", *_MODEL)
    engine = {name: value for name in names if (value := getattr(options, name)) is not None}
    with progress_bar() as shown:
        again = replay(options.file, **keywords, **engine, on_progress=shown, on_log=logger(options))
    path = save_safely(lambda target, **_changes: [again.save(target)], output)[0] if output is not None else None
    if options.json:
        differences = [{"what": item.what, "recorded": item.recorded, "now": item.now} for item in again.differences]
        report = {"max_difference": again.max_difference, "differences": differences, "path": path and str(path)}
        print(json.dumps(report))
    else:
        print("\n".join([*again.lines(), *([str(path)] if path else [])]))
    return 1 if again.max_difference else 0
