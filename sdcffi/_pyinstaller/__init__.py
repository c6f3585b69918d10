"""What PyInstaller needs to know of this package; it finds `hook_directories` by an entry point.

The hook collects the modules, which are imported by name, and the data: the native library, the demo's weights and the
stub that names the public modules. The runtime hook makes the program serve as the engine's child process when it is
started as one.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_directories"]


def hook_directories() -> list[str]:
    """Return the directory of the hooks."""
    return [str(Path(__file__).parent)]
