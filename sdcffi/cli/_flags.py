"""Flags made of the parameters: the names of `params.names` with dashes, and sd-cli's other spellings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.names import Parameter, flag_of, parameters
from ..params.struct import Struct
from ..params.video import VideoParams

if TYPE_CHECKING:
    from ..parameter_files import Arguments

__all__ = [
    "BACKEND_HELP",
    "add_call",
    "add_command",
    "add_engine",
    "add_struct",
    "arguments_of",
    "in_flags",
    "preview_keywords",
]

# Other spellings, most of them sd-cli's.
_ALIASES = {
    "model": ("-m",),
    "clip_l": ("--clip_l",),
    "clip_g": ("--clip_g",),
    "clip_vision": ("--clip_vision",),
    "llm_vision": ("--llm_vision",),
    "taesd": ("--tae",),
    "threads": ("-t",),
    "prompt": ("-p",),
    "negative_prompt": ("-n",),
    "sampler": ("--sampling-method",),
    "init_image": ("-i", "--init-img"),
    "end_image": ("--end-img",),
    "mask_image": ("--mask",),
    "width": ("-W",),
    "height": ("-H",),
    "seed": ("-s",),
    "batch_count": ("-b",),
    "ref_images": ("-r",),
}
# What is given once for each element.
_REPEATED = {
    "loras": ("PATH[:SCALE]", "adapter and its strength; may be repeated"),
    "ref_images": ("PATH", "reference picture; may be repeated"),
    "control_frames": ("PATH", "frame for VACE models to follow; may be repeated"),
    "pm_id_images": ("PATH", "photograph of a person; may be repeated"),
    "embeddings": ("NAME=PATH", "textual-inversion embedding and its word; may be repeated"),
}
# Where the dataclass tells what a caller in Python passes.
_MEANINGS = {
    "init_image": "picture to start from; of a video the first frame, or for a VACE model a reference picture",
    "end_image": "last frame",
    "mask_image": "part of the init image to draw anew: a picture, white where it is drawn, or LEFT,TOP,RIGHT,BOTTOM",
    "control_image": "what a ControlNet is to follow",
    "vae_tiling": "decode and encode in tiles: less memory",
    "hires": "draw a second pass, at a larger size",
    "scm_policy_dynamic": "depart from --scm-mask where the difference is small",
}
# C names of fields that the meanings of others speak of.
_FLAG_OF_FIELD = {
    item.path[-1]: item.flag
    for struct in (VideoParams, ImageParams, ContextParams)  # the last one of a name counts
    for item in parameters(struct)
}
BACKEND_HELP = "auto, cpu, cuda, vulkan, metal, ...; cuda:1 for a device, cpu:haswell for a CPU variant"
# Keywords that are no fields of the engine's structs, with their sd-cli spelling where it has another one.
_ENGINE_ONLY = {
    "backend": (("--backend",), BACKEND_HELP),
    "library": (("--library",), "directory of the native build to use"),
    "lora_dir": (("--lora-model-dir", "--lora-dir"), "where adapters named in prompts or without a path are looked up"),
    "memory_check": (("--memory-check",), "warn, strict or off: what to do where memory seems too short"),
}
_OURS = {
    *("output", "prompts", "params", "save_params", "json", "verbose", "run", "video", "fps", "lossless", "file"),
    *("timeout", "preview", "preview_path", "preview_interval", "preview_noisy", "upscale_model", "upscale_repeats"),
    *("upscale_tile_size", "metadata", "digests", "paths", "scales", "seeds", "models", "adapters", "size", "budget"),
}


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Add a command that `run` carries out; what it prints on standard output is what was asked for."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(run=run)
    command.usage = f"{command.prog} [options]"  # a list of a hundred flags tells nobody anything
    command.add_argument("-v", "--verbose", action="store_true", help="show the native log")
    return command


def add_struct(
    command: argparse.ArgumentParser, title: str, struct: type[Struct], without: Collection[str] = ()
) -> Any:
    """Add a group with a flag for each parameter but those named in `without`."""
    group = command.add_argument_group(title)
    for parameter in parameters(struct):
        if parameter.name not in without:
            _add(group, parameter)
    return group


def _add(group: Any, parameter: Parameter) -> None:
    name = parameter.name
    flags = (*_ALIASES.get(name, ()), parameter.flag)
    meaning = (_MEANINGS.get(name) or _in_words_of_flags(parameter.help)).replace("%", "%%")
    if name in _REPEATED:
        metavar, meaning = _REPEATED[name]
        group.add_argument(*flags, dest=name, action="append", metavar=metavar, help=meaning)
    elif parameter.kind is bool:
        group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, default=None, help=meaning)
    elif parameter.many:
        group.add_argument(*flags, dest=name, type=_numbers(parameter.kind), metavar="N,N,...", help=meaning)
    else:
        metavar = "PATH" if parameter.annotation in ("StrPath", "Pixels", "MaskPixels") else parameter.kind.__name__
        group.add_argument(*flags, dest=name, type=parameter.kind, metavar=metavar.upper(), help=meaning)


def _in_words_of_flags(meaning: str) -> str:
    meaning = meaning.replace("None: ", "Default: ").replace("what None means", "the default")
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: _FLAG_OF_FIELD.get(found[0], found[0]), meaning)


def in_flags(message: str, options: argparse.Namespace) -> str:
    """Name flags in a message that names keywords: ``give resize= 'fit'`` becomes ``give --resize 'fit'``."""

    def flag(found: re.Match[str]) -> str:
        name, quote = found[1], found[2]
        if not hasattr(options, name):
            return found[0]
        return flag_of(name) + (f" {quote}" if quote else "")

    return re.sub(r"\b([a-z][a-z0-9_]*)=('|(?=[\s,.;:)]|$))", flag, message).replace("generate()", "sdcffi generate")


def _numbers(kind: type) -> Any:
    def numbers(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return numbers


def add_engine(command: argparse.ArgumentParser, *, tunes: bool = False) -> None:
    """Add what chooses model, backend and library, and unless the command tunes itself, whether its choice is taken."""
    model = add_struct(command, "model and engine", ContextParams)
    model.add_argument("--circular", action="store_const", const=True, help="--circular-x and --circular-y")
    group = command.add_argument_group("where it runs")
    for name, (flags, meaning) in _ENGINE_ONLY.items():
        group.add_argument(*flags, dest=name, help=meaning)
    if not tunes:
        meaning = "with what sdcffi tune has measured for this model here"
        group.add_argument("--tune", dest="tuned", action=argparse.BooleanOptionalAction, default=None, help=meaning)


def add_call(command: argparse.ArgumentParser, struct: type[Struct]) -> None:
    """Add what a call that draws takes, and what is shown and written beside."""
    group = add_struct(command, "what is drawn", struct)
    group.add_argument(
        "--resize",
        choices=("error", "fit", "crop", "pad", "stretch"),
        metavar="HOW",
        help="error, fit, crop, pad or stretch: how pictures given are brought to size (default: error)",
    )
    group.add_argument(
        "--alpha", metavar="COLOUR", help="behind transparent pixels of pictures given, or ignore, or refuse (default)"
    )
    group.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether an adapter that does not fit is an error; else it is left out",
    )
    group.add_argument(
        "--lora-tags", action=argparse.BooleanOptionalAction, default=None, help="read <lora:name:weight> in the prompt"
    )
    beside = command.add_argument_group("beside it")
    beside.add_argument("--timeout", type=float, metavar="SECONDS", help="that a call may take")
    beside.add_argument(
        "--preview", metavar="HOW", choices=("proj", "tae", "vae"), help="proj, tae or vae: write how far it has come"
    )
    beside.add_argument("--preview-path", metavar="FILE", default="preview.png", help="to it (default: preview.png)")
    beside.add_argument("--preview-interval", type=int, default=1, metavar="STEPS", help="each so many (default: 1)")
    beside.add_argument("--preview-noisy", action="store_true", help="the noisy latent, not what lies behind it")
    beside.add_argument(
        "--metadata", action=argparse.BooleanOptionalAction, default=True, help="tell in the file what made it"
    )
    beside.add_argument(
        "--digests", action=argparse.BooleanOptionalAction, default=True, help="with the sha256 of the model's files"
    )
    beside.add_argument("--paths", action="store_true", help="with the absolute paths of files, not only their names")


def arguments_of(options: argparse.Namespace, *, video: bool = False) -> Arguments:
    """Give what ``--params`` and the flags say; flags win."""
    from ..parameter_files import Arguments, as_arguments, read_arguments

    params = getattr(options, "params", None)
    given = {name: value for name, value in vars(options).items() if value is not None and name not in _OURS}
    written = read_arguments(params, video=video) if params else Arguments()
    return written.updated(as_arguments(given, "flags", video=video))


def preview_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Give the keywords of a call with which previews are written to a file, each in place of the one before."""
    if options.preview is None:
        return {}
    from pathlib import Path

    from .._files import replacing
    from ..engine.results import check_image_path
    from ..images.convert import to_pillow

    path = Path(options.preview_path).expanduser()
    picture_format = check_image_path(path)

    def write(preview: Any) -> None:
        with replacing(path) as temporary:
            to_pillow(preview.frames[0]).save(temporary, format=picture_format)

    return {
        "preview": options.preview,
        "preview_interval": options.preview_interval,
        "preview_noisy": options.preview_noisy,
        "on_preview": write,
    }
