"""Flags for the parameters: the names of `params.names` with dashes, and sd-cli's other spellings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from .._files import expanded
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.names import Parameter, flag_of, parameters
from ..params.struct import Struct
from ..params.video import VideoParams
from ._parser import PROMPTS, HelpAll, Parser, ShortHelp, as_utf8

if TYPE_CHECKING:
    from ..parameter_files import Arguments

__all__ = [
    "ALPHA_HELP",
    "BACKEND_HELP",
    "BACKEND_NAMES",
    "JSON_HELP",
    "LIBRARY_HELP",
    "PARAMS_HELP",
    "SHORT_CALL",
    "SHORT_MODEL",
    "SHORT_RUN",
    "TIMEOUT_HELP",
    "add_call",
    "add_command",
    "add_commands",
    "add_engine",
    "add_struct",
    "arguments_of",
    "in_flags",
    "preview_keywords",
]

# Other spellings of flags, most of them from sd-cli.
_ALIASES = {
    "model": ("-m",),
    "clip_l": ("--clip_l",),
    "clip_g": ("--clip_g",),
    "clip_vision": ("--clip_vision",),
    "llm_vision": ("--llm_vision",),
    "taesd": ("--tae",),
    "control_net_on_cpu": ("--control-net-cpu",),
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
# Flags that are given once for each element.
_REPEATED = {
    "loras": (
        "PATH[:SCALE]",
        "LoRA file, or catalogue:NAME, and its strength (default: 1, or the catalogue's); may be repeated",
    ),
    "ref_images": ("PATH", "reference image; may be repeated"),
    "control_frames": ("PATH", "frame that a VACE model follows; may be repeated"),
    "pm_id_images": ("PATH", "photograph of a person; may be repeated"),
    "embeddings": ("NAME=PATH", "word in the prompt and its textual-inversion embedding; may be repeated"),
}
# Help for flags whose dataclass describes what a caller in Python passes.
_MEANINGS = {
    "init_image": "image to start from",
    "VideoParams.init_image": "first frame, or for a VACE model a reference image",
    "end_image": "last frame",
    "mask_image": "part of the init image to generate anew: an image that is white there, or LEFT,TOP,RIGHT,BOTTOM",
    "mask_blur": "blur the mask's edge outwards by this radius in pixels, where the original is put back (default: 4)",
    "paste_back": "put the original back outside of the mask (default)",
    "control_image": "image for the ControlNet",
    "prompt": "what to generate, with weights as in (text:1.2) where the model has them",
    "seed": "random seed, 0 to 2**63 - 1; image i of a batch uses SEED + i (default: a random one)",
    "vae_tiling": "decode and encode in tiles: less memory",
    "hires": "generate a second pass, at a larger size",
    "scm_policy_dynamic": "reuse a step with 0 in --scm-mask only where the mode would (default); otherwise always",
    "high_noise_steps": "number of steps of the high-noise model, in addition to --steps; 0: it is not used; "
    "-1: those of --steps with a noise above --moe-boundary (default: -1)",
    "high_noise_img_cfg_scale": "high-noise model: how strictly the result follows the input image (default: as "
    "--high-noise-cfg-scale)",
    **{
        f"high_noise_{name}": f"refused: the high-noise model uses {flag}"
        for name, flag in {
            "scheduler": "--scheduler",
            "sigmas": "--sigmas",
            "flow_shift": "--flow-shift",
        }.items()
    },
    "high_noise_timestep_shift": "refused: the engine does not read it",
}
_PROPER_NAMES = ("Spectrum:", "Wan ")  # besides words with capitals inside
_METAVARS = {"prompt": "TEXT", "negative_prompt": "TEXT", "tensor_type_rules": "REGEX=TYPE,...", "scm_mask": "N,N,..."}
# C names of fields that appear in the help of other flags.
_FLAG_OF_FIELD = {
    item.path[-1]: item.flag
    for struct in (VideoParams, ImageParams, ContextParams)  # the last one of a name counts
    for item in parameters(struct)
}
BACKEND_NAMES = "auto, cpu, cuda, vulkan, metal, ...; cuda:1 for a device, cpu:haswell for a CPU variant"
BACKEND_HELP = f"{BACKEND_NAMES} (default: auto)"
LIBRARY_HELP = "directory of the native build to use"
ALPHA_HELP = "colour behind transparent pixels of input images, or ignore, or refuse (default: refuse)"
JSON_HELP = "print the result as JSON"
PARAMS_HELP = "read parameters from a .json or .toml file, or from an image; flags win"
TIMEOUT_HELP = "time limit for the call, in seconds (default: none)"
# Keywords that are not fields of the engine's structs, with sd-cli's spelling where it differs.
_ENGINE_ONLY = {
    "backend": (("--backend",), "NAME", BACKEND_HELP),
    "library": (("--library",), "DIR", LIBRARY_HELP),
    "defaults": (
        ("--defaults",),
        "HOW",
        "what is not given: what suits the model (model), or the engine's own values (engine) (default: model)",
    ),
    "lora_dir": (("--lora-model-dir", "--lora-dir"), "DIR", "directory of LoRAs that are given by name"),
    "memory_check": (
        ("--memory-check",),
        "HOW",
        "if memory seems too short: warn, refuse (strict) or do nothing (off) (default: warn)",
    ),
}
# Groups of the short help that several commands have.
SHORT_MODEL = {
    "model": {
        "--model": "whole checkpoint, or a diffusers directory",
        "--diffusion-model": "diffusion model alone; needs the next two",
        "--vae": "autoencoder (--taesd for a tiny one)",
        "--llm": "text encoder (also --clip-l, --clip-g, --t5xxl)",
        "--type": "convert weights while loading: q8_0, f16, ...",
    }
}
SHORT_CALL = {
    "--prompt": "what to generate",
    "--width": "width in pixels",
    "--height": "height in pixels",
    "--steps": "number of denoising steps",
    "--cfg-scale": "how strictly to follow the prompt; 1 is off",
}
SHORT_RUN = {
    "--backend": "auto, cpu, cuda, vulkan, ...; cuda:1 for a device",
    "--threads": "number of CPU threads",
}
_OURS = {
    *("output", "overwrite", "prompts", "params", "save_params", "json", "verbose", "run", "video", "fps"),
    *("lossless", "file"),
    *("timeout", "preview", "preview_path", "preview_interval", "preview_noisy", "upscale_model", "upscale_repeats"),
    *("upscale_tile_size", "metadata", "digests", "paths", "scales", "seeds", "models", "adapters", "size", "budget"),
    *("x", "y", "ray", "ray_concurrency", "ray_resources"),
}


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    text: str,
    *,
    arguments: str = "",
    short: ShortHelp | None = None,
) -> argparse.ArgumentParser:
    """Add a command that is carried out by `run`.

    Parameters
    ----------
    commands : subparsers of argparse
        What to add it to.
    name : str
        Its name.
    run : callable
        Function that gets the parsed options. Only its results go to standard output. It returns the exit status, or
        None for 0.
    text : str
        What it does, in one line.
    arguments : str
        Its positional arguments, for the usage line.
    short : mapping, optional
        What its --help shows. None: every flag.
    """
    description = f"{text[0].upper()}{text[1:]}."
    command: Parser = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
    command.set_defaults(run=run)
    command.short = short
    command.usage = " ".join(filter(None, [command.prog, arguments, "[options]"]))  # a list of all flags helps nobody
    command.epilog = "A model's own defaults: sdcffi models inspect FILE" if short and "model" in short else None
    command.add_argument("--help-all", action=HelpAll, help="show every flag and exit" if short else argparse.SUPPRESS)
    command.add_argument("-v", "--verbose", action="store_true", help="show the engine's log")
    return command


def add_commands(commands: Any, name: str, text: str) -> Any:
    """Add a command that has commands of its own; return what they are added to."""
    command: Parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.usage = f"{command.prog} COMMAND [options]"
    command.add_argument("--help-all", action=HelpAll, help=argparse.SUPPRESS)
    return command.add_subparsers(required=True, title="commands", metavar="COMMAND", prog=command.prog)


def add_struct(
    command: argparse.ArgumentParser, title: str, struct: type[Struct], without: Collection[str] = ()
) -> Any:
    """Add a group with a flag for each parameter, except those named in `without`."""
    group = command.add_argument_group(title)
    for parameter in parameters(struct):
        if parameter.name not in without:
            _add(group, parameter)
    return group


def _add(group: Any, parameter: Parameter) -> None:
    name = parameter.name
    flags = (*_ALIASES.get(name, ()), parameter.flag)
    meaning = _MEANINGS.get(f"{parameter.struct.__name__}.{name}") or _MEANINGS.get(name)
    meaning = (meaning or _in_words_of_flags(parameter)).replace("%", "%%")
    if name in _REPEATED:
        metavar, meaning = _REPEATED[name]
        group.add_argument(*flags, dest=name, action="append", metavar=metavar, help=meaning)
    elif parameter.kind is bool:
        group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, default=None, help=meaning)
    elif parameter.many:
        group.add_argument(*flags, dest=name, type=_numbers(parameter.kind), metavar="N,N,...", help=meaning)
    else:
        kind = as_utf8 if name in PROMPTS else parameter.kind
        group.add_argument(*flags, dest=name, type=kind, metavar=_metavar(parameter), help=meaning)


def _metavar(parameter: Parameter) -> str:
    if parameter.annotation in ("StrPath", "Pixels", "MaskPixels"):
        return "PATH"
    return _METAVARS.get(parameter.name) or ("NAME" if parameter.kind is str else parameter.kind.__name__.upper())


def _in_words_of_flags(parameter: Parameter) -> str:
    """Return a parameter's description in words of the command line."""
    meaning = parameter.help.replace(" None: the engine's default.", "")
    meaning = (
        meaning.replace(" the engine's default, which is off", " off")
        .replace("0 or None: ", "None: 0, ")
        .replace("what None means", "the default")
    )
    meaning = re.sub(r"(\.\.\.|(?<!\.)\.) None: (.+)\.$", _default, meaning).removesuffix(".")
    if meaning.split(maxsplit=1)[0][1:].rstrip(":").islower() and not meaning.startswith(_PROPER_NAMES):
        meaning = meaning[0].lower() + meaning[1:]
    if parameter.path[0] == "high_noise_sample_params":
        meaning = f"high-noise model: {meaning}"
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: _FLAG_OF_FIELD.get(found[0], found[0]), meaning)


def _default(found: re.Match[str]) -> str:
    return f"{found[1].removesuffix('.') if found[1] == '.' else found[1]} (default: {found[2]})"


def in_flags(message: str, options: argparse.Namespace) -> str:
    """Replace the keywords in a message by flags: ``give resize= 'fit'`` becomes ``give --resize 'fit'``."""

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


def add_engine(command: argparse.ArgumentParser, *, tunes: bool = False, without: Collection[str] = ()) -> None:
    """Add the flags of model, backend and library, except `without`; and ``--tune``, unless the command `tunes`."""
    model = add_struct(command, "model and engine", ContextParams, without)
    model.add_argument("--circular", action="store_const", const=True, help="--circular-x and --circular-y")
    group = command.add_argument_group("where it runs")
    for name, (flags, metavar, meaning) in _ENGINE_ONLY.items():
        group.add_argument(*flags, dest=name, metavar=metavar, help=meaning)
    if not tunes:
        meaning = "use the settings that sdcffi tune stored for this model on this machine"
        group.add_argument("--tune", dest="tuned", action=argparse.BooleanOptionalAction, default=None, help=meaning)


def add_call(command: argparse.ArgumentParser, struct: type[Struct]) -> None:
    """Add the flags of a call that generates, of previews, and of the record in its files."""
    group = add_struct(command, "what to generate", struct)
    group.add_argument(
        "--resize",
        type=str.lower,
        choices=("error", "fit", "crop", "pad", "stretch"),
        metavar="HOW",
        help="if an input image has another size: error, fit, crop, pad or stretch (default: error)",
    )
    group.add_argument("--alpha", metavar="COLOUR", help=ALPHA_HELP)
    group.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a LoRA that does not fit the model is an error (default); otherwise it is left out with a warning",
    )
    group.add_argument(
        "--lora-tags",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="apply <lora:name:weight> in the prompt (default)",
    )
    group.add_argument("--timeout", type=float, metavar="SECONDS", help=TIMEOUT_HELP)
    preview = command.add_argument_group("previews")
    preview.add_argument(
        "--preview", metavar="HOW", choices=("proj", "tae", "vae"), help="save previews: proj, tae or vae"
    )
    preview.add_argument(
        "--preview-path",
        metavar="FILE",
        default="preview.png",
        help="file that each preview is written to (default: preview.png)",
    )
    preview.add_argument(
        "--preview-interval", type=int, default=1, metavar="STEPS", help="save one every STEPS steps (default: 1)"
    )
    preview.add_argument(
        "--preview-noisy", action="store_true", help="show the noisy latent, not the image that the model predicts"
    )
    record = command.add_argument_group("record in the files")
    record.add_argument(
        "--metadata",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the parameters into each file (default)",
    )
    record.add_argument(
        "--digests",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the sha256 of the model's files too (default)",
    )
    record.add_argument("--paths", action="store_true", help="write absolute paths of files, not only their names")


def arguments_of(options: argparse.Namespace, *, video: bool = False) -> Arguments:
    """Return the arguments in ``--params`` and in the flags; flags win."""
    from ..parameter_files import Arguments, as_arguments, read_arguments

    params = getattr(options, "params", None)
    given = {name: value for name, value in vars(options).items() if value is not None and name not in _OURS}
    written = read_arguments(params, video=video) if params else Arguments()
    return written.updated(as_arguments(given, "flags", video=video))


def preview_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of a call that writes its previews to a file, each one over the one before."""
    if options.preview is None:
        return {}
    from contextlib import suppress

    from .._files import replacing
    from ..engine.results import check_image_path
    from ..errors import OutputError
    from ..images.convert import to_pillow

    path = expanded(options.preview_path)
    image_format = check_image_path(path)

    def write(preview: Any) -> None:
        with suppress(OutputError), replacing(path) as temporary:  # the image is worth more than its previews
            to_pillow(preview.frames[0]).save(temporary, format=image_format)

    return {
        "preview": options.preview,
        "preview_interval": options.preview_interval,
        "preview_noisy": options.preview_noisy,
        "on_preview": write,
    }
