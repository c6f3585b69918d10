"""``sdcffi info``: what was built, and what it finds on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from .. import __version__
from ._flags import add_command
from ._terminal import logger

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "info", _run, "what was built, and what it finds on this machine")
    command.add_argument("--json", action="store_true", help="for machines")
    command.add_argument("--parameters", action="store_true", help="every parameter of the engine, as Markdown")
    command.add_argument("--backend", default="auto", help="auto, cpu, cuda, vulkan, metal, ...")
    command.add_argument("--library", help="directory of the native build to use")


def _run(options: argparse.Namespace) -> None:
    if options.parameters:
        from .._parameter_table import parameter_table

        print("\n".join(parameter_table(options.library)))
        return
    from .._calls import run_alone
    from .._requests import Opening
    from ..events import Listeners

    opening = Opening(options.library, options.backend)
    found = run_alone(opening, "describe", listeners=Listeners(logger(options)))
    report = {
        "sdcffi": __version__,
        "directory": str(found.directory),
        "layout": "ok",  # loading raises otherwise
        "upstream_commit": found.upstream_commit,
        "ggml": found.ggml_version,
        "device": found.device.as_dict(),
        "devices": [device.as_dict() for device in found.devices],
        "skipped": found.skipped,
        "manifest": found.manifest,
    }
    print(json.dumps(report, indent=2) if options.json else "\n".join(_lines(report)))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    manifest = report["manifest"]
    upstream, compiler = manifest.get("upstream", {}), manifest.get("compiler", {})
    yield f"sdcffi {report['sdcffi']}, native build in {report['directory']}"
    yield f"engine: stable-diffusion.cpp {report['upstream_commit']}, ggml {report['ggml']}"
    yield f"source: {upstream.get('source')} {upstream.get('version')}, {len(manifest.get('patches', []))} patches"
    yield f"compiler: {compiler.get('id')} {compiler.get('version')}, built {manifest.get('built')}"
    yield f"CPU build: {manifest.get('cpu')}, backends: {', '.join(manifest['backends'])}"
    for name, value in sorted(manifest.get("options", {}).items()):
        yield f"  {name}={value}"
    yield f"layout: {report['layout']}"
    for device in report["devices"]:
        mark = "  <- used" if device == report["device"] else ""
        memory = f"{device['memory_total'] / 2**30:.1f} GiB"
        yield f"device {device['name']} ({device['backend']}): {device['description']}, {memory}{mark}"
    for name, reason in report["skipped"].items():
        yield f"backend {name} passed over: {reason}"
