"""GPU plug-ins as wheels of their own, which only add files to an installed sdcffi: ``sdcffi-cuda``, ``sdcffi-vulkan``.

A fragment of a manifest, ``plugin-cuda.json``, is beside the plug-in. It says what the plug-in was built against.
`_machine.builds` reads it, and refuses a plug-in that does not fit.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .._machine.builds import FRAGMENT, NOTICES, NativeBuild, fragment_of, read_build
from .._version import __version__
from ..errors import BuildError
from .places import PACKAGE, csrc_directory
from .toolkits import PACKAGED_CUDA

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sdcffi-{backend}"
version = "{version}"
description = "The {backend} backend of sdcffi"
license = "MIT"
license-files = ["LICENSE", "{notices}"]
requires-python = ">=3.10"
dependencies = {dependencies}

[tool.hatch.build.targets.wheel]
bypass-selection = true

[tool.hatch.build.targets.wheel.hooks.custom]
path = {hook}
"""


_CUBLAS = re.compile(rb"libcublas\.so\.(\d+)")


def pack_add_ons(native: Path, directory: Path) -> list[Path]:
    """Pack each GPU plug-in of a finished build as a wheel.

    Parameters
    ----------
    native : Path
        Directory of the build.
    directory : Path
        Directory for the wheels; it is created if it does not exist.

    Returns
    -------
    list of Path
        The wheels, one for each GPU backend.

    Raises
    ------
    BuildError
        If the build has no GPU backend.
    """
    build = read_build(native)
    backends = [name for name in build.backends if name != "cpu"]
    if not backends:
        raise BuildError(
            f"{native} has no GPU backend to pack, only {', '.join(build.backends)}: add one with --backend"
        )
    directory.mkdir(parents=True, exist_ok=True)
    return [_packed(build, backend, directory) for backend in backends]


def _packed(build: NativeBuild, backend: str, directory: Path) -> Path:
    from hatchling.builders.wheel import WheelBuilder

    from . import hatch_hook

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        hook = json.dumps(str(Path(hatch_hook.__file__)))
        dependencies = json.dumps([f"sdcffi=={__version__}", *_libraries_of(build.backends[backend])])
        project = _PROJECT.format(
            backend=backend, version=__version__, hook=hook, notices=NOTICES, dependencies=dependencies
        )
        (root / "pyproject.toml").write_text(project, "utf-8")
        (root / "LICENSE").write_text(_licence(), "utf-8")
        shutil.copy2(build.directory / NOTICES, root / NOTICES)
        (root / "native").mkdir()
        for path in build.backends[backend]:
            shutil.copy2(path, root / "native" / path.name)
        fragment = json.dumps(fragment_of(build, backend), indent=2) + "\n"
        (root / "native" / FRAGMENT.format(backend)).write_text(fragment, "utf-8")
        with hatch_hook.packing(root / "native"):
            (made,) = WheelBuilder(str(root)).build(directory=str(directory), versions=["standard"])
    return Path(made)


def _libraries_of(files: Iterable[Path]) -> list[str]:
    """Return the requirements for the Python packages that have the libraries of these plug-ins."""
    found = {match[1].decode() for file in files for match in _CUBLAS.finditer(file.read_bytes())}
    return [f"{package}=={release}.*" for release in sorted(found) for package in PACKAGED_CUDA.get(release, ())]


def _licence() -> str:
    """Return our licence: from a checkout, or from the metadata of an installed wheel."""
    if csrc_directory().parent != PACKAGE:
        return (PACKAGE.parent / "LICENSE").read_text("utf-8")
    installed = importlib.metadata.distribution("sdcffi").read_text("licenses/LICENSE")
    if installed is None:
        raise BuildError("the installation of sdcffi lacks its licence: reinstall sdcffi")
    return installed
