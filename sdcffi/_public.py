"""Show public classes under the name that programs import them by."""

from __future__ import annotations

import sys
from typing import TypeVar

__all__ = ["public"]

_Class = TypeVar("_Class", bound=type)


def public(cls: _Class) -> _Class:
    """Make a class ``sdcffi.Name`` in representations, tracebacks and pickles, wherever it is defined.

    Who reads its annotations looks their names up in the module that it says it is from, so those that can be evaluated
    where it is defined are.
    """
    names = vars(sys.modules[cls.__module__])
    for field, annotation in vars(cls).get("__annotations__", {}).items():
        if isinstance(annotation, str):
            try:
                cls.__annotations__[field] = eval(annotation, names)
            except (NameError, TypeError):  # imported for type checkers only
                continue
    cls.__module__ = "sdcffi"
    return cls
