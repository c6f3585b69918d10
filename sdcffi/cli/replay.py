"""``sdcffi replay``: draw a picture again from its file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._flags import BACKEND_HELP, add_command
from ._terminal import logger, progress_bar

__all__ = ["add"]

_PICTURES = ("init_image", "mask_image", "control_image", "end_image")
_SEVERAL = {"ref_images": "--ref-image", "control_frames": "--control-frame", "id_images": "--pm-id-image"}


def add(commands: Any) -> None:
    """Add the command."""
    text = "draw a picture again from its file, and tell what differs; status 1 where the pixels do"
    command = add_command(commands, "replay", _run, text)
    command.add_argument("file", help="PNG, JPEG or WebP that sdcffi wrote")
    command.add_argument("-o", "--output", help="file to write (default: none, pixels are compared only)")
    command.add_argument(
        "--models", action="append", metavar="DIR", help="where the model's files are looked up; may be repeated"
    )
    for name in _PICTURES:
        command.add_argument(
            "--" + name.replace("_", "-"), metavar="PATH", help="the picture it was drawn from, as then"
        )
    for name, flag in _SEVERAL.items():
        command.add_argument(flag, dest=name, action="append", default=[], metavar="PATH", help="the same")
    command.add_argument("--alpha", default="refuse", help="what was given for transparent pixels (default: refuse)")
    command.add_argument("--backend", help=f"in place of the recorded one: {BACKEND_HELP}")
    command.add_argument("-t", "--threads", type=int, help="in place of the recorded number")
    command.add_argument("--library", help="directory of the native build to use")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="that drawing may take")
    command.add_argument("--json", action="store_true", help="for machines")


def _run(options: argparse.Namespace) -> int:
    from ..parameter_files import parse_mask
    from ..reproduction import replay

    names = ("models", "backend", "timeout", "alpha", *_PICTURES, *_SEVERAL)
    keywords = {name: getattr(options, name) for name in names}
    if options.mask_image is not None:
        keywords["mask_image"] = parse_mask(options.mask_image)
    engine = {name: value for name in ("threads", "library") if (value := getattr(options, name)) is not None}
    with progress_bar() as shown:
        again = replay(options.file, **keywords, **engine, on_progress=shown, on_log=logger(options))
    path = again.save(Path(options.output).expanduser()) if options.output else None
    if options.json:
        differences = [{"what": item.what, "recorded": item.recorded, "now": item.now} for item in again.differences]
        told = {"max_difference": again.max_difference, "differences": differences, "path": path and str(path)}
        print(json.dumps(told))
    else:
        print("\n".join([*again.lines(), *([str(path)] if path else [])]))
    return 1 if again.max_difference else 0
