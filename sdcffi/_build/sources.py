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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .._files import file_digest
from ..errors import BuildError
from .commands import pip_environment, run_captured
from .digests import NEEDED_SUBMODULE, source_digest, source_files
from .revisions import Package, Repository, Revision, Revisions, Submodule, read_revisions

_HEADER = Path("include", "stable-diffusion.h")
_OFFLINE = "Without network, use `--source PATH` with a checkout of stable-diffusion.cpp or with its archive."


@dataclass(frozen=True)
class Source:
    """Where an upstream tree comes from.

    Parameters
    ----------
    origin : str
        ``pypi``, ``git`` or ``path``.
    version, commit : str
        Version and commit; ``unknown`` if they are not known.
    sha256 : str or None
        Digest of the archive, or `digests.source_digest` of a tree. None for a git revision that is not verified before
        `fetch`.
    location : Path
        The archive or directory; that of a remote source exists after `fetch`.
    package, url, ref : str
        What to download: a requirement for pip, or a git repository and its revision.
    submodules : tuple of Submodule
        The submodules to download for a verified git revision.
    revision : Revision or None
        The verified revision that it must be. None: it may be any revision.
    """

    origin: str
    version: str
    commit: str
    sha256: str | None
    location: Path
    package: str = ""
    url: str = ""
    ref: str = ""
    submodules: tuple[Submodule, ...] = ()
    revision: Revision | None = None

    def __str__(self) -> str:
        name = {"pypi": self.package, "git": f"{self.url} at {self.ref}"}.get(self.origin, str(self.location))
        return f"{name} (upstream commit {self.commit}, sha256 {self.sha256 or 'known once fetched'})"

    def fetch_commands(self) -> list[list[str]]:
        """Return the command lines that `fetch` runs if the source isn't in the cache."""
        if self.origin == "pypi":
            return [_pip_download(self.package, self.location.parent)]
        return list(_git_commands(self)) if self.origin == "git" else []

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
        if self.origin == "git" and (self.sha256 is None or self.submodules):
            return _clone(self)
        return self

    def identify(self, revisions: Revisions, digest: str) -> Revision | None:
        """Return the verified revision of a tree with this digest, or None.

        Raises
        ------
        BuildError
            If the source must be a certain revision, and isn't; the message has both digests.
        """
        found = revisions.of_tree(digest)
        if self.revision is not None and found != self.revision:
            advice = (
                "Give a complete and unchanged checkout, or leave --engine out to build an unverified revision."
                if self.origin == "path"
                else "Delete it to download it again; if that does not help, do not trust where it comes from."
            )
            raise BuildError(
                f"{self.location} is not revision {self.revision}: its files differ\n"
                f"  expected digest {self.revision.tree}\n  found           {digest}\n{advice}"
            )
        return found

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


def locate_source(
    spec: str | None, csrc: Path, cache: Path, git_url: str | None = None, engine: str | None = None
) -> Source:
    """Return the source that a request names.

    Parameters
    ----------
    spec : str or None
        ``pypi``, ``git``, ``git@REF`` or a path. None: wherever the revision comes from.
    csrc, cache : Path
        Directories of the C sources, and of the cache.
    git_url : str, optional
        The repository for git, in place of upstream's.
    engine : str, optional
        The verified revision that it must be. Default: the default revision, unless `spec` may be any revision.
    """
    revisions = read_revisions(csrc)
    revision = revisions.named(engine) if engine else revisions.default
    if spec is None:
        spec = "pypi" if revision.package else "git"
    elif engine is None and spec != "pypi":
        return _any_revision(spec, revisions, cache, git_url)
    if spec == "pypi":
        if revision.package is None:
            raise BuildError(f"revision {revision} is in no package: leave --source out, or use --source git")
        return _packaged(revision, revision.package, cache)
    if spec == "git":
        if revision.git is None:
            raise BuildError(f"revision {revision} is verified as a package only: leave --source out")
        return _in_git(revision, revision.git, cache, git_url)
    return replace(_any_revision(spec, revisions, cache, git_url), commit=revision.commit[:8], revision=revision)


def _packaged(revision: Revision, package: Package, cache: Path) -> Source:
    file = f"{package.name.replace('-', '_')}-{package.version}.tar.gz"
    location = cache / "downloads" / package.sha256 / file
    requirement = f"{package.name}=={package.version}"
    return Source(
        "pypi",
        package.version,
        revision.commit[:8],
        package.sha256,
        location,
        package=requirement,
        revision=revision,
    )


def _in_git(revision: Revision, repository: Repository, cache: Path, url: str | None) -> Source:
    url = url or repository.url
    return Source(
        "git",
        revision.name,
        revision.commit[:8],
        revision.tree,
        _clone_directory(cache, f"{url}@{revision.commit}"),
        url=url,
        ref=revision.commit,
        submodules=repository.submodules,
        revision=revision,
    )


def _any_revision(spec: str, revisions: Revisions, cache: Path, url: str | None) -> Source:
    if spec == "git" or spec.startswith("git@"):
        url = url or next(revision.git.url for revision in reversed(revisions.all) if revision.git)
        ref = spec.partition("@")[2] or "HEAD"
        return Source("git", ref, "unknown", None, _clone_directory(cache, url), url=url, ref=ref)
    source = _local(Path(spec).expanduser().absolute())
    known = revisions.of_tree(source.sha256 or "")
    return replace(source, commit=known.commit[:8]) if known else source


def _clone_directory(cache: Path, identity: str) -> Path:
    return cache / "git" / hashlib.sha256(identity.encode()).hexdigest()[:12]


def _local(path: Path) -> Source:
    if path.is_dir():
        if not (path / _HEADER).is_file():
            raise BuildError(f"--source {path}: no {_HEADER} in it, so it is not a checkout of stable-diffusion.cpp")
        return Source("path", "unknown", _commit_of(path), source_digest(path), path)
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


def _git_commands(source: Source) -> Iterator[list[str]]:
    clone = source.location
    yield from _checkout_commands(source.url, source.ref, clone)
    for submodule in source.submodules:
        yield from _checkout_commands(submodule.url, submodule.commit, clone / submodule.path)
    if not source.submodules:
        yield [*_git(clone), "submodule", "update", "--quiet", "--init", "--depth", "1", "--", NEEDED_SUBMODULE]


def _checkout_commands(url: str, ref: str, directory: Path) -> Iterator[list[str]]:
    yield ["git", "init", "--quiet", str(directory)]
    yield [*_git(directory), "fetch", "--quiet", "--depth", "1", url, ref]
    yield [*_git(directory), "checkout", "--quiet", "--force", "FETCH_HEAD"]


def _git(directory: Path) -> list[str]:
    # Whatever the user's settings: files have the line ends that upstream gave them.
    return ["git", "-c", "core.autocrlf=false", "-c", "core.eol=lf", "-C", str(directory)]


def _clone(source: Source) -> Source:
    if shutil.which("git") is None:
        raise BuildError("this source needs git: install it (apt, dnf, brew, winget: git), or use --source pypi")
    source.location.mkdir(parents=True, exist_ok=True)
    for command in source.fetch_commands():
        _run(command, f"{source.url} at {source.ref} could not be fetched")
    for submodule in source.submodules:
        _check_submodule(source, submodule)
    return replace(source, commit=_commit_of(source.location), sha256=source_digest(source.location))


def _check_submodule(source: Source, submodule: Submodule) -> None:
    """Raise BuildError unless a submodule's commit is the stated one, in its directory and in the tree around it."""
    for directory, name in ((source.location, f"HEAD:{submodule.path}"), (source.location / submodule.path, "HEAD")):
        commit = run_captured([*_git(directory), "rev-parse", name], "a submodule's commit could not be read").strip()
        if commit != submodule.commit:
            raise BuildError(
                f"{source.url} at {source.ref}: submodule {submodule.path} is at {commit}, and upstream.toml has"
                f" {submodule.commit}"
            )


def _commit_of(directory: Path) -> str:
    if not (directory / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(directory), "rev-parse", "--short=8", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _run(command: list[str], failure: str) -> None:
    run_captured(command, f"{failure}. {_OFFLINE}\nTried", environment=pip_environment())


def _copy(source: Path, directory: Path) -> None:
    for file in source_files(source):
        target = directory / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target, follow_symlinks=False)


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
