"""Compile the native part of a wheel for pip; `hatch_hook` then packs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from .._machine.builds import MANIFEST, PACKAGE_BUILD, read_build
from ..errors import BuildError
from .hatch_hook import NATIVE
from .pipeline import build, build_verified
from .request import BuildRequest


def compile_for_wheel(settings: Mapping[str, Any]) -> None:
    """Compile for `settings`, which are the options of the build command without dashes."""
    try:
        os.environ[NATIVE] = str(build_verified(BuildRequest.from_settings(settings)).native)
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")


def compile_in_place(settings: Mapping[str, Any]) -> None:
    """Compile into the checkout; without `settings`, with those of the existing build."""
    if not settings and (PACKAGE_BUILD / MANIFEST).is_file():
        settings = read_build(PACKAGE_BUILD).manifest["request"]
    try:
        build(BuildRequest.from_settings(settings))
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")
