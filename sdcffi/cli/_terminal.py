"""Output on a terminal: the native log, progress bars, warnings. All of it goes to standard error."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from .._quoting import printable
from ._flags import in_flags

if TYPE_CHECKING:
    from ..events import Log, Progress

__all__ = [
    "described",
    "give_up",
    "line_bar",
    "logger",
    "open_closed_streams",
    "printable_output",
    "progress_bar",
    "say",
    "warnings_in_one_line",
]

_UNITS = {"load": "tensor", "lora": "tensor", "sample": "step", "upscale": "tile", "decode": "tile"}


class _Printable:
    """A stream that writes control characters as escapes: names of files, tensors and devices may be anyone's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Let standard output have no control characters, whatever is printed."""
    stream = sys.stdout
    if stream is None:  # closed
        yield
        return
    sys.stdout = _Printable(stream)
    try:
        yield
    finally:
        sys.stdout = stream


def open_closed_streams() -> None:
    """Give a process that was started with closed standard streams null devices in their places.

    Otherwise the next file that is opened would get the number of standard output, and with it what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def give_up(stream: TextIO) -> None:
    """Discard what a stream still has to write, and all that follows: nobody can read it."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(null, stream.fileno())
    os.close(null)


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line above the bars that are shown; on standard error, unless `file` is given.

    Where standard error cannot be written, the work goes on without it.
    """
    if file is not None:
        _print(text, file)
        return
    try:
        _print(text, sys.stderr)
    except OSError:
        give_up(sys.stderr)


def _print(text: str, file: TextIO) -> None:
    text = printable(text)
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        with tqdm.external_write_mode():
            print(text, file=file, flush=True)
    else:
        print(text, file=file, flush=True)


@contextmanager
def warnings_in_one_line(options: argparse.Namespace) -> Iterator[None]:
    """Show each warning in one line, without its place in the source."""

    def show(message: Warning | str, *_place: object) -> None:
        say(f"sdcffi: warning: {in_flags(str(message), options)}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def logger(options: argparse.Namespace) -> Callable[[Log], None]:
    """Return a function that shows the native log; without ``--verbose``, only what the catalogue chose."""
    if not options.verbose:
        return lambda record: say(record.text) if record.text.startswith("catalogue:") else None
    return lambda record: say(f"{record.level}: {record.text}")


def described(progress: Progress) -> str:
    """Return the phase, and the image if there are several: ``sample, image 1 of 2``."""
    return f"{progress.phase}, image {progress.image} of {progress.images}" if progress.images > 1 else progress.phase


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Show the current phase while it lasts, if standard error is a terminal."""
    from tqdm import tqdm

    bar: Any = None

    def draw(progress: Progress) -> None:
        nonlocal bar
        if bar is None or progress.step == 0:
            if bar is not None:
                bar.close()
            bar = tqdm(
                total=progress.steps,
                desc=described(progress),
                unit=" " + _UNITS.get(progress.phase, "part"),
                bar_format=None if progress.steps > 1 else "{desc} ...",  # one step has no progress
                leave=False,
                disable=None,
                dynamic_ncols=True,
            )
        bar.update(progress.step - bar.n)

    def show(progress: Progress) -> None:
        with suppress(OSError):  # the terminal is gone: no reason to lose the image
            draw(progress)

    try:
        yield show
    finally:
        if bar is not None:
            with suppress(OSError):
                bar.close()


@contextmanager
def line_bar(count: int) -> Iterator[tuple[Any, Callable[[Progress], None]]]:
    """Show one bar for the lines of a batch, with the phase of the current one; yield it and its progress function."""
    from tqdm import tqdm

    with tqdm(total=count, unit=" line", miniters=0, leave=False, disable=None, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            counted = f" {progress.step}/{progress.steps}" if progress.steps > 1 else ""
            with suppress(OSError):  # the terminal is gone
                bar.set_postfix_str(described(progress) + counted, refresh=progress.step == 0)
                bar.update(0)  # shows it, but not too often

        yield bar, show
