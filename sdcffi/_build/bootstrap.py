"""Run the build in a private virtual environment if this Python lacks packages that it needs.

This module imports only the standard library. The requirements are those of ``[build-system]`` in pyproject.toml; a
test compares both lists.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from ..errors import BuildError
from .commands import run_captured, say
from .tools import CMAKE, NINJA

REQUIREMENTS = {
    "cffi": "cffi>=1.16",
    "filelock": "filelock>=3.12",
    "hatchling": "hatchling>=1.27",
    "numpy": "numpy>=1.24",
    "patch_ng": "patch-ng>=1.18",
    "PIL": "pillow>=10",
    "pip": "pip",
    "platformdirs": "platformdirs>=3",
    "tomllib": 'tomli>=2; python_version < "3.11"',
}
"""By import name, the requirements of the build (tomllib is in the standard library since 3.11)."""

ORIGINAL_PATH = "SDCFFI_ORIGINAL_PATH"
"""Environment variable with the module search path of the first Python; CUDA's wheels may be there."""

_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from sdcffi._build import main; sys.exit(main(sys.argv[1:]))"


def tool_requirements() -> list[str]:
    """Return the requirements for the build programs that the system lacks."""
    return [tool.requirement for tool in (CMAKE, NINJA) if tool.is_missing()]


def is_complete() -> bool:
    """Return whether this Python has everything that the build needs."""
    modules = dict(REQUIREMENTS)
    if sys.version_info < (3, 11):
        modules["tomli"] = modules.pop("tomllib")
    return not tool_requirements() and all(importlib.util.find_spec(name) for name in modules)


def restart(argv: list[str]) -> NoReturn:
    """Run the build command again in the private environment, which is created if needed, and exit with its status."""
    if ORIGINAL_PATH in os.environ:
        raise BuildError(f"the private environment {sys.prefix} is incomplete: delete it, then run the command again")
    python = _environment([*REQUIREMENTS.values(), *tool_requirements()])
    package_parent = str(Path(__file__).resolve().parents[2])
    command = [str(python), "-c", _PROGRAM, package_parent, *argv]
    environment = {**os.environ, ORIGINAL_PATH: os.pathsep.join(filter(None, sys.path))}
    if os.name == "nt":  # execve returns to the shell at once there
        sys.exit(subprocess.call(command, env=environment))
    os.execve(command[0], command, environment)


def _environment(requirements: list[str]) -> Path:
    identity = hashlib.sha256("\n".join([sys.version, sys.executable, *requirements]).encode()).hexdigest()[:12]
    directory = _cache() / f"venv-{identity}"
    if not directory.is_dir():
        _create(directory, requirements)
    return _python(directory)


def _cache() -> Path:
    # platformdirs may be one of the missing packages; on Linux, it would return this directory.
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SDCFFI_CACHE") or Path(home, "sdcffi")).absolute()


def _python(directory: Path) -> Path:
    return directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _create(directory: Path, requirements: list[str]) -> None:
    say(f"installing the build's packages into {directory}")
    partial = directory.with_name(f"{directory.name}.{os.getpid()}")
    try:
        no_venv = "no virtual environment could be created (on Debian, run: sudo apt install python3-venv)"
        run_captured([sys.executable, "-m", "venv", str(partial)], no_venv)
        install = [str(_python(partial)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run_captured(
            [*install, *requirements],
            "the build's packages could not be installed; check that a package index can be reached",
        )
        partial.rename(directory)
    except OSError:
        if not directory.is_dir():  # else another build made it in the meantime
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
