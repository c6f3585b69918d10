"""Collect the built files in one flat directory, with a manifest."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from .._files import file_digest
from .._machine.builds import MANIFEST, NOTICES
from .._version import __version__
from ..errors import BuildError
from .digests import tree_digest
from .notices import compiled_files, notices
from .plan import BuildPlan

_SHARED = r"\.(?:so|dylib|dll)$"
_LIBRARY = re.compile(r"^(?:lib)?stable-diffusion" + _SHARED)
_SUPPORT = re.compile(r"^(?:lib)?sdcffi-ggml(?:-base)?" + _SHARED)
_PLUGIN = re.compile(r"^(?:lib)?ggml-([a-z]+)(?:-[\w.]+)?" + _SHARED)
_CLI = re.compile(r"^sd-cli(?:\.exe)?$")


def collect(plan: BuildPlan, applied: tuple[str, ...], directory: Path) -> None:
    """Copy libraries, plug-ins and declarations into `directory`, and write licences and the manifest there."""
    directory.mkdir(parents=True)
    for file in sorted((plan.build_directory / "bin").iterdir()):
        if any(pattern.match(file.name) for pattern in (_LIBRARY, _SUPPORT, _PLUGIN, _CLI)):
            shutil.copy2(file, directory / file.name)
    shutil.copy2(plan.generated / "cdef.h", directory / "cdef.h")
    (directory / NOTICES).write_text(notices(plan.tree, compiled_files(plan)), "utf-8")
    manifest = _manifest(plan, applied, directory)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _manifest(plan: BuildPlan, applied: tuple[str, ...], directory: Path) -> Mapping[str, object]:
    names = sorted(file.name for file in directory.iterdir())
    source, compiler = plan.source, plan.compiler
    return {
        "schema": 1,
        "sdcffi": __version__,
        "key": plan.key,
        "library": _one(_LIBRARY, names, plan),
        "backends": _plugins(names, plan),
        "cli": _one(_CLI, names, plan) if plan.request.with_cli else None,
        "upstream": {
            "source": source.origin,
            "version": source.version,
            "commit": source.commit,
            "sha256": source.sha256,
        },
        "csrc": tree_digest(plan.csrc),
        "patches": list(applied),
        "request": plan.request.settings(),
        "options": plan.options,
        "cpu": plan.request.cpu,
        "compiler": {"id": compiler.id, "version": compiler.version, "path": str(compiler.cxx)},
        "platform": compiler.platform,
        "built": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "files": {name: file_digest(directory / name) for name in names},
    }


def _one(pattern: re.Pattern[str], names: list[str], plan: BuildPlan) -> str:
    found = [name for name in names if pattern.match(name)]
    if len(found) != 1:
        raise BuildError(f"the build made {found or 'nothing'} for {pattern.pattern}; see its log {plan.log}")
    return found[0]


def _plugins(names: list[str], plan: BuildPlan) -> dict[str, list[str]]:
    plugins: dict[str, list[str]] = {backend: [] for backend in plan.backends}
    for name in names:
        if match := _PLUGIN.match(name):
            plugins.setdefault(match[1], []).append(name)
    missing = [backend for backend, files in plugins.items() if not files]
    if missing:
        raise BuildError(f"the build made no plug-in for {', '.join(missing)}; see its log {plan.log}")
    return plugins
