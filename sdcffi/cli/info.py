"""``sdcffi info``: what was built, and the devices that it finds."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator
from typing import Any

from .._version import __version__
from ._flags import BACKEND_HELP, JSON_HELP, LIBRARY_HELP, add_command
from ._terminal import logger

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "info", _run, "show what was built, and the devices that it finds")
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    command.add_argument(
        "--parameters", action="store_true", help="print every parameter of the engine with its default, as Markdown"
    )
    command.add_argument("--backend", default="auto", metavar="NAME", help=BACKEND_HELP)
    command.add_argument("--library", metavar="DIR", help=LIBRARY_HELP)


def _run(options: argparse.Namespace) -> None:
    if options.parameters:
        from ._parameter_table import parameter_table

        print("\n".join(parameter_table(options.library)))
        return
    from ..errors import SDError
    from ..inventory import survey

    found, inventory = survey(options.library, options.backend, logger(options))
    if isinstance(found, SDError):
        raise found
    without = {backend.name: backend.problem for backend in inventory.backends if backend.built and backend.problem}
    report = {
        "sdcffi": __version__,
        "directory": str(found.directory),
        "layout": "ok",  # otherwise loading raises
        "upstream_commit": found.upstream_commit,
        "ggml": found.ggml_version,
        "device": found.device.as_dict(),
        "devices": [device.as_dict() for device in inventory.devices],
        "skipped": without,
        "manifest": found.manifest,
    }
    print(json.dumps(report, indent=2) if options.json else "\n".join([*_lines(report), *inventory.lines()]))


def _engine(upstream: dict[str, Any], commit: str) -> str:
    if not upstream.get("revision"):
        return f"{commit}, which is no verified revision"
    return f"{upstream['revision']} ({commit}, {_day(datetime.date.fromisoformat(upstream['date']))})"


def _day(date: datetime.date) -> str:
    return f"{date.day} {date:%B %Y}"


def _newer_engine(upstream: dict[str, Any]) -> Iterator[str]:
    """How to get the newest verified engine, if the build has an older one of the verified ones."""
    from .._build.places import csrc_directory
    from .._build.revisions import read_revisions

    revisions = read_revisions(csrc_directory())
    if upstream.get("revision") in revisions.names[:-1]:
        yield (
            f"newer engine: {revisions.newest.name} ({_day(revisions.newest.date)}), by `sdcffi build --engine newest`;"
            " docs/engine-revisions.md has what it brings"
        )


def _lines(report: dict[str, Any]) -> Iterator[str]:
    manifest = report["manifest"]
    upstream, compiler = manifest.get("upstream", {}), manifest.get("compiler", {})
    yield f"sdcffi {report['sdcffi']}, native build in {report['directory']}"
    yield f"engine: {_engine(upstream, report['upstream_commit'])}, {len(manifest.get('patches', []))} patches"
    yield from _newer_engine(upstream)
    for name, subject in manifest.get("left_out", {}).items():
        yield f"patch left out: {name} (it would: {subject})"
    yield f"source: stable-diffusion.cpp from {upstream.get('source')} {upstream.get('version')}, ggml {report['ggml']}"
    yield f"compiler: {compiler.get('id')} {compiler.get('version')}, built {manifest.get('built')}"
    yield f"CPU build: {manifest.get('cpu')}, backends: {', '.join(manifest['backends'])}"
    for name, value in sorted(manifest.get("options", {}).items()):
        yield f"  {name}={value}"
    yield f"layout: {report['layout']}"
