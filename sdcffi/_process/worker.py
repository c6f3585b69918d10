"""Run a session's operations in a child process, as `Engine` does by default.

The child is started with `subprocess`, so it never imports the program's main module: no ``if __name__ ==
"__main__"`` is needed, and notebooks and ``python -c`` work. It has the parent's `sys.path`, and inherits one end of
a socket pair and, as its standard output and error, a file without a name that is read after a crash. It is in a
process session of its own, so that Ctrl-C in the terminal reaches only the parent.

      Engine, calls                     child
      operation.start() ------------>   Session.<name>(job, *arguments)
      operation.receive() <---------    events, then Done or Failed
      operation.cancel() ----------->   Job.cancel()
      closed socket ---------------->   ends
      Crashed <----------- closed socket

What is sent and received, started and ended, is done on other threads, see `_process.attended`.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from ..errors import SDError
from .attended import Attended, RemoteOperation
from .channel import pack
from .messages import Crashed, Operation

__all__ = ["Worker"]


class Worker:
    """A session in a child process, see `_process.messages.Runner`."""

    def __init__(self) -> None:
        self._child: Attended | None = None
        self._numbers = itertools.count(1)
        self._owner = os.getpid()

    @property
    def alive(self) -> bool:
        """Whether the child lives."""
        child = self._child
        return child is not None and child.alive

    @property
    def pid(self) -> int | None:
        """Process id of the child."""
        child = self._child
        return child.process.pid if child and child.process else None

    def open(self) -> None:
        """Start a child."""
        self.close()
        self._child = child = Attended()  # before it starts: `close` ends it whatever happens between
        child.start()

    def prepare(self, name: str, arguments: tuple[Any, ...]) -> Operation:
        """Return an operation that has not begun.

        Raises
        ------
        TypeError
            If an argument cannot be pickled.
        """
        child, number = self._child, next(self._numbers)
        if child is None:
            raise SDError("the engine is closed; open a new one")
        return RemoteOperation(child, pack((number, _directory(), name, arguments)), number)

    def crash(self) -> Crashed | None:
        """Return how the child has ended, if it was not asked to."""
        child = self._child
        if child is None:
            return None
        while child.crash is None and not child.alive and not child.ended.wait(0.1):
            continue
        return child.crash if isinstance(child.crash, Crashed) else None

    def kill(self) -> bool:
        """End the child at once."""
        if child := self._child:
            child.kill()
        self.close()
        return True

    def close(self) -> None:
        """End the child, which frees all its memory."""
        child = self._child
        if child is None or os.getpid() != self._owner:  # in a fork the child belongs to the original process
            return
        child.close()
        if self._child is child:
            self._child = None


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
