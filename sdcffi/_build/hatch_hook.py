"""The build hook of hatchling (see pyproject.toml), which puts a compiled library into a wheel.

hatchling loads this file by its path under another name, so an environment variable has the directory to pack.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "SDCFFI_WHEEL_NATIVE"
"""Environment variable with the directory whose files go into the wheel."""


@contextmanager
def packing(native: Path) -> Iterator[None]:
    """Make the hook pack the files of this directory within the block."""
    before = os.environ.get(NATIVE)
    os.environ[NATIVE] = str(native)
    try:
        yield
    finally:
        if before is None:
            del os.environ[NATIVE]
        else:
            os.environ[NATIVE] = before


def platform_tag() -> str:
    """Return this machine's platform as wheels name it.

    It is ``linux_x86_64`` and not ``manylinux``, because the library uses this system's C and C++ runtimes.
    ``auditwheel repair`` gives the wheel of a portable build the tag of the oldest system that it runs on.
    """
    if sys.platform == "darwin":  # sysconfig names what Python was built for, perhaps universal2
        major = platform.mac_ver()[0].split(".")[0]
        return f"macosx_{major}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


class NativeBuildHook(BuildHookInterface[Any]):
    """Put the compiled files and a platform tag into a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Change `build_data`, unless it is for an editable wheel, which only refers to the checkout."""
        if version == "editable":
            return
        if NATIVE not in os.environ:
            raise RuntimeError("hatch alone compiles nothing: build the wheel with `pip wheel .` or `python -m build`")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        for file in Path(os.environ[NATIVE]).iterdir():
            build_data["force_include"][str(file)] = f"sdcffi/_native/{file.name}"
