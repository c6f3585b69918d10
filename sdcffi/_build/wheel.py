"""Compile the native part of a wheel, as pip asks for it; `hatch_hook` then packs it."""

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
    """Compile what `settings` ask for, which are the build command's options without dashes."""
    try:
        os.environ[NATIVE] = str(build_verified(BuildRequest.from_settings(settings)).native)
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")


def compile_in_place(settings: Mapping[str, Any]) -> None:
    """Compile into the checkout; without `settings` with those of the build that is there."""
    if not settings and (PACKAGE_BUILD / MANIFEST).is_file():
        settings = read_build(PACKAGE_BUILD).manifest["request"]
    try:
        build(BuildRequest.from_settings(settings))
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")
