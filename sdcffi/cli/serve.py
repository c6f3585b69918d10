"""``sdcffi serve``: offer models over HTTP, with a page for the browser."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import expanded, read_whole, unreadable
from .._quoting import shown_path
from ..errors import SDError
from ..params.context import ContextParams
from ..params.names import parameters
from ._flags import SHORT_MODEL, add_command, add_engine, arguments_of
from ._parser import as_utf8
from ._terminal import say

if TYPE_CHECKING:
    from ..serve.config import ServeConfig

__all__ = ["add"]

SHORT = {
    "models": {
        "MODEL": "checkpoint to serve",
        "--demo": "serve the small model in the package",
        "--model": "further checkpoint, as NAME=PATH; may be repeated",
        "--upscaler": "upscaling network, as NAME=PATH; may be repeated",
        "--lora-dir": "directory of the LoRAs that clients may name",
        "--config": "read everything from a .toml file; flags win",
        **{flag: text for flag, text in SHORT_MODEL["model"].items() if flag != "--model"},
    },
    "who may use it": {
        "--host": "address to listen on (default: 127.0.0.1, this machine alone)",
        "--port": "port to listen on (default: 7860)",
        "--keys": "file with a line NAME KEY for each client",
        "--insecure": "listen on any address without keys",
    },
    "results": {"--store": "directory in which they are kept for a day"},
}
_OF_CONFIG = ("host", "port", "store", "memory", "workers")
_OWN = {"checkpoint", "demo", "models", "upscalers", "config", "keys", "insecure", *_OF_CONFIG}
_PARTS = {item.name for item in parameters(ContextParams) if item.annotation in ("StrPath", "Embedding")}
_MOST_KEYS = 1 << 20  # bytes of the file


def add(commands: Any) -> None:
    """Add the command."""
    text = "offer models over HTTP, with a page for the browser"
    command = add_command(commands, "serve", _run, text, arguments="[MODEL]", short=SHORT)
    command.add_argument("checkpoint", nargs="?", metavar="MODEL", help="whole checkpoint, or a diffusers directory")
    group = command.add_argument_group("server")
    group.add_argument("--demo", action="store_true", help="serve the small model in the package")
    group.add_argument(
        "--model",
        dest="models",
        action="append",
        type=_named,
        default=[],
        metavar="NAME=PATH",
        help="further checkpoint; may be repeated",
    )
    group.add_argument(
        "--upscaler",
        dest="upscalers",
        action="append",
        type=_named,
        default=[],
        metavar="NAME=PATH",
        help="upscaling network; may be repeated",
    )
    group.add_argument(
        "--config", metavar="FILE", help="read models, limits and keys from a .toml or .json file; flags win"
    )
    group.add_argument(
        "--host", type=as_utf8, metavar="ADDRESS", help="address to listen on (default: 127.0.0.1, this machine alone)"
    )
    group.add_argument("--port", type=int, metavar="INT", help="port to listen on; 0: any that is free (default: 7860)")
    group.add_argument(
        "--keys", metavar="FILE", help="file with a line NAME KEY for each client that may use the server"
    )
    group.add_argument("--insecure", action="store_true", help="listen on any address without keys")
    group.add_argument("--store", metavar="DIR", help="directory in which results are kept (default: in the cache)")
    group.add_argument(
        "--memory", type=int, metavar="BYTES", help="size of the weights that may be loaded (default: what is free)"
    )
    group.add_argument(
        "--workers", type=int, metavar="INT", help="number of models that work at the same time (default: 1)"
    )
    add_engine(command, without=("model",))


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=PATH, not {text!r}")
    return name, path


def _run(options: argparse.Namespace) -> None:
    try:
        from ..serve.run import run
    except ImportError as error:
        raise SDError(str(error)) from error
    config = _config(options)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.getLogger("sdcffi").setLevel(logging.INFO if options.verbose else logging.WARNING)
    for name in ("sdcffi.serve", "sdcffi.access"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("uvicorn", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    names = ", ".join(model.name for model in config.models)
    run(config, lambda address: say(f"sdcffi: serving {names} at {address}"))


def _config(options: argparse.Namespace) -> ServeConfig:
    from ..demo import demo_model
    from ..serve.config import ModelConfig, ServeConfig

    given = {name: value for name, value in vars(options).items() if name not in _OWN}
    engine = arguments_of(argparse.Namespace(**given)).table()
    changes = {name: getattr(options, name) for name in _OF_CONFIG}
    changes |= {"lora_dir": engine.pop("lora_dir", None), "insecure": options.insecure or None}
    if options.keys is not None:
        changes["keys"] = _keys(expanded(options.keys, "keys"))
    shared = {name: value for name, value in engine.items() if name not in _PARTS}
    models = []
    if options.checkpoint is not None or "diffusion_model" in engine:
        files = {} if options.checkpoint is None else {"model": options.checkpoint}
        path = Path(options.checkpoint if options.checkpoint is not None else engine["diffusion_model"])
        models.append(ModelConfig.of(path.stem or path.resolve().name, {**engine, **files}))
    models += [ModelConfig.of(name, {**shared, "model": path}) for name, path in options.models]
    if options.demo:
        demo = {name: str(path) for name, path in demo_model().items()}
        models.append(ModelConfig.of("demo", {**shared, **demo}))
    if engine and not models:
        raise ValueError(f"{', '.join(engine)}: these flags are for a model on the command line: name one, as MODEL")
    names = {name: value for name, value in shared.items() if name in ("backend", "library", "threads")}
    models += [ModelConfig.upscaler(name, {**names, "model": path}) for name, path in options.upscalers]
    if options.config is not None:
        return ServeConfig.from_file(options.config, models=models, **changes)
    return ServeConfig.of({}, models=models, **changes)


def _keys(path: Path) -> dict[str, str]:
    """Read a file of keys: a line ``NAME KEY`` for each client; ``#`` begins a comment."""
    try:
        lines = read_whole(path, _MOST_KEYS).decode().splitlines()
    except (OSError, ValueError) as error:
        raise unreadable(f"{shown_path(path)} cannot be read: {error}", error) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, *key = words
        if len(key) != 1 or name in found:
            raise ValueError(f"{shown_path(path)}, line {number} must be NAME KEY, and each name must be there once")
        found[name] = key[0]
    if not found:
        raise ValueError(f"{shown_path(path)} has no keys: write a line NAME KEY for each client")
    return found
