"""``sdcffi grid``: compare values of one or two parameters in one contact sheet."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._files import expanded
from .._quoting import shown as quoted
from ..params.image import ImageParams
from ..params.names import parameters
from ..params.other_names import keyword_hint, with_engine_names
from ..params.sampling import SampleParams
from ._flags import (
    PARAMS_HELP,
    SHORT_CALL,
    SHORT_MODEL,
    SHORT_RUN,
    add_command,
    add_engine,
    add_struct,
    arguments_of,
    in_flags,
)
from ._parser import PROMPTS, as_utf8
from ._sheets import generate_sheet
from ._terminal import logger, progress_bar

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..parameter_files import Arguments

__all__ = ["Axis", "add"]

_MOST_IMAGES = 400  # in a sheet
_SHORT = {
    "contact sheet": {
        "--x": "parameter of the columns, as steps=4,8,12",
        "--y": "parameter of the rows, as sampler=euler,dpm++2m",
        "--output": "file to write (default: grid.png)",
    },
    "model": {**SHORT_MODEL["model"], "--lora": "LoRA and its strength; may be repeated"},
    "what to generate": {**SHORT_CALL, "--seed": "random seed of all images (default: 1)"},
    "how to run": SHORT_RUN,
}


@dataclass(frozen=True)
class Axis:
    """One side of the sheet.

    Attributes
    ----------
    name : str
        The parameter, as in parameter files. Empty: one image that is as the flags say.
    values : tuple
        Its values.
    """

    name: str = ""
    values: tuple[Any, ...] = (None,)

    @property
    def labels(self) -> list[str]:
        """One label for each value."""
        return [
            f"{self.name} {value:g}" if isinstance(value, float) else f"{self.name} {value}" for value in self.values
        ]

    def table(self, value: Any) -> dict[str, Any]:
        """Return the parameter with one value."""
        if self.name == "loras":
            return {"loras": [] if value == "none" else [value]}
        return {self.name: value} if self.name else {}


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "grid", _run, "compare values of one or two parameters in one image", short=_SHORT)
    command.add_argument(
        "-o",
        "--output",
        default="grid.png",
        metavar="FILE",
        help="file to write; its ending chooses the format (default: grid.png)",
    )
    meaning = "values separated by commas, or by | where they contain commas"
    command.add_argument("--x", required=True, metavar="NAME=V,V,...", help=f"parameter of the columns: {meaning}")
    command.add_argument("--y", metavar="NAME=V,V,...", help=f"parameter of the rows: {meaning}")
    command.add_argument("--params", metavar="FILE", help=PARAMS_HELP)
    add_struct(command, "what to generate", ImageParams, ("batch_count",))
    add_engine(command)


def parse_axis(text: str, flag: str) -> Axis:
    """Read ``NAME=V,V,...``, where the values may be separated by ``|`` instead.

    Raises
    ------
    ValueError
        If the parameter is not one of an image, or a value is not of its type, or is given twice.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not equals:
        raise ValueError(f"{flag} must have the form NAME=VALUE,VALUE,..., such as steps=4,8,12, not {text!r}")
    name = "loras" if name == "lora" else name
    legal = {item.name: item for item in parameters(ImageParams) if item.name != "batch_count"}
    if name not in legal:
        hint = keyword_hint(name, legal)
        near = f"use {hint}" if hint.partition(" ")[0] in legal else f"use one of {', '.join(sorted(legal))}"
        raise ValueError(f"{flag}: {name!r} is not a parameter of an image; {near}")
    item = legal[name]
    if item.many and name != "loras":
        raise ValueError(f"{flag}: {name} is a list, whose values cannot be told apart; use another parameter")
    if item.name in PROMPTS:
        rest = as_utf8(rest)
    words = [word.strip() for word in rest.split("|" if "|" in rest else ",")]
    values = tuple(_value(word, item.kind, f"{flag}: {name}") for word in words)
    if len({*values}) < len(values):
        raise ValueError(f"{flag}: {name} must have different values, not {rest!r}")
    return Axis(name, values)


def _value(word: str, kind: type, where: str) -> Any:
    if kind is bool and word.lower() in ("true", "on", "yes", "false", "off", "no"):
        return word.lower() in ("true", "on", "yes")
    try:
        if kind is bool or not word:
            raise ValueError
        return kind(word)
    except ValueError:
        legal = "on or off" if kind is bool else f"of type {kind.__name__}"
        raise ValueError(f"{where} must have values that are {legal}, not {word!r}") from None


def _run(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine
    from ..engine.results import check_image_path

    output = expanded(options.output)
    check_image_path(output)  # before minutes of work
    x = parse_axis(options.x, "--x")
    y = parse_axis(options.y, "--y") if options.y else Axis()
    if x.name == y.name:
        raise ValueError(f"--x and --y are both {x.name}: leave --y out, or use another parameter")
    if len(x.values) * len(y.values) > _MOST_IMAGES:
        raise ValueError(f"a grid has at most {_MOST_IMAGES} images, not {len(x.values) * len(y.values)}")
    given = arguments_of(options)
    cells = dict(_cells(given, x, y))
    with progress_bar() as shown, Engine(**given.engine, on_progress=shown, on_log=logger(options)) as engine:
        for axis, flag in ((x, "--x"), (y, "--y")):
            _check_names(axis, flag, engine)
        path = generate_sheet(
            lambda place: engine.generate(**cells[place]).images[0],
            cells,
            [[(column, row) for column in x.values] for row in y.values],
            (y.labels if y.name else [" "], x.labels),
            output,
            title=str(given.call_values.get(("prompt",), "")),
            said=lambda place: ", ".join(str(value) for value in place if value is not None),
            explained=lambda message: in_flags(message, options),
        )
    print(path)


def _cells(given: Arguments, x: Axis, y: Axis) -> Iterator[tuple[tuple[Any, Any], dict[str, Any]]]:
    """Yield the keywords of each image by its values; all have the same seed unless it is one of the axes."""
    from ..parameter_files import as_arguments

    seed = given.call_values.get(("seed",))
    if isinstance(seed, int) and seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}: all images need the same seed")
    base = as_arguments({"seed": 1}, "grid").updated(given)
    for row in y.values:
        for column in x.values:
            table = {**x.table(column), **y.table(row)}
            keywords = base.updated(as_arguments(table, "grid")).generate
            if not isinstance(keywords["prompt"], str):
                raise ValueError("there is no prompt: give --prompt, or make it an axis, as --y 'prompt=a cat|a dog'")
            yield (column, row), keywords


def _check_names(axis: Axis, flag: str, engine: Engine) -> None:
    """Refuse samplers and schedules that the engine does not have, before the first image."""
    if axis.name not in ("sampler", "scheduler"):
        return
    offered = engine.capabilities()
    legal: Sequence[str] = offered.samplers if axis.name == "sampler" else offered.schedulers
    field = "sample_method" if axis.name == "sampler" else axis.name
    names = {"sample_method_t": tuple(offered.samplers), "scheduler_t": tuple(offered.schedulers)}
    for value in axis.values:
        found = getattr(with_engine_names(SampleParams(**{field: value}), names), field)
        if found not in (None, *legal):
            raise ValueError(f"{flag}: {axis.name} must be one of {', '.join(legal)}, not {quoted(value)}")
