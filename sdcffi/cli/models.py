"""``sdcffi models``: the catalogue, its downloads, and what a model file is."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .._references import local_path
from ._flags import BACKEND_HELP, JSON_HELP, LIBRARY_HELP, add_command, add_commands
from ._terminal import logger, say

if TYPE_CHECKING:
    from .._catalogue.variants import Room

__all__ = ["add"]

_NAME_HELP = "name in the catalogue, which `sdcffi models list` shows; /VARIANT for one of its weight types"


def add(commands: Any) -> None:
    """Add the commands."""
    inner = add_commands(commands, "models", "list, download, remove models by name; show what a file is")
    text = "list the models and LoRAs that have names, what fits this machine, and what is downloaded"
    command = add_command(inner, "list", _list, text)
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    command.add_argument("--backend", default="auto", metavar="NAME", help=BACKEND_HELP)
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)

    text = "show a model or LoRA: files, sizes, licence, recommended parameters"
    command = add_command(inner, "show", _show, text, arguments="NAME[/VARIANT]")
    command.add_argument("name", metavar="NAME[/VARIANT]", help=_NAME_HELP)
    command.add_argument("--json", action="store_true", help=JSON_HELP)

    text = "download a model or LoRA, so that it can be used without a network"
    command = add_command(inner, "pull", _pull, text, arguments="NAME[/VARIANT]")
    command.add_argument("name", metavar="NAME[/VARIANT]", help=f"{_NAME_HELP}; without one, the best that fits")
    command.add_argument("--backend", default="auto", metavar="NAME", help=BACKEND_HELP)
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)

    text = "remove the downloaded files of a model or LoRA that no other one needs"
    command = add_command(inner, "remove", _remove, text, arguments="NAME[/VARIANT]")
    command.add_argument("name", metavar="NAME[/VARIANT]", help=f"{_NAME_HELP}; without one, all of them")

    text = "show family, weight types, missing parts and memory, from the header alone"
    command = add_command(inner, "inspect", _inspect, text, arguments="FILE")
    command.add_argument(
        "file", metavar="FILE", help="safetensors or gguf file, or a diffusers directory; or hf://OWNER/REPO/FILE"
    )
    command.add_argument("--json", action="store_true", help=JSON_HELP)


def _list(options: argparse.Namespace) -> None:
    from .._catalogue.reader import read_catalogue
    from ._catalogue_report import catalogue_lines, describe_catalogue

    report = describe_catalogue(read_catalogue(), _room(options))
    print(json.dumps(report, indent=2) if options.json else "\n".join(catalogue_lines(report)))


def _show(options: argparse.Namespace) -> None:
    from .._catalogue.reader import parse_name, read_catalogue
    from ._catalogue_report import describe_entry, entry_lines

    entry, variant = parse_name(read_catalogue(), options.name)
    report = describe_entry(entry)
    if variant is not None:
        report["variants"] = [item for item in report["variants"] if item["name"] == variant.name]
    print(json.dumps(report, indent=2) if options.json else "\n".join(entry_lines(report)))


def _pull(options: argparse.Namespace) -> None:
    from .._catalogue.entries import ModelEntry
    from .._catalogue.files import files_of, pull
    from .._catalogue.reader import parse_name, read_catalogue
    from .._catalogue.variants import choose

    entry, variant = parse_name(read_catalogue(), options.name)
    if isinstance(entry, ModelEntry) and variant is None:
        variant, reason = choose(entry, _room(options))
        say(f"catalogue:{entry.name}: variant {variant.name}, {reason}")
    for file in files_of(entry, variant):
        print(pull(file))


def _remove(options: argparse.Namespace) -> None:
    from .._catalogue.files import remove
    from .._catalogue.reader import parse_name, read_catalogue
    from ._catalogue_report import removable

    catalogue = read_catalogue()
    entry, variant = parse_name(catalogue, options.name)
    found = list(removable(catalogue, entry, variant))
    if not found:
        say(f"nothing of {options.name} is downloaded")
    for file, path, others in found:
        if others:
            say(f"kept, because {' and '.join(others)} needs it too: {path}")
        else:
            remove(file)
            print(path)


def _room(options: argparse.Namespace) -> Room:
    """Return the memory of the device that would compute; without a native build, that of the machine."""
    from .._catalogue.variants import room_of
    from ..errors import SDError
    from ..inventory import list_devices
    from ..params.context import ContextParams

    try:
        device = list_devices(options.library, backend=options.backend, on_log=logger(options)).device
    except SDError as error:
        say(f"sdcffi: the memory is that of this machine, because no device was found: {error}")
        device = None
    return room_of(device, ContextParams())


def _inspect(options: argparse.Namespace) -> None:
    from ._model_report import inspect_model, model_lines

    report = inspect_model(local_path(options.file, kind="model"))
    print(json.dumps(report, indent=2) if options.json else "\n".join(model_lines(report)))
