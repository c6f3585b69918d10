"""Warnings that point at the program's own line, however deep in this package they arise."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

from ._quoting import shown

__all__ = ["collecting", "warn", "warn_of_unused"]

_OURS = (os.path.dirname(os.path.abspath(__file__)) + os.sep, contextlib.__file__)
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[str]]:
    """Yield a list to which the block's warnings go, and those of calls that it makes on other threads.

    What `warnings` has for it, ``catch_warnings``, is for the whole process: a server has several callers at a time.
    """
    messages: list[str] = []
    token = _collected.set(messages)
    try:
        yield messages
    finally:
        _collected.reset(token)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the first line outside of this package, as ``skip_file_prefixes`` of Python 3.12 does.

    Parameters
    ----------
    message : str
        What happened, then what to do.
    category : type, optional
        The kind of warning.
    """
    if (messages := _collected.get()) is not None:
        messages.append(message)
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_of_unused(names: Iterable[str], place: str) -> None:
    """Warn of tensors that no part of a model has.

    Parameters
    ----------
    names : iterable of str
        In any order: the engine's threads find them in another one each time. Without names, there is no warning.
    place : str
        The files that they are in, for the message.
    """
    if found := sorted(names):
        listed = ", ".join(map(shown, found[:3])) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        warn(
            f"nothing uses {len(found)} of the tensors in {place}: {listed}; if images are not as expected, it is"
            " another model, or of a kind that the engine reads in part"
        )
