"""Have something happen at each line of the package that a call runs, one line in each call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import sdcffi

_PACKAGE = os.path.dirname(sdcffi.__file__) + os.sep

Place = tuple[str, int]


class At:
    """Within this, calls a function at one line that this thread comes to within some directories.

    Parameters
    ----------
    number : int
        Number of the line, from 0, in the order in which they are run.
    act : callable
        May raise.
    directories : tuple of str
        Only files in these count.
    """

    def __init__(self, number: int, act: Callable[[], object], directories: tuple[str, ...] = (_PACKAGE,)) -> None:
        self.places: list[Place] = []
        self._number, self._act, self._directories = number, act, directories

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._directories):
            return self._trace if event == "call" else None
        if event == "line":
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) - 1 == self._number:
                self._act()
        return self._trace

    def __enter__(self) -> At:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.settrace(None)


def numbers(call: Callable[[], object], rest: int = 1, directories: tuple[str, ...] = (_PACKAGE,)) -> list[int]:
    """Return the numbers of the lines of a call: each place when it is run first and last, and every `rest`-th of each."""
    with At(-1, lambda: None, directories) as lines:
        call()
    runs: dict[Place, list[int]] = {}
    for number, place in enumerate(lines.places):
        runs.setdefault(place, []).append(number)
    return sorted({number for each in runs.values() for number in {each[0], each[-1]}})
