"""Output on a terminal: the native log, progress bars, warnings. All of it goes to standard error."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from .._quoting import printable
from ._flags import in_flags

if TYPE_CHECKING:
    from ..events import Log, Progress

__all__ = ["described", "line_bar", "logger", "printable_output", "progress_bar", "say", "warnings_in_one_line"]

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


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line above the bars that are shown; on standard error, unless `file` is given."""
    text = printable(text)
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        with tqdm.external_write_mode():
            print(text, file=file or sys.stderr, flush=True)
    else:
        print(text, file=file or sys.stderr, flush=True)


@contextmanager
def warnings_in_one_line(options: argparse.Namespace) -> Iterator[None]:
    """Show each warning in one line, without its place in the source."""

    def show(message: Warning | str, *_place: object) -> None:
        say(f"sdcffi: warning: {in_flags(str(message), options)}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def logger(options: argparse.Namespace) -> Callable[[Log], None] | None:
    """Return a function that shows the native log; None without ``--verbose``."""
    if not options.verbose:
        return None
    return lambda record: say(f"{record.level}: {record.text}")


def described(progress: Progress) -> str:
    """Return the phase, and the image if there are several: ``sample, image 1 of 2``."""
    return f"{progress.phase}, image {progress.image} of {progress.images}" if progress.images > 1 else progress.phase


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Show the current phase while it lasts, if standard error is a terminal."""
    from tqdm import tqdm

    bar: Any = None

    def show(progress: Progress) -> None:
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

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


@contextmanager
def line_bar(count: int) -> Iterator[tuple[Any, Callable[[Progress], None]]]:
    """Show one bar for the lines of a batch, with the phase of the current one; yield it and its progress function."""
    from tqdm import tqdm

    with tqdm(total=count, unit=" line", miniters=0, leave=False, disable=None, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            counted = f" {progress.step}/{progress.steps}" if progress.steps > 1 else ""
            bar.set_postfix_str(described(progress) + counted, refresh=progress.step == 0)
            bar.update(0)  # shows it, but not too often

        yield bar, show
