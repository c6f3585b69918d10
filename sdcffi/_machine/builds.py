"""Find the native build that a process uses. This module reads files, and loads no library.

Order: the caller's argument, the environment variable SDCFFI_LIBRARY, the package's own build. If one is given, the
next ones are not tried. System paths are not searched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._files import expanded, file_digest, read_kept_json
from .._quoting import shown
from ..errors import LayoutMismatchError, LibraryNotFoundError
from .backends import PREFERENCE

__all__ = [
    "FRAGMENT",
    "MANIFEST",
    "NOTICES",
    "PACKAGE_BUILD",
    "NativeBuild",
    "fragment_of",
    "is_intact",
    "locate",
    "read_build",
]

MANIFEST = "manifest.json"
FRAGMENT = "plugin-{}.json"
NOTICES = "THIRD-PARTY-NOTICES.txt"
PACKAGE_BUILD = Path(__file__).resolve().parents[1] / "_native"
_SCHEMA = 1
_BUILD_COMMAND = "python -m sdcffi build    (in a checkout: python build_native.py)"


@dataclass(frozen=True)
class NativeBuild:
    """A directory that the build command wrote.

    Attributes
    ----------
    directory : Path
        Directory with the library, plug-ins, `cdef.h`, licences and `manifest.json`.
    manifest : dict
        The parsed `manifest.json`, with the additions of installed add-ons.
    refused : dict of str to str
        Backends of add-ons that do not fit this build, with the reason.
    add_ons : dict of str to str
        The backend of each file that belongs to an add-on.
    """

    directory: Path
    manifest: dict[str, Any]
    refused: dict[str, str] = field(default_factory=dict)
    add_ons: dict[str, str] = field(default_factory=dict)

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
        """The libraries beside the main one that it needs."""
        named = {str(self.manifest["library"]), str(self.manifest.get("cli")), "cdef.h", NOTICES}
        named.update(path.name for files in self.backends.values() for path in files)
        return [self.directory / name for name in self.manifest["files"] if name not in named]

    def reinstallation(self, name: str) -> str | None:
        """Return the command that reinstalls a file of an add-on; None for a file of the build itself."""
        backend = self.add_ons.get(name)
        return backend and _reinstall(self.manifest, backend)

    def verify(self, path: Path) -> None:
        """Compare one file's digest with the manifest.

        Raises
        ------
        LayoutMismatchError
            If the file is missing or is not the one that was built.
        """
        expected = self.manifest["files"].get(path.name)
        command = self.reinstallation(path.name) or _BUILD_COMMAND
        if not path.is_file():
            raise LayoutMismatchError(f"{path} is listed in the manifest but missing. Run: {command}")
        digest = file_digest(path)
        if digest != expected:
            raise LayoutMismatchError(
                f"{path} was changed after the build: its sha256 is {digest}, and the manifest has {expected}."
                f" Run: {command}"
            )


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
        raise LibraryNotFoundError(f"{directory} has no {MANIFEST}, so it is not a build of sdcffi")
    try:
        manifest = read_kept_json(file)
        _check_shape(manifest)
        build = NativeBuild(directory, manifest)
        known = manifest["schema"] == _SCHEMA and build.library.name in manifest["files"] and bool(build.backends)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutMismatchError(f"{file} cannot be read as a manifest: {error!r}. Run: {_BUILD_COMMAND}") from error
    if not known:
        raise LayoutMismatchError(f"{file} has a format that this version does not know. Run: {_BUILD_COMMAND}")
    for backend in PREFERENCE:
        fragment = directory / FRAGMENT.format(backend)
        if fragment.is_file():
            _add(build, backend, fragment)
    return build


_SHAPE = {**dict.fromkeys(("upstream", "left_out", "options", "compiler", "files", "backends"), dict), "patches": list}


def _check_shape(manifest: dict[str, Any]) -> None:
    """Refuse a manifest in which something else stands for a table or list that is read later."""
    for name, kind in _SHAPE.items():
        if name in manifest and not isinstance(manifest[name], kind):
            raise TypeError(
                f"{name} must be a {'table' if kind is dict else kind.__name__}, not {shown(manifest[name])}"
            )


def is_intact(directory: Path) -> bool:
    """Return whether `directory` has a build whose files are all unchanged."""
    try:
        build = read_build(directory)
        for name in build.manifest["files"]:
            build.verify(directory / name)
    except (LibraryNotFoundError, LayoutMismatchError, OSError):
        return False
    return True


def fragment_of(build: NativeBuild, backend: str) -> dict[str, Any]:
    """Return the fragment of an add-on for a backend: its files, and what they were built against."""
    files = {path.name: build.manifest["files"][path.name] for path in build.backends[backend]}
    return {"schema": _SCHEMA, "backend": backend, "files": files, "against": _interface(build.manifest)}


def _interface(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a plug-in and the libraries that load it must have in common."""
    return {
        "sdcffi": manifest["sdcffi"],
        "upstream": manifest["upstream"]["sha256"],
        "csrc": manifest["csrc"],
        "patches": manifest["patches"],
        "platform": manifest["platform"],
        "declarations": manifest["files"]["cdef.h"],
    }


def _reinstall(manifest: dict[str, Any], backend: str) -> str:
    return f"pip install --force-reinstall --no-deps sdcffi-{backend}=={manifest.get('sdcffi')}"


def _add(build: NativeBuild, backend: str, file: Path) -> None:
    """Add an add-on to a build, in place of the build's own files for the backend; or note why it does not fit."""
    manifest = build.manifest
    for name in manifest["backends"].pop(backend, ()):
        manifest["files"].pop(name, None)  # the add-on's file of this name replaced it
    try:
        fragment = read_kept_json(file)
        files = {str(name): str(digest) for name, digest in fragment["files"].items()}
        known = (fragment["schema"], fragment["backend"]) == (_SCHEMA, backend) and bool(files)
        reason = (
            _misfit(build, dict(fragment["against"]), files)
            if known
            else "has a format that this version does not know"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"cannot be read: {error!r}"
    if reason:
        both = f"python -m sdcffi build --backend {','.join([*manifest['backends'], backend])}"
        build.refused[backend] = (
            f"the add-on of backend {backend!r} is not used: {file} {reason}. Run: {_reinstall(manifest, backend)};"
            f" if that does not help, build both: {both}"
        )
        return
    manifest["files"].update(files)
    manifest["backends"][backend] = sorted(files)
    build.add_ons.update(dict.fromkeys(files, backend))


def _misfit(build: NativeBuild, against: dict[str, Any], files: dict[str, str]) -> str:
    """Return why an add-on does not fit; empty if it fits."""
    here = _interface(build.manifest)
    differing = [name for name in here if against.get(name) != here[name]]
    if differing:
        name = differing[0]
        others = f"another {', '.join(differing)} ({name} {against.get(name)!r}, here {here[name]!r})"
        return f"does not fit this build: it was built against {others}"
    taken = [name for name in files if name in build.manifest["files"] or name != Path(name).name]
    return f"lists files that are not its own: {', '.join(taken)}" if taken else ""


def locate(argument: str | os.PathLike[str] | None = None) -> NativeBuild:
    """Return the native build to use.

    Parameters
    ----------
    argument : path, optional
        Directory of a build, or a file in it. None: SDCFFI_LIBRARY, or the package's own build.

    Raises
    ------
    LibraryNotFoundError
        If there is none; the message has every candidate, why it is not one, and the command that builds one.
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
            return read_build(expanded(path, "library").resolve())
        except LibraryNotFoundError as error:
            reasons.append(f"  {origin}: {error.message}")
            break  # an explicit choice is never replaced
    raise LibraryNotFoundError("no native library found:\n" + "\n".join(reasons) + f"\nTo build one: {_BUILD_COMMAND}")
