"""Parameters as plain data and back: for parameter files, and for the record in an image.

`detach` takes out what a parameter struct refers to outside of itself (files and images), each under its role: the path
of the C field, such as ``"model_path"``, ``"loras[0].path"`` or ``"ref_images[1]"``.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .._files import expanded, read_whole, unreadable
from .._quoting import shortened, shown, shown_path
from .other_names import keyword_hint
from .struct import StrPath, Struct, struct_named

__all__ = [
    "attach_files",
    "attach_images",
    "check_keys",
    "decode",
    "detach",
    "encode",
    "parse_json",
    "plain",
    "read_table",
]

_LONGEST_KEY = 100  # characters that are compared with the legal names
_MOST_JSON = 4 << 20  # bytes; a record with the longest prompts has less than 2 MiB
_MOST_TOML = 1 << 20  # bytes; its parser is written in Python
# A key of a hundred parts, for which the parser takes time by the square of them.
_LONG_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")
_S = TypeVar("_S", bound=Struct)


def detach(struct: _S, prefix: str = "") -> tuple[_S, dict[str, Path], dict[str, np.ndarray[Any, Any]]]:
    """Take files and images out of a struct.

    Returns
    -------
    struct : Struct
        Plain data that `decode` can read: names of files in place of their paths, and no images.
    files : dict of str to Path
        The paths by role.
    images : dict of str to array
        The images by role.
    """
    files: dict[str, Path] = {}
    images: dict[str, np.ndarray[Any, Any]] = {}
    changes: dict[str, Any] = {}
    for name, value in struct.given().items():
        role = f"{prefix}{name}"
        if name.endswith("path"):
            files[role] = Path(value)
            changes[name] = Path(value).name
        elif isinstance(value, np.ndarray) and value.ndim == 3:
            images[role] = value
            changes[name] = None
        elif isinstance(value, Struct):
            changes[name], more, inner = detach(value, f"{role}.")
            files |= more
            images |= inner
        elif _holds(value, Struct):
            parts = [detach(item, f"{role}[{index}].") for index, item in enumerate(value)]
            changes[name] = [part for part, _, _ in parts]
            files |= {key: path for _, more, _ in parts for key, path in more.items()}
        elif _holds(value, np.ndarray):
            images |= {f"{role}[{index}]": item for index, item in enumerate(value)}
            changes[name] = None
        else:
            changes[name] = plain(value)
    return replace(struct, **changes), files, images  # type: ignore[type-var]


def _holds(value: Any, kind: type) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(item, kind) for item in value)


def attach_files(struct: _S, files: Mapping[str, Path], prefix: str = "") -> _S:
    """Return the struct with the paths of `files` in their roles; others stay."""
    changes: dict[str, Any] = {}
    for name, value in struct.given().items():
        role = f"{prefix}{name}"
        if role in files:
            changes[name] = files[role]
        elif isinstance(value, Struct):
            changes[name] = attach_files(value, files, f"{role}.")
        elif _holds(value, Struct):
            changes[name] = [attach_files(item, files, f"{role}[{index}].") for index, item in enumerate(value)]
    return replace(struct, **changes)  # type: ignore[type-var]


def attach_images(struct: _S, images: Mapping[str, Any]) -> _S:
    """Return the struct with the images that `detach` took out."""
    whole: dict[str, Any] = {}
    for role, image in images.items():
        base, is_element, _ = role.partition("[")
        if is_element:
            whole.setdefault(base, []).append(image)
        else:
            whole[base] = image
    for base, value in whole.items():
        struct = _with(struct, base.split("."), value)
    return struct


def _with(struct: Any, names: Sequence[str], value: Any) -> Any:
    name, *below = names
    return replace(struct, **{name: _with(getattr(struct, name), below, value) if below else value})


def encode(struct: Struct) -> dict[str, Any]:
    """Return the fields that are set as plain data, for JSON."""
    values = ((item.name, getattr(struct, item.name)) for item in fields(struct))  # type: ignore[arg-type]
    return {name: plain(value) for name, value in values if value is not None}


def plain(value: Any) -> Any:
    """Return a value in a form that JSON can hold."""
    if isinstance(value, Struct):
        return encode(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def decode(kind: type[_S], data: Any, where: str) -> _S:
    """Make a struct from plain data.

    Parameters
    ----------
    kind : type
        The dataclass; the annotations of its fields name the inner structs.
    data : mapping
        Its fields by name.
    where : str
        Name of the data in messages.

    Raises
    ------
    TypeError, ValueError
        If `data` is not a mapping, has a key that is not a field, or lacks a field that is required.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{where} must be a table of parameters, not {shown(data)}")
    kinds = {item.name: _inner_struct(item.type) for item in fields(kind)}  # type: ignore[arg-type]
    check_keys(data, kinds, where)
    values = {name: _decoded(kinds[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default is missing
        raise ValueError(f"{where}: {str(error).partition('__init__() ')[2] or error}") from error


def _decoded(kind: type[Struct] | None, value: Any, where: str) -> Any:
    if kind is None:
        return value
    if isinstance(value, list):
        return [decode(kind, item, f"{where}[{index}]") for index, item in enumerate(value)]
    return decode(kind, value, where)


def _inner_struct(annotation: str) -> type[Struct] | None:
    """Return the struct that a field's annotation names, such as ``"Sequence[Lora] | None"``."""
    return next((kind for word in re.findall(r"\w+", annotation) if (kind := struct_named(word))), None)


def check_keys(data: Iterable[str], legal: Iterable[str], where: str) -> None:
    """Refuse unknown names.

    Raises
    ------
    ValueError
        With the unknown name and similar ones.
    """
    names = sorted(legal)
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key)[:_LONGEST_KEY], names, 3)
            other = keyword_hint(str(key)[:_LONGEST_KEY], names)
            if other.partition(" ")[0] in names:
                raise ValueError(f"{where}: unknown parameter {shown(key)}; use {other}")
            hint = f"did you mean {' or '.join(near)}?" if near else f"legal: {', '.join(names)}"
            raise ValueError(f"{where}: unknown parameter {shown(key)}; {hint}")


def read_table(path: StrPath) -> dict[str, Any]:
    """Read a JSON or TOML file; its ending says which.

    Raises
    ------
    ValueError
        If it is neither, does not exist, or has no table at its top level.
    """
    source = expanded(path)
    try:
        if source.suffix.lower() == ".toml":
            return parse_toml(read_whole(source, _MOST_TOML).decode("utf-8-sig"))
        if source.suffix.lower() != ".json":
            raise ValueError("its name must end in .json or .toml")
        text = read_whole(source, _MOST_JSON).decode("utf-8-sig")
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(f"{shown_path(source)} cannot be read: {shortened(error)}", error) from error
    data = parse_json(text, shown_path(source))
    if not isinstance(data, dict):
        raise ValueError(f"{shown_path(source)} must contain a table of parameters, not {type(data).__name__}")
    return data


def parse_json(text: str, where: str) -> Any:
    """Read JSON in which no object has a key twice, of which only the last would count.

    Parameters
    ----------
    text : str
    where : str
        Name of the text in messages.

    Raises
    ------
    ValueError
        If it is not JSON, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise ValueError(f"{where} has {shown(str(error))} twice: leave one of them out") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {shortened(error)}") from error


class _TwiceError(Exception):
    """A key is in an object twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _TwiceError(counts.most_common(1)[0][0])
    return table


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises
    ------
    ValueError
        If it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if found := _LONG_KEY.search(text):
        raise ValueError(f"{shown(found[0])} is a key of more than 100 parts")
    return tomllib.loads(text)
