"""Collect the built files in one flat directory, with a manifest."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._files import file_digest
from .._machine.builds import MANIFEST, NOTICES
from .._version import __version__
from ..errors import BuildError
from .digests import tree_digest
from .notices import compiled_files, notices
from .patches import APPLIED, LEFT_OUT, MENDED, NOT_NEEDED, Finding
from .plan import BuildPlan
from .revisions import Revision

_SHARED = r"\.(?:so|dylib|dll)$"
_LIBRARY = re.compile(r"^(?:lib)?stable-diffusion" + _SHARED)
_SUPPORT = re.compile(r"^(?:lib)?sdcffi-ggml(?:-base)?" + _SHARED)
_PLUGIN = re.compile(r"^(?:lib)?ggml-([a-z]+)(?:-[\w.]+)?" + _SHARED)
_CLI = re.compile(r"^sd-cli(?:\.exe)?$")


@dataclass(frozen=True)
class Prepared:
    """What is known of a patched tree.

    Parameters
    ----------
    revision, date : str or None
        Name and date of the verified revision that it is. None: it is none of them.
    patches : list of str
        The patches that were applied.
    mended, not_needed : dict of str to str
        Patches whose fault upstream has mended, and those that are for other revisions, with the reason.
    left_out : dict of str to str
        Patches that the tree needs and does not have, with what each would do.
    """

    revision: str | None
    date: str | None
    patches: list[str]
    mended: dict[str, str]
    not_needed: dict[str, str]
    left_out: dict[str, str]

    @classmethod
    def of(cls, revision: Revision | None, findings: Sequence[Finding]) -> Prepared:
        """Sort the findings."""

        def reasons(verdict: str) -> dict[str, str]:
            return {finding.patch.name: finding.reason for finding in findings if finding.verdict == verdict}

        return cls(
            revision.name if revision else None,
            revision.date.isoformat() if revision else None,
            list(reasons(APPLIED)),
            reasons(MENDED),
            reasons(NOT_NEEDED),
            {finding.patch.name: finding.patch.subject for finding in findings if finding.verdict == LEFT_OUT},
        )


def collect(plan: BuildPlan, prepared: Prepared, directory: Path) -> None:
    """Copy libraries, plug-ins and declarations into `directory`, and write licences and the manifest there."""
    directory.mkdir(parents=True)
    for file in sorted((plan.build_directory / "bin").iterdir()):
        if any(pattern.match(file.name) for pattern in (_LIBRARY, _SUPPORT, _PLUGIN, _CLI)):
            shutil.copy2(file, directory / file.name)
    shutil.copy2(plan.generated / "cdef.h", directory / "cdef.h")
    (directory / NOTICES).write_text(notices(plan.tree, compiled_files(plan)), "utf-8")
    manifest = _manifest(plan, prepared, directory)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _manifest(plan: BuildPlan, prepared: Prepared, directory: Path) -> Mapping[str, object]:
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
            "revision": prepared.revision,
            "date": prepared.date,
        },
        "csrc": tree_digest(plan.csrc),
        "patches": prepared.patches,
        "mended": prepared.mended,
        "not_needed": prepared.not_needed,
        "left_out": prepared.left_out,
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
