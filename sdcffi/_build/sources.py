"""The source of stable-diffusion.cpp, and how it gets into the cache.

`locate_source` finds out which source is meant, without network. `Source.fetch` downloads it and checks its digest.
`Source.unpack` writes its files to a directory in which they may be changed. The user's own directory is only read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._files import file_digest
from ..errors import BuildError
from .commands import run_captured
from .digests import tree_digest, tree_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEADER = Path("include", "stable-diffusion.h")
_OFFLINE = "Without network, use `--source PATH` with a checkout of stable-diffusion.cpp or with its archive."


@dataclass(frozen=True)
class Source:
    """One revision of upstream.

    Parameters
    ----------
    origin : str
        ``pypi``, ``git`` or ``path``.
    version, commit : str
        Version and commit; ``unknown`` if they are not known.
    sha256 : str or None
        Digest of the archive, or of all files of a directory. None for a git revision before `fetch`.
    location : Path
        The archive or directory; that of a remote source exists after `fetch`.
    package, url, ref : str
        What to download: a requirement for pip, or a git repository and its revision.
    """

    origin: str
    version: str
    commit: str
    sha256: str | None
    location: Path
    package: str = ""
    url: str = ""
    ref: str = ""

    def __str__(self) -> str:
        name = {"pypi": self.package, "git": f"{self.url} at {self.ref}"}.get(self.origin, str(self.location))
        return f"{name} (upstream commit {self.commit}, sha256 {self.sha256 or 'known once fetched'})"

    def fetch_commands(self) -> list[list[str]]:
        """Return the command lines that `fetch` runs if the source isn't in the cache."""
        if self.origin == "pypi":
            return [_pip_download(self.package, self.location.parent)]
        return _git_commands(self.url, self.ref, self.location) if self.origin == "git" else []

    def fetch(self) -> Source:
        """Download the source if needed, and return it with its digest.

        Raises
        ------
        BuildError
            If it cannot be downloaded, or its digest is not the pinned one; the message has both.
        """
        if self.origin == "pypi":
            if not self.location.is_file():
                _download(self)
            _check_digest(self.location, self.sha256)
            return self
        return _clone(self) if self.origin == "git" and self.sha256 is None else self

    def unpack(self, directory: Path) -> None:
        """Write the upstream tree into `directory`, which must not exist."""
        if self.location.is_dir():
            _copy(self.location, directory)
        else:
            _extract(self.location, directory)
        if not (directory / "ggml" / "CMakeLists.txt").is_file():
            raise BuildError(
                f"{self.location} lacks upstream's submodules (no ggml/CMakeLists.txt): "
                "run `git submodule update --init --recursive` there"
            )


def locate_source(spec: str, csrc: Path, cache: Path, git_url: str | None = None) -> Source:
    """Return the source that `spec` (``pypi``, ``git``, ``git@REF`` or a path) names."""
    pinned: dict[str, Any] = tomllib.loads((csrc / "upstream.toml").read_text("utf-8"))
    if spec == "pypi":
        return _pinned(pinned["pypi"], cache)
    if spec == "git" or spec.startswith("git@"):
        url, ref = git_url or pinned["git"]["url"], spec.partition("@")[2] or "HEAD"
        clone = cache / "git" / hashlib.sha256(url.encode()).hexdigest()[:12]
        return Source("git", ref, "unknown", None, clone, url=url, ref=ref)
    return _local(Path(spec).expanduser().absolute())


def _pinned(pin: dict[str, str], cache: Path) -> Source:
    file = f"{pin['package'].replace('-', '_')}-{pin['version']}.tar.gz"
    location = cache / "downloads" / pin["sha256"] / file
    package = f"{pin['package']}=={pin['version']}"
    return Source("pypi", pin["version"], pin["commit"], pin["sha256"], location, package=package)


def _local(path: Path) -> Source:
    if path.is_dir():
        if not (path / _HEADER).is_file():
            raise BuildError(f"--source {path}: no {_HEADER} in it, so it is not a checkout of stable-diffusion.cpp")
        return Source("path", "unknown", _commit_of(path), tree_digest(path), path)
    if path.is_file():
        return Source("path", "unknown", "unknown", file_digest(path), path)
    raise BuildError(f"--source {path}: there is no such file or directory (legal: pypi, git, git@REF, PATH)")


def _check_digest(path: Path, expected: str | None) -> None:
    found = file_digest(path)
    if found != expected:
        raise BuildError(
            f"wrong sha256 of {path}\n  expected {expected}\n  found    {found}\n"
            "It is not the file that was pinned. Delete it to download it again; if that doesn't help, don't trust "
            "the package index in use."
        )


def _pip_download(package: str, directory: Path) -> list[str]:
    name = package.partition("==")[0]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    return [*pip, "--no-binary", name, "--dest", str(directory), package]


def _download(source: Source) -> None:
    directory = source.location.parent
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as partial:
        _run(_pip_download(source.package, Path(partial)), f"{source.package} could not be downloaded")
        files = list(Path(partial).glob("*.tar.gz"))
        if len(files) != 1:
            raise BuildError(f"pip downloaded {[file.name for file in files]} for {source.package}, not one archive")
        os.replace(files[0], source.location)


def _git_commands(url: str, ref: str, clone: Path) -> list[list[str]]:
    git = ["git", "-C", str(clone)]
    return [
        ["git", "init", "--quiet", str(clone)],
        [*git, "fetch", "--quiet", "--depth", "1", url, ref],
        [*git, "checkout", "--quiet", "--force", "FETCH_HEAD"],
        [*git, "submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1"],
    ]


def _clone(source: Source) -> Source:
    if shutil.which("git") is None:
        raise BuildError("--source git needs git: install it (apt, dnf, brew, winget: git), or use --source pypi")
    source.location.mkdir(parents=True, exist_ok=True)
    for command in source.fetch_commands():
        _run(command, f"{source.url} at {source.ref} could not be fetched")
    return replace(source, commit=_commit_of(source.location), sha256=tree_digest(source.location))


def _commit_of(directory: Path) -> str:
    if not (directory / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(directory), "rev-parse", "--short=8", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _run(command: list[str], failure: str) -> None:
    # The tracker belongs to the pip that may be running us; a nested pip must not share it.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_BUILD_TRACKER"}
    run_captured(command, f"{failure}. {_OFFLINE}\nTried", environment=environment)


def _copy(source: Path, directory: Path) -> None:
    for file in tree_files(source):
        target = directory / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def _extract(archive: Path, directory: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            root = _root_in(member.name for member in members)
            if root is None:
                raise BuildError(f"{archive} has no {_HEADER}, so it is not an archive of stable-diffusion.cpp")
            inside = [member for member in members if member.name.startswith(root)]
            for member in inside:
                member.name = member.name[len(root) :]
            directory.mkdir(parents=True)
            tar.extractall(directory, [member for member in inside if member.name], filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise BuildError(f"{archive} cannot be unpacked: {error}. Give a complete .tar archive") from error


def _root_in(names: Iterable[str]) -> str | None:
    roots = [name.removesuffix(_HEADER.as_posix()) for name in names if name.endswith(f"/{_HEADER.as_posix()}")]
    return min(roots, key=len, default=None)
