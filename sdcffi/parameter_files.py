"""Parameters by name, from a file that a user writes, from a line of a batch, or from flags.

    model = "sd_xl_turbo_1.0.q8_0.gguf"     # TOML; the same as JSON: {"model": "...", ...}
    prompt = "a lovely cat"
    width = 512
    height = 512
    steps = 4
    cfg_scale = 1.0
    loras = [{path = "ink.safetensors", multiplier = 0.8}, "night.safetensors"]
    vae_tiling = true
    cache = {mode = "easycache", reuse_threshold = 0.2}

Names are those of `params.names`, keywords of `Engine` and its calls, and structs (``tiling``, ``cache``, ``hires``,
``slg``, ``high_noise``, ``context``, ``params``), whose tables have the C names. Paths, also those of images, are
relative to the current directory.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from ._files import expanded
from ._numbers import as_path
from ._quoting import shown
from ._records.finding import find_files, find_some_files
from ._records.record import Record
from ._records.webui import read_webui_text
from ._references import parse
from ._warnings import warn
from .engine.engine import Engine
from .images.files import file_content
from .images.texts import read_texts
from .params.context import ContextParams, Embedding
from .params.image import ImageParams
from .params.lora import Lora
from .params.lora_tags import parse_strength, split_strength
from .params.names import Parameter, build, flatten, parameters
from .params.plain import check_keys, decode, plain, read_table
from .params.struct import StrPath, Struct
from .params.video import VideoParams
from .reproduction import restored

__all__ = ["Arguments", "as_arguments", "call_names", "parse_lora", "parse_mask", "pixels_of", "read_arguments"]

_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
_SIDE, _FRAMES = 1024, 33  # the most that a family of models has as its own, where no size is given
_WHOLE = {"defaults": "engine"}  # what a record or another program's text lacks was not the model's
Values = dict[tuple[str, ...], Any]

# For the keywords that take a struct, the path of its C field.
_TABLES = {
    "params": (),
    "tiling": ("vae_tiling_params",),
    "cache": ("cache",),
    "hires": ("hires",),
    "slg": ("sample_params", "guidance", "slg"),
    "high_noise": ("high_noise_sample_params",),
}
# Keywords of a run, which do not change what is generated.
_OF_A_RUN = frozenset(
    {"self", "timeout", "grace", "isolated", "restart", "on_log", "on_progress", "on_preview", "load_weights", "fps"}
    | {"preview", "preview_interval", "preview_noisy"}
)


@dataclass(frozen=True)
class Arguments:
    """Keyword arguments for ``Engine(**arguments.engine).generate(**arguments.generate)``.

    Attributes
    ----------
    call : type
        `ImageParams` or `VideoParams`.
    context_values, call_values : dict
        Values by the path of their C fields.
    engine_others, call_others : dict
        Keywords that are not C fields: ``backend``, ``resize``, ...
    """

    call: type[ImageParams] | type[VideoParams] = ImageParams
    context_values: Values = field(default_factory=dict)
    call_values: Values = field(default_factory=dict)
    engine_others: dict[str, Any] = field(default_factory=dict)
    call_others: dict[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> dict[str, Any]:
        """Keywords of `Engine`."""
        return {**self.engine_others, "context": build(ContextParams, self.context_values)}

    @property
    def generate(self) -> dict[str, Any]:
        """Keywords of `Engine.generate`, or of `Engine.generate_video`."""
        params = build(self.call, self.call_values)
        return {"prompt": params.prompt, **self.call_others, "params": params}

    def table(self) -> dict[str, Any]:
        """Return them as plain data by name, for `as_arguments` and JSON."""
        named = {item.path: item.name for item in (*parameters(ContextParams), *parameters(self.call))}
        values = {named[path]: plain(value) for path, value in {**self.context_values, **self.call_values}.items()}
        return {**values, **self.engine_others, **self.call_others}

    def updated(self, other: Arguments) -> Arguments:
        """Return these arguments with the values that are set in `other`."""
        return Arguments(
            other.call,
            self.context_values | other.context_values,
            self.call_values | other.call_values,
            self.engine_others | other.engine_others,
            self.call_others | other.call_others,
        )


def read_arguments(path: StrPath | bytes | IO[bytes], *, video: bool = False) -> Arguments:
    """Read a file of parameters, JSON or TOML, or those in an image.

    Parameters
    ----------
    path : path, bytes or open file
        A table of names, or a record that was written with the paths of its files:
        ``result.record(paths=True).to_file(...)``. A record does not contain input images. Or a PNG, JPEG or WebP of
        `Result.save`, of AUTOMATIC1111's web interface, or of a program that writes its text too: the files of the
        model that are not where they were, or in the current directory, are left out, and to be given besides. The
        bytes of an image, or one that is open, are read too.
    video : bool
        True reads parameters of `Engine.generate_video`.

    Returns
    -------
    Arguments
        Keyword arguments for ``Engine(**arguments.engine)`` and ``engine.generate(**arguments.generate)``.

    Raises
    ------
    TypeError, ValueError
        If the file cannot be read, or has an unknown name; the message has similar ones. The calls check values.
    """
    if isinstance(path, (bytes, bytearray, memoryview)) or hasattr(path, "read"):
        content = path if isinstance(path, (bytes, bytearray, memoryview)) else file_content(path, "image")
        return _of_image(io.BytesIO(content), "the image", video)
    path = as_path("path", path)
    if Path(path).suffix.lower() in _IMAGES:
        return _of_image(expanded(path), str(expanded(path)), video)
    return as_arguments(read_table(path), str(path), video=video)


def _of_image(source: Path | io.BytesIO, name: str, video: bool) -> Arguments:
    parameters, record = read_texts(source, name)
    if record is None and parameters is not None:
        text = read_webui_text(parameters, name)
        if video:
            raise ValueError(f"{name} has the parameters of an image, not of a video")
        for advice in dict.fromkeys(text.advice.values()):
            names = ", ".join(name for name, its in text.advice.items() if its == advice)
            warn(f"{name}: not used: {names}: {advice}")
        if text.params.strength is not None:
            warn(f"{name} was generated from an input image, which it does not contain: pass init_image=")
        context = ContextParams(rng_type=text.rng)
        return Arguments(ImageParams, flatten(context), flatten(text.params), dict(_WHOLE))
    found = Record.from_texts(parameters, record, name)
    files = find_some_files(found)
    arguments = _of_record(found, files)
    if video != (arguments.call is VideoParams):
        raise ValueError(f"{name} has the parameters of {'an image' if video else 'a video'}")
    if found.images:
        warn(f"{name} was generated with input images that it does not contain ({_roles(found)}): give them besides")
    missing = {file.role for file in found.files} - files.keys()
    kept = {name: value for name, value in arguments.context_values.items() if name[-1] not in missing}
    calls = dict(arguments.call_values)
    if loras := calls.get(("loras",)):  # one that is not there is looked up in lora_dir, by its name without the ending
        calls["loras",] = [
            replace(lora, path=Path(lora.path).stem) if f"loras[{index}].path" in missing else lora
            for index, lora in enumerate(loras)
        ]
    return replace(arguments, context_values=kept, call_values=calls)


def as_arguments(table: Mapping[str, Any], source: str = "parameters", *, video: bool = False) -> Arguments:
    """Return the arguments in a table that is already read, such as a line of JSON; messages call it `source`."""
    if "sdcffi" in table:
        record = Record.from_dict(table, source)
        if record.images:
            raise ValueError(
                f"{source}: needs input images that it does not contain ({_roles(record)}); give them to replay()"
            )
        return _of_record(record, find_files(record))
    call: type[ImageParams] | type[VideoParams] = VideoParams if video else ImageParams
    tables = {name: value for name, value in table.items() if isinstance(value, Mapping) and name != "embeddings"}
    flat = {name: value for name, value in table.items() if name not in tables}
    of_context, of_call = ({item.name: item for item in parameters(struct)} for struct in (ContextParams, call))
    engine_others = _keywords(Engine) - of_context.keys() - {"context"}
    call_others = _keywords(Engine.generate_video if video else Engine.generate) - of_call.keys() - _TABLES.keys()
    check_keys(flat, of_context.keys() | of_call.keys() | engine_others | call_others, source)
    legal = _legal_tables(call) if tables else {}
    check_keys(tables, {"context", *legal}, source)
    nested: Values = {}
    for name, path in legal.items():
        if name in tables:
            nested |= dict(_leaves(call, tables[name], f"{source}: {name}", path))
    return Arguments(
        call,
        dict(_leaves(ContextParams, tables["context"], f"{source}: context") if "context" in tables else ())
        | {item.path: _value(item, flat[name], source) for name, item in of_context.items() if name in flat},
        nested | {item.path: _value(item, flat[name], source) for name, item in of_call.items() if name in flat},
        {name: value for name, value in flat.items() if name in engine_others},
        {name: value for name, value in flat.items() if name in call_others},
    )


def call_names(call: type[ImageParams] | type[VideoParams]) -> set[str]:
    """Return the names that the parameters of a call may have, without those of the engine."""
    names = {item.name for item in parameters(call)}
    function = Engine.generate if call is ImageParams else Engine.generate_video
    return names | _legal_tables(call).keys() | (_keywords(function) - _TABLES.keys())


@cache
def _keywords(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters) - _OF_A_RUN


def _legal_tables(call: type[Struct]) -> dict[str, tuple[str, ...]]:
    first = {item.path[0] for item in parameters(call)}
    return {name: path for name, path in _TABLES.items() if not path or path[0] in first}


def _leaves(
    struct: type[Struct], table: Mapping[str, Any], where: str, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a table of C names by their paths."""
    below = {item.path[len(above) :]: item for item in parameters(struct) if item.path[: len(above)] == above}
    check_keys(table, {path[0] for path in below}, where)
    for name, value in table.items():
        if (name,) in below:
            yield (*above, name), _value(below[name,], value, where)
        elif isinstance(value, Mapping):
            yield from _leaves(struct, value, f"{where}.{name}", (*above, name))
        else:
            raise TypeError(f"{where}.{name} must be a table of parameters, not {shown(value)}")


def _value(parameter: Parameter, value: Any, source: str) -> Any:
    where = f"{source}: {parameter.name}"
    if parameter.annotation == "Lora":
        return [_lora(item, f"{where}[{index}]") for index, item in enumerate(_listed(value, where))]
    if parameter.annotation == "Embedding":
        items = [{"name": n, "path": p} for n, p in value.items()] if isinstance(value, Mapping) else value
        return [_embedding(item, f"{where}[{index}]") for index, item in enumerate(_listed(items, where))]
    return parse_mask(value) if parameter.annotation == "MaskPixels" and isinstance(value, str) else value


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{where} must be a list, not {shown(value)}")
    return value


def _lora(item: Any, where: str) -> Any:
    if isinstance(item, Mapping):
        return decode(Lora, item, where)
    if isinstance(item, str):
        return parse_lora(item)
    return tuple(item) if isinstance(item, list) else item


def parse_lora(text: str) -> Lora:
    """Read ``PATH[:SCALE]``, or strengths of parts and blocks: ``PATH:UNET:TE``, ``PATH:SCALE:lbw=OUTALL``.

    Without a number, the multiplier is None.

    Raises
    ------
    ValueError
        If a preset of blocks is unknown.
    """
    path, strength = split_strength(text)
    if not strength or Path(text).exists():
        return Lora(text)
    multiplier, weights = parse_strength(strength, text)
    return Lora(path, multiplier, weights=weights)


def parse_mask(text: str) -> str | tuple[int, ...]:
    """Read ``LEFT,TOP,RIGHT,BOTTOM``, or a path."""
    return tuple(map(int, text.split(","))) if re.fullmatch(r"\d+(,\d+){3}", text) else text


def _embedding(item: Any, where: str) -> Embedding:
    """Read a table, or ``NAME=PATH``; the name of a path alone is its stem, as in sd-cli."""
    if isinstance(item, str):
        reference = parse(item)
        name, equals, path = item.partition("=")
        if reference is None and equals:
            item = {"name": name, "path": path}
        else:
            item = {"name": Path(item if reference is None else reference.name).stem, "path": item}
    return decode(Embedding, item, where)


def _roles(record: Record) -> str:
    return ", ".join(image.role for image in record.images)


def _of_record(record: Record, files: Mapping[str, Path]) -> Arguments:
    context, params = restored(record, files, whole=False)
    params = replace(params, seed=record.seed - record.index)
    others = {"backend": record.backend, **_WHOLE}
    return Arguments(type(params), flatten(context), flatten(params), others, {"lora_tags": False})


def pixels_of(given: Arguments, factor: float = 1) -> int:
    """Return about how many pixels a call will generate, for the space that they need.

    Parameters
    ----------
    given : Arguments
    factor : float
        Factor by which width and height are enlarged afterwards.
    """
    many, default = ("video_frames", _FRAMES) if given.call is VideoParams else ("batch_count", 1)
    width, height = (_number(given.call_values, name, _SIDE) for name in ("width", "height"))
    return round(width * height * _number(given.call_values, many, default) * factor**2)


def _number(values: Mapping[tuple[str, ...], Any], name: str, default: int) -> int:
    """Return a value that is not checked yet: what is no sensible number is refused later."""
    value = values.get((name,))
    return value if isinstance(value, int) and 0 < value <= 1 << 17 else default
