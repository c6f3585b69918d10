"""The command line `sdcffi`: the only part of the package that prints. Each command has its own module."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence

from .._version import __version__
from ..errors import SDError
from . import (
    completion,
    convert,
    demo,
    devices,
    doctor,
    generate,
    grid,
    info,
    lora,
    models,
    replay,
    serve,
    tokens,
    tune,
    upscale,
    video,
)
from ._flags import in_flags
from ._parser import USAGE_STATUS, HelpAll, Parser
from ._terminal import give_up, open_closed_streams, printable_output, say, warnings_in_one_line

__all__ = ["main", "parser"]

_FAILURE, _INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name. None: those of the process.

    Returns
    -------
    int
        Exit status: 0 for success; 1 for a failure, or for `replay` if the pixels differ; 2 for bad arguments; 130
        after Ctrl-C.
    """
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a prompt may have characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    with printable_output():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["build"]:
        from .. import _build

        return _build.main(arguments[1:])
    try:
        options = parser().parse_args(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        run: Callable[[argparse.Namespace], int | None] = options.run
        with warnings_in_one_line(options):
            status = run(options) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(options, "interrupted", "KeyboardInterrupt", _INTERRUPTED)
    except (ValueError, TypeError) as error:
        return _fail(options, str(error), type(error).__name__, USAGE_STATUS)
    except SDError as error:
        for line in error.log if options.verbose else ():
            say(line)
        return _fail(options, error.message, type(error).__name__, _FAILURE)
    except BrokenPipeError:  # the reader of our output has ended; Python would complain again when it flushes at exit
        give_up(sys.stdout)
        return _FAILURE
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # it was the output
            give_up(sys.stdout)
        return _fail(options, str(error), type(error).__name__, _FAILURE)
    return status


def _fail(options: argparse.Namespace, message: str, kind: str, status: int) -> int:
    message = in_flags(_in_one_line(message), options)
    say(f"sdcffi: error: {message}")
    if getattr(options, "json", False):
        try:
            print(json.dumps({"error": message, "type": kind}), flush=True)
        except OSError:  # perhaps this is what failed
            give_up(sys.stdout)
    return status


def _in_one_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().split("\n")]
    joined = (line + ("" if line.endswith((":", ";", ".", ",")) else ";") for line in lines[:-1] if line)
    return " ".join([*joined, lines[-1]])


def parser() -> Parser:
    """Return the parser of all commands. A command imports what it needs when it runs."""
    whole = Parser(
        prog="sdcffi",
        usage="sdcffi COMMAND [options]",
        description="Generate images and videos with stable-diffusion.cpp.",
    )
    whole.short_end = (
        'Example: sdcffi generate -m model.gguf -p "a cat" -o cat.png\n'
        "Most used flags of a command: sdcffi COMMAND --help\n"
        "Every flag of a command: sdcffi COMMAND --help-all"
    )
    whole.add_argument("--help-all", action=HelpAll, help=argparse.SUPPRESS)
    whole.add_argument("--version", action="version", version=f"sdcffi {__version__}")
    commands = whole.add_subparsers(required=True, prog="sdcffi", metavar="COMMAND")
    for command in (
        generate,
        grid,
        video,
        upscale,
        convert,
        replay,
        serve,
        tune,
        models,
        tokens,
        lora,
        devices,
        doctor,
        info,
        demo,
    ):
        command.add(commands)
    completion.add(commands, whole)
    commands.add_parser("build", help="build the native library on this machine", add_help=False)
    whole.short = {"commands": {command.dest: str(command.help) for command in commands._choices_actions}}
    return whole
