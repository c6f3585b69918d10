"""Directories that the build reads and writes."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from ..errors import BuildError

PACKAGE = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = PACKAGE / "_native"


def csrc_directory() -> Path:
    """Return the directory of the C sources: beside the package in a checkout, inside it in an installed wheel."""
    for candidate in (PACKAGE.parent / "csrc", PACKAGE / "csrc"):
        if (candidate / "upstream.toml").is_file():
            return candidate
    raise BuildError(f"the C sources of sdcffi are neither beside {PACKAGE} nor in it: reinstall sdcffi")


def cache_directory() -> Path:
    """Return where sources and builds are kept between runs; ``SDCFFI_CACHE`` names another place."""
    return Path(os.environ.get("SDCFFI_CACHE") or platformdirs.user_cache_dir("sdcffi")).absolute()
