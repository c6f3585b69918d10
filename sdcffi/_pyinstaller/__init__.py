"""What PyInstaller needs to pack the package: it finds this directory by the entry point ``pyinstaller40``.

`hook-sdcffi.py` collects the native library. The run-time hook runs before the program's main script, and makes the
program that is started again by an engine its child process.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Return the directories of the hooks."""
    return [str(Path(__file__).parent)]
