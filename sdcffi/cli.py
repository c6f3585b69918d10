"""The command line `sdcffi`; the only module that prints."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import SDError

if TYPE_CHECKING:
    from .events import Log, Progress

__all__ = ["main"]

_USAGE, _FAILURE, _INTERRUPTED = 2, 1, 130

# Flags have sd-cli's names; without their dashes they are the keywords of Engine and Engine.generate.
_PATHS = {
    "model": "a whole checkpoint",
    "diffusion-model": "a diffusion model alone",
    "high-noise-diffusion-model": "Wan 2.2's second diffusion model",
    "vae": "autoencoder",
    "taesd": "tiny autoencoder",
    "clip_l": "text encoder",
    "clip_g": "text encoder",
    "t5xxl": "text encoder",
    "llm": "text encoder",
    "clip_vision": "vision encoder",
    "llm_vision": "vision encoder",
    "control-net": "ControlNet",
    "photo-maker": "PhotoMaker",
}
_ENGINE_VALUES: dict[str, tuple[type, str]] = {
    "type": (str, "weight type to convert to while loading: f16, q8_0, q4_0, ..."),
    "tensor-type-rules": (str, "weight types by tensor name: REGEX=TYPE,..."),
    "threads": (int, "CPU threads"),
    "lora-apply-mode": (str, "auto, immediately or at_runtime"),
    "lora-dir": (str, "where adapters given by name, and <lora:name:weight> in prompts, are looked up"),
    "rng": (str, "std_default, cuda or cpu"),
    "sampler-rng": (str, "std_default, cuda or cpu"),
    "prediction": (str, "what the model predicts"),
    "backend": (str, "auto, cpu, cuda, vulkan, metal, ..."),
    "library": (str, "directory of the native build to use"),
}
_ENGINE_SWITCHES = {
    "offload-to-cpu": "keep weights in RAM, load them to the GPU when needed",
    "clip-on-cpu": "text encoders on the CPU",
    "vae-on-cpu": "autoencoder on the CPU",
    "control-net-cpu": "ControlNet on the CPU",
    "mmap": "read files through a memory map",
    "fa": "flash attention",
    "diffusion-fa": "flash attention in the diffusion model",
}
_CALL_VALUES: dict[str, tuple[type, str]] = {
    "negative-prompt": (str, "what to leave out"),
    "width": (int, "pixels"),
    "height": (int, "pixels"),
    "steps": (int, "denoising steps"),
    "cfg-scale": (float, "classifier-free guidance; 1 turns it off"),
    "guidance": (float, "guidance input of distilled models"),
    "sampler": (str, "euler, euler_a, dpm++2m, ..."),
    "scheduler": (str, "discrete, karras, simple, ..."),
    "eta": (float, "noise added back at each step"),
    "seed": (int, "0 and above; below 0 draws one"),
    "batch-count": (int, "number of pictures"),
    "clip-skip": (int, "last layers of CLIP to leave out"),
    "init-image": (str, "picture to start from"),
    "mask-image": (str, "white is drawn anew"),
    "strength": (float, "how far to go away from the init image, 0 to 1"),
    "control-image": (str, "ControlNet's hint"),
    "control-strength": (float, "weight of ControlNet"),
    "timeout": (float, "seconds that drawing may take"),
}

_GRID_SETS = ("seed", "batch-count")  # `lora grid` draws one picture for each of its seeds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name. None takes those of the process.

    Returns
    -------
    int
        0; 1 if it failed; 2 for bad arguments; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["build"]:
        from . import _build

        return _build.main(arguments[1:])
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        run: Callable[[argparse.Namespace], None] = options.run
        with _warnings_in_one_line():
            run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except (ValueError, TypeError) as error:
        return _fail(str(error), _USAGE)
    except SDError as error:
        for line in error.log if options.verbose else ():
            print(line, file=sys.stderr)
        return _fail(error.message, _FAILURE)
    except BrokenPipeError:  # whoever read our output has gone; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILURE
    except OSError as error:
        return _fail(str(error), _FAILURE)
    return 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_place: object) -> None:
        print(f"sdcffi: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _fail(message: str, status: int) -> int:
    print(f"sdcffi: error: {message}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """Tells errors in one line; the usage stands in --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sdcffi", description="Draw pictures with stable-diffusion.cpp.")
    parser.add_argument("--version", action="version", version=f"sdcffi {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(_command(commands, "generate", _generate, "draw pictures"))
    _add_convert(_command(commands, "convert", _convert, "write a model with other weight types"))
    _add_info(_command(commands, "info", _info, "what was built, and what it finds on this machine"))
    _add_demo(_command(commands, "demo", _demo, "draw with a tiny model made on the spot, with and without LoRA"))
    lora = commands.add_parser("lora", help="look into LoRA files, compare their strengths")
    lora_commands = lora.add_subparsers(required=True, metavar="COMMAND")
    _add_lora_inspect(
        _command(lora_commands, "inspect", _lora_inspect, "what a LoRA file holds, and with a model what would apply")
    )
    _add_lora_grid(_command(lora_commands, "grid", _lora_grid, "draw LoRAs at several strengths as a contact sheet"))
    commands.add_parser("build", help="build the native library for this machine", add_help=False)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(run=run)
    command.add_argument("-v", "--verbose", action="store_true", help="show the native log")
    return command


def _add_values(group: Any, values: dict[str, tuple[type, str]]) -> None:
    for flag, (kind, text) in values.items():
        group.add_argument(f"--{flag}", type=kind, help=text)


def _add_generate(command: argparse.ArgumentParser) -> None:
    command.add_argument("-p", "--prompt", required=True, help="what to draw")
    command.add_argument("-o", "--output", default="output.png", help="file to write; its ending chooses the format")
    command.add_argument(
        "--lora", action="append", default=[], metavar="PATH[:SCALE]", help="adapter and its strength; may be repeated"
    )
    _add_engine(command)
    picture = command.add_argument_group("picture")
    _add_values(picture, _CALL_VALUES)
    picture.add_argument("--ref-image", action="append", metavar="PATH", help="reference picture; may be repeated")


def _add_engine(command: argparse.ArgumentParser) -> None:
    model = command.add_argument_group("model")
    _add_values(model, {flag: (str, text) for flag, text in _PATHS.items()})
    engine = command.add_argument_group("engine")
    _add_values(engine, _ENGINE_VALUES)
    for flag, text in _ENGINE_SWITCHES.items():
        engine.add_argument(f"--{flag}", action="store_true", default=None, help=text)


def _add_lora_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", help="LoRA file: safetensors or gguf; ckpt is not looked into")
    command.add_argument("--json", action="store_true", help="for machines")
    _add_engine(command)


def _add_lora_grid(command: argparse.ArgumentParser) -> None:
    command.add_argument("-p", "--prompt", default="", help="what to draw")
    command.add_argument("-o", "--output", default="grid.png", help="file to write; its ending chooses the format")
    command.add_argument(
        "--lora", action="append", required=True, metavar="PATH", help="adapter, with rows of its own; may be repeated"
    )
    command.add_argument("--scales", default="0.25,0.5,0.75,1", help="strengths, a column each beside that of none")
    command.add_argument("--seeds", default="1", help="seeds, a row each")
    _add_engine(command)
    picture = command.add_argument_group("picture")
    _add_values(picture, {flag: value for flag, value in _CALL_VALUES.items() if flag not in _GRID_SETS})


def _add_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", help="model file")
    command.add_argument("output", help="file to write: .gguf, or .safetensors for float types")
    command.add_argument("--type", required=True, help="weight type: f16, q8_0, q4_0, ...")
    _add_values(command, {flag: _ENGINE_VALUES[flag] for flag in ("tensor-type-rules", "library")})
    command.add_argument("--vae", help="autoencoder to put into the file too")


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for machines")
    _add_values(command, {flag: _ENGINE_VALUES[flag] for flag in ("backend", "library")})


def _add_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", default=".", help="directory for the two pictures")
    command.add_argument("-p", "--prompt", default="a cat", help="what to draw")
    _add_values(command, {flag: _ENGINE_VALUES[flag] for flag in ("backend", "threads")})


def _keywords(options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    names = [flag.replace("-", "_") for flag in flags]
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _engine_keywords(options: argparse.Namespace) -> dict[str, Any]:
    return _keywords(options, [*_PATHS, *_ENGINE_VALUES, *_ENGINE_SWITCHES])


def _parse_lora(text: str) -> tuple[str, float]:
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        return path, float(scale)
    except ValueError:  # a colon of the path itself, such as a drive's
        return text, 1.0


def _generate(options: argparse.Namespace) -> None:
    from .engine import Engine
    from .result import check_picture_path

    check_picture_path(Path(options.output).expanduser())  # before minutes of work
    keywords = _keywords(options, list(_CALL_VALUES))
    loras = [_parse_lora(text) for text in options.lora]
    with _bars() as bars, Engine(**_engine_keywords(options), on_progress=bars, on_log=_logger(options)) as engine:
        result = engine.generate(options.prompt, loras=loras, ref_images=options.ref_image, **keywords)
    for report in result.loras:
        print(report, file=sys.stderr)
    for path, seed in zip(result.save(options.output), result.seeds, strict=True):
        print(f"{path} (seed {seed})")


def _lora_inspect(options: argparse.Namespace) -> None:
    from ._lora_commands import inspect
    from .engine import Engine

    path, fit = Path(options.file), None
    if options.model or options.diffusion_model:
        with Engine(**_engine_keywords(options), load_weights=False, on_log=_logger(options)) as engine:
            (fit,) = engine.check_loras([path])
    print("\n".join(inspect(path, options.json, fit)))


def _lora_grid(options: argparse.Namespace) -> None:
    from ._lora_commands import draw_grid, parse_numbers
    from .engine import Engine
    from .lora import as_loras
    from .result import check_picture_path

    output = Path(options.output).expanduser()
    check_picture_path(output)  # before minutes of work
    scales, seeds = parse_numbers(options.scales, float, "scales"), parse_numbers(options.seeds, int, "seeds")
    loras = as_loras(_parse_lora(text) for text in options.lora)
    keywords = _keywords(options, [flag for flag in _CALL_VALUES if flag not in _GRID_SETS])
    with _bars() as bars, Engine(**_engine_keywords(options), on_progress=bars, on_log=_logger(options)) as engine:
        generate = functools.partial(engine.generate, options.prompt, **keywords)
        print(draw_grid(generate, loras, scales, seeds, output, options.prompt))


def _convert(options: argparse.Namespace) -> None:
    from .conversion import convert

    keywords = _keywords(options, ["type", "vae", "tensor-type-rules", "library"])
    with _bars() as bars:
        print(convert(options.input, options.output, **keywords, on_progress=bars, on_log=_logger(options)))


def _demo(options: argparse.Namespace) -> None:
    from . import demo

    keywords = _keywords(options, ["backend", "threads"])
    with _bars() as bars:
        report = demo.run(
            output=options.output, prompt=options.prompt, on_progress=bars, on_log=_logger(options), **keywords
        )
    print(report)


def _info(options: argparse.Namespace) -> None:
    from ._calls import run_alone
    from ._session import Opening
    from .events import Listeners

    opening = Opening(options.library, options.backend or "auto")
    found = run_alone(opening, "describe", listeners=Listeners(_logger(options)))
    report = {
        "sdcffi": __version__,
        "directory": str(found.directory),
        "layout": "ok",  # loading raises otherwise
        "upstream_commit": found.upstream_commit,
        "ggml": found.ggml_version,
        "device": found.device.as_dict(),
        "devices": [device.as_dict() for device in found.devices],
        "skipped": found.skipped,
        "manifest": found.manifest,
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print("\n".join(_describe(report)))


def _describe(report: dict[str, Any]) -> Iterator[str]:
    manifest = report["manifest"]
    upstream, compiler = manifest.get("upstream", {}), manifest.get("compiler", {})
    yield f"sdcffi {report['sdcffi']}, native build in {report['directory']}"
    yield f"engine: stable-diffusion.cpp {report['upstream_commit']}, ggml {report['ggml']}"
    yield f"source: {upstream.get('source')} {upstream.get('version')}, {len(manifest.get('patches', []))} patches"
    yield f"compiler: {compiler.get('id')} {compiler.get('version')}, built {manifest.get('built')}"
    yield f"CPU build: {manifest.get('cpu')}, backends: {', '.join(manifest['backends'])}"
    for name, value in sorted(manifest.get("options", {}).items()):
        yield f"  {name}={value}"
    yield f"layout: {report['layout']}"
    for device in report["devices"]:
        mark = "  <- used" if device == report["device"] else ""
        memory = f"{device['memory_total'] / 2**30:.1f} GiB"
        yield f"device {device['name']} ({device['backend']}): {device['description']}, {memory}{mark}"
    for name, reason in report["skipped"].items():
        yield f"backend {name} passed over: {reason}"


def _logger(options: argparse.Namespace) -> Callable[[Log], None] | None:
    if not options.verbose:
        return None
    return lambda record: print(f"{record.level}: {record.text}", file=sys.stderr)


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    """Show one tqdm bar for each phase on standard error, where that is a terminal."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(progress: Progress) -> None:
        bar = bars.get(progress.phase)
        if bar is None or bar.total != progress.steps or progress.step < bar.n:
            if bar is not None:
                bar.close()
            bar = bars[progress.phase] = tqdm(total=progress.steps, desc=progress.phase, disable=None)
        bar.update(progress.step - bar.n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()
