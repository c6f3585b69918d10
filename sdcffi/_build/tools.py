"""cmake and ninja: those of the system if they are new enough, otherwise those of their PyPI packages.

This module imports only the standard library, because the bootstrap uses it before anything is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..errors import BuildError


@dataclass(frozen=True)
class Tool:
    """A program that the build runs, and the PyPI package that has it."""

    name: str
    minimum: tuple[int, int]
    directory_attribute: str

    @property
    def requirement(self) -> str:
        """The PyPI requirement that provides this tool."""
        return f"{self.name}>={self.minimum[0]}.{self.minimum[1]}"

    def on_system(self) -> Path | None:
        """Return the program on PATH if it is new enough."""
        found = shutil.which(self.name)
        return Path(found) if found and _version(found) >= self.minimum else None

    def is_missing(self) -> bool:
        """Return whether neither the system nor an installed package has this tool."""
        return self.on_system() is None and importlib.util.find_spec(self.name) is None

    def find(self) -> Path:
        """Return the program's path.

        Raises
        ------
        BuildError
            If it is neither on PATH in a recent version nor installed as a package.
        """
        if found := self.on_system():
            return found
        try:
            directory = getattr(importlib.import_module(self.name), self.directory_attribute)
        except ImportError:
            raise BuildError(f"{self.requirement} not found. Run: python -m pip install {self.name}") from None
        packaged = shutil.which(self.name, path=directory)
        if packaged is None:
            raise BuildError(f"the package {self.name} has no program in {directory}: reinstall it with pip")
        return Path(packaged)


CMAKE = Tool("cmake", (3, 20), "CMAKE_BIN_DIR")
NINJA = Tool("ninja", (1, 10), "BIN_DIR")


def _version(program: str) -> tuple[int, int]:
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"(\d+)\.(\d+)", output)
    return (int(match[1]), int(match[2])) if match else (0, 0)
