"""Programs without a Python interpreter of their own, as PyInstaller makes them."""

from __future__ import annotations

import sys

from ..errors import SDError

__all__ = ["check_frozen"]


def check_frozen() -> None:
    """Refuse a child process of a frozen program that would only start the program once more.

    Programs of PyInstaller have a runtime hook (``_pyinstaller``), with which they serve as the child.

    Raises
    ------
    SDError
        If it has none.
    """
    if getattr(sys, "frozen", False) and not hasattr(sys, "_sdcffi_serves_children"):
        raise SDError(
            "this frozen program cannot serve as the engine's child process: freeze it with PyInstaller, which finds"
            " sdcffi's hook if the package is installed, or use isolated=False"
        )
