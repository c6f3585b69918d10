"""Files of prompts: plain text, JSON lines, and CSV."""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._files import expanded, read_stream, unreadable
from .._quoting import shown
from ..params.image import ImageParams
from ..params.names import Parameter, parameters
from ..params.plain import check_keys, parse_json

__all__ = ["Line", "read_prompts"]

Line = tuple[int, dict[str, Any]]

_MOST_BYTES = 64 << 20
_OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what a shell hands over
_JSON = (".jsonl", ".ndjson")
_TABLES = {".csv": ",", ".tsv": "\t"}
_SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_NO_PROMPTS = frozenset(
    {".json", ".toml", ".yaml", ".yml", ".xml", ".html", ".htm", ".xls", ".xlsx", ".ods", ".parquet"}
)
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_prompts(path: Path) -> list[Line]:
    """Read a file of prompts, or standard input if the path is ``-``.

    Returns
    -------
    list of (int, dict)
        The number of each line, or of each row below a table's header, from 1; and its parameters.

    Raises
    ------
    ValueError
        If the file cannot be read, has no prompt, or has a malformed line.
    """
    suffix = path.suffix.lower()
    if suffix in _NO_PROMPTS:
        raise ValueError(
            f"--prompts {path}: {suffix} is not read; give a text file with a prompt per line, a .jsonl file with an"
            " object of parameters per line, or a .csv file whose first line names parameters"
        )
    text = _text(path)
    lines = list(_rows(text, path, _TABLES[suffix]) if suffix in _TABLES else _lines(text, path, suffix in _JSON))
    if not lines:
        raise ValueError(f"{path} contains no prompt")
    return lines


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: it is not UTF-8 text ({error})") from error
    except (OSError, ValueError) as error:
        raise unreadable(f"{path} cannot be read: {error}", error) from error


def _bytes(path: Path) -> bytes:
    if str(path) == "-":
        stream: Any = getattr(sys.stdin, "buffer", None)
        return read_stream(stream, _MOST_BYTES) if stream else sys.stdin.read().encode()
    path = expanded(path)
    is_open = str(path).startswith(_OPEN_ALREADY)
    if not is_open and path.exists() and not path.is_file():
        raise ValueError("it is not a regular file; give - for standard input")
    with path.open("rb") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
            raise ValueError("it is a device")
        return read_stream(file, _MOST_BYTES)


def _lines(text: str, path: Path, are_json: bool) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):  # other characters that may end a line are part of a prompt
        line = line.strip(" \t\r")
        where = f"{path}, line {number}"
        if are_json and line:
            yield number, _object(line, where)
        elif line and not line.startswith("#"):
            if line.startswith("--"):
                raise ValueError(f"{where} starts like a flag; for parameters of a line, use a .jsonl or .csv file")
            yield number, {"prompt": line}


def _object(line: str, where: str) -> dict[str, Any]:
    own = parse_json(line, where)
    if not isinstance(own, dict):
        raise ValueError(f"{where} must be an object of parameters, not {type(own).__name__}")
    return own


def _rows(text: str, path: Path, delimiter: str) -> Iterator[Line]:
    known = {item.name: item for item in parameters(ImageParams)}
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if other := next((sign for sign in ",;\t" if len(header) == 1 and sign in header[0]), None):
            raise ValueError(
                f"{path}, line 1: cells of a {path.suffix.lower()} file are separated by"
                f" {_SIGNS[delimiter]}, not by {_SIGNS[other]}: save the table so, or name the file otherwise"
            )
        check_keys(header, {*known, "output"}, f"{path}, line 1")
        if twice := [name for name in header if header.count(name) > 1]:
            raise ValueError(f"{path}, line 1 has {twice[0]!r} twice")
        number = 0
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            number += 1
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise ValueError(f"{where} has {len(row)} cells, and line 1 has {len(header)}")
            cells = zip(header, row, strict=True)
            yield number, {name: _cell(known.get(name), cell, where) for name, cell in cells if cell.strip()}
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num} is not CSV: {error}") from error


def _cell(parameter: Parameter | None, cell: str, where: str) -> Any:
    if parameter is None or (parameter.kind is str and not parameter.many):
        return cell
    if parameter.many:
        return [_value(parameter, part.strip(), where) for part in cell.split(";")]
    return _value(parameter, cell.strip(), where)


def _value(parameter: Parameter, text: str, where: str) -> Any:
    try:
        return _TRUTHS[text.lower()] if parameter.kind is bool else parameter.kind(text)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "an integer", float: "a number"}[parameter.kind]
        raise ValueError(f"{where}: {parameter.name} must be {kind}, not {shown(text)}") from None
