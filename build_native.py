"""Build the native library: ``python build_native.py --help``; also the PEP 517 backend of this project.

All the work is done in sdcffi/_build; here it meets the command line on one side, pip and hatchling on the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

Settings = Mapping[str, Any] | None


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Return what `build_sdist` needs beyond ``[build-system]``: nothing."""
    return []


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return the packages of cmake and ninja where the system has none that are new enough."""
    from sdcffi._build.bootstrap import tool_requirements

    return tool_requirements()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Return what a wheel needs and what hatchling needs for a link to the checkout."""
    import hatchling.build

    return [*hatchling.build.get_requires_for_build_editable(), *get_requires_for_build_wheel()]


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """Write the metadata; hatchling has no such hook under pip, which would then compile to learn our name."""
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(os.getcwd())
    directory = Path(metadata_directory, f"{builder.artifact_project_id}.dist-info")
    directory.mkdir(exist_ok=True)
    metadata = builder.config.core_metadata_constructor(builder.metadata)
    (directory / "METADATA").write_text(metadata, "utf-8")
    return directory.name


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Pack the sources; nothing is compiled."""
    import hatchling.build

    return hatchling.build.build_sdist(sdist_directory)


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Compile for this machine and pack the result; see ``sdcffi._build.wheel.compile_for_wheel``."""
    import hatchling.build

    from sdcffi._build import wheel

    wheel.compile_for_wheel(config_settings or {})
    return hatchling.build.build_wheel(wheel_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Put a build into sdcffi/_native, like the one that is there already if there is one, and link to the checkout."""
    import hatchling.build

    from sdcffi._build import wheel

    wheel.compile_in_place(config_settings or {})
    return hatchling.build.build_editable(wheel_directory)


if __name__ == "__main__":
    from sdcffi._build import main

    sys.exit(main(sys.argv[1:]))
