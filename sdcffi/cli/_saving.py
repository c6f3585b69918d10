"""Outputs: checked before the work, and saved at another place if they cannot be saved where they should be."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .._files import check_output, expanded, replacing
from ..errors import OutputError, SDError
from ._terminal import say

if TYPE_CHECKING:
    from ..engine.results import Result, VideoResult
    from ..parameter_files import Arguments

__all__ = [
    "Save",
    "all_of",
    "check_parameter_file",
    "enlarged",
    "recorded",
    "refuse_same",
    "save_parameters",
    "save_safely",
]


# A function that saves a result. It gets the path, and perhaps ``metadata=False`` or ``digests=False``, which a result
# without a record ignores; it returns the files.
Save: TypeAlias = "Callable[..., list[Path]]"


def recorded(result: Result | VideoResult, options: argparse.Namespace, **more: Any) -> Save:
    """Return the function that saves a result with the record that the flags ask for."""
    flags = {"metadata": options.metadata, "digests": options.digests, "paths": options.paths, **more}
    return lambda path, **changes: result.save(path, **(flags | changes))


def save_safely(save: Save, output: Path) -> list[Path]:
    """Save a result; if that fails, save it at another place, and name that in the error.

    Ctrl-C saves it without digests, which are what may take long, and ends the program then.

    Raises
    ------
    OutputError
        If it could not be saved as `output`.
    """
    try:
        return save(output)
    except KeyboardInterrupt:
        save(output, digests=False)
        raise
    except Exception as error:
        reason = error.message if isinstance(error, SDError) else f"{output} cannot be written: {error}"
        raise OutputError(_rescued(save, output, reason)) from error


def all_of(saves: Iterable[Callable[[], list[Path]]]) -> list[list[Path]]:
    """Call functions that save something, also after one has failed.

    Raises
    ------
    OutputError
        With the messages of those that failed.
    """
    done, failed = [], []
    for save in saves:
        try:
            done.append(save())
        except OutputError as error:
            failed.append(error.message)
    if failed:
        raise OutputError("; ".join(failed))
    return done


def _rescued(save: Save, output: Path, reason: str) -> str:
    """Save a result wherever that is possible, if need be as PNG or without its record; return the message."""
    tried = []
    for place in _places():
        try:
            folder = Path(tempfile.mkdtemp(prefix="sdcffi-", dir=place))
        except OSError:
            tried.append(str(place))
            continue
        png = folder / f"{output.stem}.png"
        for path, changes in ((folder / output.name, {}), (png, {}), (png, {"metadata": False})):
            try:
                paths = save(path, **changes)
            except Exception:  # whatever it is, the next try may work
                continue
            return f"{reason}; the result was saved as {', '.join(map(str, paths))} instead"
        shutil.rmtree(folder, ignore_errors=True)
        tried.append(str(place))
    return f"{reason}; nor could the result be saved in {' or '.join(tried)}"


def _places() -> Iterator[Path]:
    yield Path.cwd()
    with suppress(RuntimeError):  # there is none
        yield Path.home()
    yield Path(tempfile.gettempdir())


def enlarged(result: Result, enlarge: Callable[[Result], Result], output: Path, options: argparse.Namespace) -> Result:
    """Return the enlarged result; if that fails, save the images as they are, and name the files in the error.

    Raises
    ------
    SDError
        If the images could not be enlarged. Ctrl-C remains a KeyboardInterrupt.
    """
    try:
        return enlarge(result)
    except BaseException as error:
        paths = save_safely(recorded(result, options), _beside(output))
        if not isinstance(error, Exception):
            say(f"sdcffi: the images were saved before enlarging as {', '.join(map(str, paths))}")
            raise
        message = error.message if isinstance(error, SDError) else str(error)
        files = ", ".join(map(str, paths))
        raise SDError(
            f"the images could not be enlarged: {message}; as generated, they were saved as {files}",
            error.log if isinstance(error, SDError) else (),
        ) from error


def _beside(output: Path) -> Path:
    return output.with_name(f"{output.stem}_not_enlarged{output.suffix}")


def check_parameter_file(options: argparse.Namespace, given: Arguments, outputs: Collection[Path]) -> Path | None:
    """Return the path of ``--save-params``; None without it.

    Parameters
    ----------
    options : argparse.Namespace
    given : Arguments
        What will be written.
    outputs : collection of Path
        Files that the command writes too.

    Raises
    ------
    ValueError, OutputError
        If it cannot be written, does not end in ``.json``, or is one of the other outputs.
    """
    if options.save_params is None:
        return None
    path = expanded(options.save_params)
    if path.suffix.lower() != ".json":
        raise ValueError(f"--save-params must end in .json: parameters are written as JSON, not as {path.name}")
    refuse_same("--save-params", path, outputs)
    check_output(path, len(_as_json(given.table())))
    return path


def refuse_same(flag: str, path: Path, outputs: Collection[Path]) -> None:
    """Refuse a file that is written twice.

    Raises
    ------
    ValueError
        If `path` is one of `outputs`.
    """
    if os.path.realpath(path) in {os.path.realpath(output) for output in outputs}:
        raise ValueError(f"{flag} and --output are both {path}: one would overwrite the other; name another file")


def save_parameters(table: Mapping[str, Any], path: Path) -> list[Path]:
    """Write the parameters of a call for ``--params``; return the file.

    Raises
    ------
    OutputError
        If that fails; it names the file in which they are instead.
    """

    def save(target: Path, **_changes: bool) -> list[Path]:
        with replacing(target) as temporary:
            temporary.write_text(_as_json(table), encoding="utf-8")
        return [target]

    return save_safely(save, path)


def _as_json(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"
