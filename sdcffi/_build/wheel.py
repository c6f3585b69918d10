"""Compile the native part of a wheel for pip; `hatch_hook` then packs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import read_kept_json
from .._machine.builds import MANIFEST, PACKAGE_BUILD
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
    try:
        build(BuildRequest.from_settings(settings or _settings_of(PACKAGE_BUILD / MANIFEST)))
    except BuildError as error:
        sys.exit(f"sdcffi: error: {error}")


def _settings_of(manifest: Path) -> Mapping[str, Any]:
    """Return what was requested for the existing build, which may be another version's; nothing if there is none."""
    if not manifest.is_file():
        return {}
    try:
        return dict(read_kept_json(manifest)["request"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{manifest} cannot be read ({error!r}), so it is unknown for which backends to build. Remove it, or say "
            "which: pip install -e . --config-settings backend=cpu"
        ) from error
