"""Load the finished build in a new process, and check that it is what was asked for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from .._machine.backends import BACKENDS
from ..errors import BuildError
from .commands import run_captured
from .places import PACKAGE


def verify(directory: Path, backends: tuple[str, ...], *, allow_missing_device: bool = False) -> list[dict[str, Any]]:
    """Load the build in `directory`, check its layout, and return its devices.

    Raises
    ------
    BuildError
        If it doesn't load, its layout is not the declared one, or a backend has no device here.
    """
    command = [sys.executable, "-m", "sdcffi", "info", "--json", "--library", str(directory)]
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    output = run_captured(command, "the finished build does not load", environment={**os.environ, "PYTHONPATH": path})
    report: dict[str, Any] = json.loads(output)
    if report["layout"] != "ok":
        raise BuildError(
            f"the structs of the finished build are not those of its header: {report['layout']}. Run again with --clean"
        )
    devices: list[dict[str, Any]] = report["devices"]
    if not allow_missing_device:
        check_devices(backends, devices)
    return devices


def check_devices(backends: tuple[str, ...], devices: list[dict[str, Any]]) -> None:
    """Raise BuildError for a backend that none of `devices` belongs to."""
    present = {device["backend"].lower() for device in devices}
    for name in backends:
        registry = BACKENDS.get(name, name)
        if not present & {name, registry.lower()}:
            found = ", ".join(f"{device['name']} ({device['backend']})" for device in devices) or "none"
            raise BuildError(
                f"backend {name} was built, but the library finds no {registry} device (it finds: {found}). "
                "Check the driver. To build for another machine, add --allow-missing-device."
            )
