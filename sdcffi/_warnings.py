"""Warnings that point at the program's own line, however deep in this package they arise."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

__all__ = ["warn"]

_OURS = (os.path.dirname(os.path.abspath(__file__)) + os.sep, contextlib.__file__)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the first line outside of this package, as ``skip_file_prefixes`` of Python 3.12 does.

    Parameters
    ----------
    message : str
        What happened, then what to do.
    category : type, optional
        The kind of warning.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
