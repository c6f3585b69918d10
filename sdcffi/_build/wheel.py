"""The native part of a wheel: compile it, then hand it to hatchling.

This file is hatchling's build hook too (see pyproject.toml), which loads it by its path under another name; so what
is compiled goes from the one to the other in an environment variable.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

from sdcffi._build.manifest import read_manifest
from sdcffi._build.pipeline import build, build_verified
from sdcffi._build.places import DEFAULT_OUTPUT
from sdcffi._build.request import BuildRequest
from sdcffi._locate import MANIFEST
from sdcffi.errors import BuildError

_NATIVE = "SDCFFI_WHEEL_NATIVE"


def compile_for_wheel(settings: Mapping[str, Any]) -> None:
    """Compile what `settings` ask for, which are the build command's options without dashes."""
    try:
        os.environ[_NATIVE] = str(build_verified(BuildRequest.from_settings(settings)).native)
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")


@contextmanager
def packing(native: Path) -> Iterator[None]:
    """Let the hook take files from this directory, for the time of the block."""
    before = os.environ.get(_NATIVE)
    os.environ[_NATIVE] = str(native)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NATIVE]
        else:
            os.environ[_NATIVE] = before


def compile_in_place(settings: Mapping[str, Any]) -> None:
    """Compile into the checkout; without `settings` with those of the build that is there."""
    if not settings and (DEFAULT_OUTPUT / MANIFEST).is_file():
        settings = read_manifest(DEFAULT_OUTPUT)["request"]
    try:
        build(BuildRequest.from_settings(settings))
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")


def platform_tag() -> str:
    """Return this machine's platform as wheels name it.

    It is ``linux_x86_64`` and not ``manylinux``: the library uses this system's C and C++ runtimes. ``auditwheel repair``
    gives a portable build's wheel the tag of the oldest system that it runs on.
    """
    if sys.platform == "darwin":  # sysconfig names what Python was built for, perhaps universal2
        major = platform.mac_ver()[0].split(".")[0]
        return f"macosx_{major}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


class NativeBuildHook(BuildHookInterface[Any]):
    """Put the compiled files and a platform tag into a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Change `build_data`, unless it is for an editable wheel, which only points to the checkout."""
        if version == "editable":
            return
        if _NATIVE not in os.environ:
            raise RuntimeError("build the wheel with `pip wheel .` or `python -m build`: hatch alone compiles nothing")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        for file in Path(os.environ[_NATIVE]).iterdir():
            build_data["force_include"][str(file)] = f"sdcffi/_native/{file.name}"
