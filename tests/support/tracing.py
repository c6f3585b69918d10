"""Have something happen at a line of the package that a call runs, as a signal does: at each line, one in each call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import sdcffi

PACKAGE = os.path.dirname(sdcffi.__file__) + os.sep
LIBRARY = os.path.dirname(os.__file__) + os.sep

Place = tuple[str, int]


class At:
    """Within this, a function is called at one of the lines that this thread runs.

    Parameters
    ----------
    number : int
        Number of the line, from 0, in the order in which they are run.
    act : callable
        May raise; the line then raises.
    directories : tuple of str
        Only lines of files in these count.

    Attributes
    ----------
    places : list of (str, int)
        File and line number of each line that was run.
    """

    def __init__(self, number: int, act: Callable[[], object], directories: tuple[str, ...] = (PACKAGE,)) -> None:
        self.places: list[Place] = []
        self._number, self._act, self._directories = number, act, directories

    @property
    def place(self) -> str:
        """Where the function was called, for a message; empty if the line was not reached."""
        if self._number >= len(self.places):
            return ""
        file, line = self.places[self._number]
        return f"{file}:{line}"

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._directories):
            return None
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


def lines(call: Callable[[], object], directories: tuple[str, ...] = (PACKAGE,)) -> list[int]:
    """Return numbers for `At`: of each line that a call runs, the first and the last time."""
    with At(-1, lambda: None, directories) as all_of_them:
        call()
    first: dict[Place, int] = {}
    last: dict[Place, int] = {}
    for number, place in enumerate(all_of_them.places):
        first.setdefault(place, number)
        last[place] = number
    return sorted({*first.values(), *last.values()})
