"""The directories of the package and of its C sources."""

from __future__ import annotations

from pathlib import Path

from ..errors import BuildError

PACKAGE = Path(__file__).resolve().parent.parent


def csrc_directory() -> Path:
    """Return the directory of the C sources: beside the package in a checkout, inside it in an installed wheel."""
    for candidate in (PACKAGE.parent / "csrc", PACKAGE / "csrc"):
        if (candidate / "upstream.toml").is_file():
            return candidate
    raise BuildError(f"the C sources of sdcffi are missing, both beside {PACKAGE} and in it: reinstall sdcffi")
