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
import tempfile
from pathlib import Path
from typing import NoReturn

from ..errors import BuildError
from .commands import pip_environment, run_captured, say
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
    return not tool_requirements() and all(importlib.util.find_spec(name) for name in _modules())


def _modules() -> list[str]:
    return [name if sys.version_info >= (3, 11) or name != "tomllib" else "tomli" for name in REQUIREMENTS]


def restart(argv: list[str]) -> NoReturn:
    """Run the build command again in the private environment, which is created if needed, and exit with its status."""
    if ORIGINAL_PATH in os.environ:
        raise BuildError(f"the private environment {sys.prefix} is incomplete: delete it, then run the command again")
    python = _environment(_requirements())
    package_parent = str(Path(__file__).resolve().parents[2])
    command = [str(python), "-c", _PROGRAM, package_parent, *argv]
    environment = {**os.environ, ORIGINAL_PATH: os.pathsep.join(filter(None, sys.path))}
    if os.name == "nt":  # execve returns to the shell at once there
        sys.exit(subprocess.call(command, env=environment))
    os.execve(command[0], command, environment)


def not_installed() -> str:
    """Return the packages that `restart` would install, and where; empty if its environment is there."""
    requirements = _requirements()
    directory = _directory(requirements)
    return "" if directory.is_dir() or ORIGINAL_PATH in os.environ else f"{', '.join(requirements)} into {directory}"


def _requirements() -> list[str]:
    return [*REQUIREMENTS.values(), *tool_requirements()]


def _directory(requirements: list[str]) -> Path:
    identity = hashlib.sha256("\n".join([sys.version, sys.executable, *requirements]).encode()).hexdigest()[:12]
    return _cache() / f"venv-{identity}"


def _environment(requirements: list[str]) -> Path:
    directory = _directory(requirements)
    if not directory.is_dir():
        _create(directory, requirements)
    return _python(directory)


def _cache() -> Path:
    # platformdirs may be one of the missing packages; on Linux, it would return this directory.
    if chosen := os.environ.get("SDCFFI_CACHE"):
        return Path(chosen).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sdcffi").absolute()
    except RuntimeError as error:
        raise BuildError(
            "this user has no home directory for a cache; set SDCFFI_CACHE to a directory to write to"
        ) from error


def _python(directory: Path) -> Path:
    return directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _create(directory: Path, requirements: list[str]) -> None:
    say(f"installing the build's packages into {directory}")
    partial = directory.with_name(f"{directory.name}.{os.getpid()}")
    _check_place(directory.parent)
    try:
        no_venv = "no virtual environment could be created (on Debian, run: sudo apt install python3-venv)"
        run_captured([sys.executable, "-m", "venv", str(partial)], no_venv)
        install = [str(_python(partial)), "-m", "pip", "install", "--no-user", "--quiet", "--disable-pip-version-check"]
        run_captured(
            [*install, *requirements],
            "the build's packages could not be installed; check that a package index can be reached",
            environment=pip_environment(),
        )
        _check_landed(_python(partial))
        partial.rename(directory)
    except OSError:
        if not directory.is_dir():  # else another build made it in the meantime
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


_FIND = "import sys, importlib.util as find; print(*(name for name in sys.argv[1:] if not find.find_spec(name)))"


def _check_landed(python: Path) -> None:
    """Refuse an environment without the packages that pip says it installed.

    Raises
    ------
    BuildError
        If one of them is missing.
    """
    missing = run_captured([str(python), "-I", "-c", _FIND, *_modules()], "the private environment does not work")
    if missing.strip():
        raise BuildError(
            f"pip ended without an error, but the private environment lacks {', '.join(missing.split())}: the"
            " settings of pip send packages elsewhere. Remove target, prefix, root and dry-run from those that"
            " `python -m pip config list` shows"
        )


_LEAST = 200 << 20  # bytes, for the packages


def _check_place(cache: Path) -> None:
    """Refuse a cache that cannot be written, or a full disk: both would look as if venv were missing.

    Raises
    ------
    BuildError
        If it cannot be used.
    """
    advice = "set SDCFFI_CACHE to a directory that can be written, with 1 GB of space"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b" ")
        free = shutil.disk_usage(cache).free
    except OSError as error:
        raise BuildError(
            f"the cache directory {cache} cannot be written: {error.strerror or error}; {advice}"
        ) from error
    if free < _LEAST:
        raise BuildError(f"the cache directory {cache} has {free >> 20} MiB free: free some space, or {advice}")
