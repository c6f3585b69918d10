"""Decide which native build a process uses. Paths and files only: nothing is loaded here.

Order: the caller's argument, the environment variable SDCFFI_LIBRARY, the package's own build. A choice made by
argument or environment never falls through to the next, and system paths are not searched.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import LayoutMismatchError, LibraryNotFoundError

__all__ = ["FRAGMENT", "MANIFEST", "PACKAGE_BUILD", "NativeBuild", "fragment_of", "locate", "read_build"]

MANIFEST = "manifest.json"
FRAGMENT = "plugin-{}.json"
PACKAGE_BUILD = Path(__file__).resolve().parent / "_native"
_SCHEMA = 1
_BUILD_COMMAND = "python -m sdcffi build    (in a checkout: python build_native.py)"


@dataclass(frozen=True)
class NativeBuild:
    """A directory that the build command wrote.

    Attributes
    ----------
    directory : Path
        Where library, plug-ins, `cdef.h` and `manifest.json` lie.
    manifest : dict
        The parsed `manifest.json`, with what fragments of installed add-ons add to it.
    refused : dict of str to str
        Backends of add-ons that do not fit this build, with the reason.
    """

    directory: Path
    manifest: dict[str, Any]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def library(self) -> Path:
        """Path of the main library."""
        return self.directory / str(self.manifest["library"])

    @property
    def backends(self) -> dict[str, list[Path]]:
        """Plug-in files by backend name."""
        backends: dict[str, list[str]] = self.manifest["backends"]
        return {name: [self.directory / file for file in files] for name, files in backends.items()}

    @property
    def support(self) -> list[Path]:
        """The libraries that the main one needs, which lie beside it."""
        named = {str(self.manifest["library"]), str(self.manifest.get("cli")), "cdef.h"}
        named.update(path.name for files in self.backends.values() for path in files)
        return [self.directory / name for name in self.manifest["files"] if name not in named]

    def verify(self, path: Path) -> None:
        """Check one file's digest against the manifest.

        Raises
        ------
        LayoutMismatchError
            If the file is missing or is not the one that was built.
        """
        expected = self.manifest["files"].get(path.name)
        if not path.is_file():
            raise LayoutMismatchError(f"{path} stands in the manifest but does not exist. Run: {_BUILD_COMMAND}")
        with path.open("rb") as file:
            digest = _sha256(file)
        if digest != expected:
            raise LayoutMismatchError(
                f"{path} has sha256 {digest}, its manifest says {expected}: it is not the file that was built."
                f" Run: {_BUILD_COMMAND}"
            )


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_build(path: Path) -> NativeBuild:
    """Read the build at `path`: its directory, or any file in it.

    Raises
    ------
    LibraryNotFoundError
        If there is no build, or its manifest cannot be read.
    """
    directory = path if path.is_dir() else path.parent
    file = directory / MANIFEST
    if not path.exists():
        raise LibraryNotFoundError(f"{path} does not exist")
    if not file.is_file():
        raise LibraryNotFoundError(f"{directory} holds no {MANIFEST}, so it is not a build of sdcffi")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        build = NativeBuild(directory, manifest)
        known = manifest["schema"] == _SCHEMA and build.library.name in manifest["files"] and bool(build.backends)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutMismatchError(f"{file} cannot be read as a manifest: {error!r}. Run: {_BUILD_COMMAND}") from error
    if not known:
        raise LayoutMismatchError(f"{file} has a form that this version does not know. Run: {_BUILD_COMMAND}")
    for fragment in sorted(directory.glob(FRAGMENT.format("*"))):
        _add(build, fragment)
    return build


def fragment_of(build: NativeBuild, backend: str) -> dict[str, Any]:
    """Give what an add-on's fragment says of a backend: its files, and what they were built against."""
    files = {path.name: build.manifest["files"][path.name] for path in build.backends[backend]}
    return {"schema": _SCHEMA, "backend": backend, "files": files, "against": _interface(build.manifest)}


def _interface(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a plug-in and the libraries that it is loaded by must have in common."""
    return {
        "sdcffi": manifest["sdcffi"],
        "upstream": manifest["upstream"]["sha256"],
        "patches": manifest["patches"],
        "platform": manifest["platform"],
        "declarations": manifest["files"]["cdef.h"],
    }


def _add(build: NativeBuild, file: Path) -> None:
    """Take an add-on into a build, or write down why not."""
    backend = file.stem.partition("-")[2]
    again = f"Run: pip install --force-reinstall sdcffi-{backend}=={build.manifest.get('sdcffi')}"
    try:
        fragment = json.loads(file.read_text("utf-8"))
        against, here = fragment["against"], _interface(build.manifest)
        differing = [name for name in here if against.get(name) != here[name]]
        known = fragment["schema"] == _SCHEMA and fragment["backend"] == backend and bool(fragment["files"])
        added = {str(name): str(digest) for name, digest in fragment["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        build.refused[backend] = f"{file} cannot be read: {error!r}. {again}"
        return
    if not known:
        build.refused[backend] = f"{file} has a form that this version does not know. {again}"
    elif differing:
        name = differing[0]
        build.refused[backend] = (
            f"the add-on of backend {backend!r} does not fit this build: it was built against another"
            f" {', '.join(differing)} ({name} {against.get(name)!r}, here {here[name]!r}). {again}"
        )
    else:
        build.manifest["files"].update(added)
        build.manifest["backends"][backend] = sorted(added)


def locate(argument: str | os.PathLike[str] | None = None) -> NativeBuild:
    """Find the native build to use.

    Parameters
    ----------
    argument : path, optional
        A build's directory or a file in it. None looks at SDCFFI_LIBRARY, then at the package's own build.

    Raises
    ------
    LibraryNotFoundError
        With every candidate, its reason, and the command that builds one.
    """
    candidates = [
        ("argument library", argument),
        ("environment variable SDCFFI_LIBRARY", os.environ.get("SDCFFI_LIBRARY") or None),
        ("the package's own build", PACKAGE_BUILD),
    ]
    reasons = []
    for origin, path in candidates:
        if path is None:
            reasons.append(f"  {origin}: not given")
            continue
        try:
            return read_build(Path(path).expanduser().resolve())
        except LibraryNotFoundError as error:
            reasons.append(f"  {origin}: {error.message}")
            break  # an explicit choice is never replaced by another one
    raise LibraryNotFoundError("no native library:\n" + "\n".join(reasons) + f"\nTo build one: {_BUILD_COMMAND}")
