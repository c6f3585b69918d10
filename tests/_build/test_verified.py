"""The verified revisions of csrc/upstream.toml: what is stated of them, and that a build is of the one it names."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import engines
import pytest
from places import ROOT
from stand_in import ENGINE, StandIn

from sdcffi import BuildError
from sdcffi._build.digests import source_digest
from sdcffi._build.pipeline import compile_native
from sdcffi._build.revisions import Revision, read_revisions
from sdcffi._build.sources import locate_source
from sdcffi._machine.builds import read_build

pytestmark = pytest.mark.usefixtures("cache")

CSRC = ROOT / "csrc"
REVISIONS = read_revisions(CSRC)


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.autocrlf=false"]
    command = ["git", *identity, "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit_all(directory: Path) -> str:
    git(directory, "init", "--quiet")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "-m", "all")
    return git(directory, "rev-parse", "HEAD")


class InGit:
    """The stand-in's upstream as a repository with two submodules, of which a build needs ggml only."""

    def __init__(self, stand_in: StandIn, directory: Path) -> None:
        self.stand_in, self.ggml, self.frontend = stand_in, directory / "ggml", directory / "frontend"
        for repository, file in ((self.ggml, "CMakeLists.txt"), (self.frontend, "index.html")):
            repository.mkdir()
            (repository / file).write_bytes(b"one\r\ntwo\n")
            commit_all(repository)
        upstream = stand_in.upstream
        shutil.rmtree(upstream / "ggml")
        (upstream / "src/crlf.h").write_bytes(b"// one\r\n// two\r\n")
        (upstream / "link").symlink_to("src/crlf.h")
        git(upstream, "init", "--quiet")
        for repository in (self.ggml, self.frontend):
            git(upstream, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(repository))
        self.commit, self.part = commit_all(upstream), git(self.ggml, "rev-parse", "HEAD")
        stand_in.verify(commit=self.commit, origin=self.origin())

    def origin(self, part: str = "") -> str:
        return (
            f'[revision.git]\nurl = "{self.stand_in.upstream.as_uri()}"\n[[revision.git.submodules]]\n'
            f'path = "ggml"\nurl = "{self.ggml.as_uri()}"\ncommit = "{part or self.part}"\n'
        )

    def digest(self) -> str:
        """The digest as upstream.toml defines it, from git's objects alone."""
        listings = (("", self.stand_in.upstream), ("ggml/", self.ggml))
        lines = [
            f"{blob} {prefix}{path}\n"
            for prefix, repository in listings
            for blob, path in re.findall(r"blob (\w+)\t(.+)", git(repository, "ls-tree", "-r", "HEAD"))
        ]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.fixture
def in_git(stand_in: StandIn, tmp_path: Path) -> InGit:
    return InGit(stand_in, tmp_path)


def test_the_default_is_the_newest_that_has_a_package() -> None:
    assert REVISIONS.default is [revision for revision in REVISIONS.all if revision.package][-1]


def test_the_newest_is_the_last() -> None:
    assert list(REVISIONS.all) == sorted(REVISIONS.all, key=lambda revision: revision.date)
    assert REVISIONS.named("newest") is REVISIONS.newest is REVISIONS.all[-1]


@pytest.mark.parametrize("revision", REVISIONS.all, ids=lambda revision: revision.name)
def test_a_revision_is_stated_in_full(revision: Revision) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", revision.commit)
    assert re.fullmatch(r"[0-9a-f]{64}", revision.tree)
    assert revision.name == f"{revision.date:%Y-%m}"
    assert (revision.package is None) != (revision.git is None)
    for submodule in revision.git.submodules if revision.git else ():
        assert submodule.path == "ggml"
        assert re.fullmatch(r"[0-9a-f]{40}", submodule.commit)


@pytest.fixture(scope="module")
def default_tree() -> Path:
    """From the user's cache, which no fixture has replaced yet; to read only."""
    return engines.tree_of(REVISIONS.default.name)


def test_the_package_has_the_stated_tree(default_tree: Path) -> None:
    assert source_digest(default_tree) == REVISIONS.default.tree


def test_files_that_moved_are_files_of_the_default_revision(default_tree: Path) -> None:
    assert all((default_tree / path).is_file() for path in REVISIONS.newest.moved)
    assert len(set(REVISIONS.newest.moved.values())) == len(REVISIONS.newest.moved)


def test_a_name_that_is_no_revision_is_refused_with_the_legal_ones(cache: Path) -> None:
    with pytest.raises(BuildError, match=r"--engine 1999-01: no such revision \(legal: 2026-05, 2026-08, newest\)"):
        locate_source(None, CSRC, cache, engine="1999-01")


def test_a_revision_comes_from_where_it_is(cache: Path) -> None:
    assert locate_source(None, CSRC, cache).origin == "pypi"
    assert locate_source(None, CSRC, cache, engine="2026-05") == locate_source("pypi", CSRC, cache)
    newest = locate_source(None, CSRC, cache, engine="newest")
    assert newest == locate_source("git", CSRC, cache, engine="2026-08")
    assert (newest.origin, newest.ref, newest.sha256) == ("git", REVISIONS.newest.commit, REVISIONS.newest.tree)


def test_a_revision_is_not_taken_from_where_it_is_not(cache: Path) -> None:
    with pytest.raises(BuildError, match=r"revision 2026-08 .* is in no package"):
        locate_source("pypi", CSRC, cache, engine="2026-08")
    with pytest.raises(BuildError, match=r"revision 2026-05 .* as a package only"):
        locate_source("git", CSRC, cache, engine="2026-05")


def test_the_digest_is_that_of_gits_objects(in_git: InGit) -> None:
    assert (in_git.stand_in.upstream / "frontend/index.html").is_file()
    assert source_digest(in_git.stand_in.upstream) == in_git.digest()


def test_every_file_of_a_tree_counts(in_git: InGit) -> None:
    upstream = in_git.stand_in.upstream
    digests = [source_digest(upstream)]
    for path in ("src/engine.c", "ggml/CMakeLists.txt", "LICENSE"):
        with (upstream / path).open("a") as file:
            file.write("\n")
        digests.append(source_digest(upstream))
    (upstream / "link").unlink()
    (upstream / "link").symlink_to("src/engine.c")
    digests.append(source_digest(upstream))
    assert len(set(digests)) == len(digests)
    (upstream / "frontend/index.html").write_text("another")
    assert source_digest(upstream) == digests[-1]


def test_a_revision_is_built_from_git_whatever_the_users_line_ends(
    in_git: InGit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gitconfig").write_text("[core]\nautocrlf = true\neol = crlf\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    plan = in_git.stand_in.plan("--engine", "2026-05", "--source", "git")
    manifest = read_build(compile_native(plan)).manifest
    expected = {"source": "git", "version": "2026-05", "commit": in_git.commit[:8], "sha256": in_git.digest()}
    assert manifest["upstream"] == {**expected, "revision": "2026-05", "date": "2026-05-06"}
    assert manifest["patches"] == ["0001-answer.patch"]
    assert manifest["request"]["engine"] == "2026-05"
    assert not (plan.source.location / "frontend/index.html").exists()  # what no build needs is not fetched
    assert "no verified revision" not in capfd.readouterr().err


def test_another_tree_of_the_same_commit_is_refused(in_git: InGit) -> None:
    file = in_git.stand_in.csrc / "upstream.toml"
    file.write_text(file.read_text().replace(in_git.digest(), "f" * 64))
    with pytest.raises(BuildError, match=rf"not revision 2026-05 (.|\n)*f{{64}}(.|\n)*{in_git.digest()}") as caught:
        compile_native(in_git.stand_in.plan("--engine", "2026-05", "--source", "git"))
    assert "Delete it" in str(caught.value)


def test_a_submodule_of_another_commit_is_refused(in_git: InGit) -> None:
    (in_git.ggml / "more.txt").touch()
    other = commit_all(in_git.ggml)
    in_git.stand_in.verify(commit=in_git.commit, origin=in_git.origin(other))
    with pytest.raises(BuildError, match=rf"submodule ggml is at {in_git.part}, and upstream\.toml has {other}"):
        compile_native(in_git.stand_in.plan("--engine", "2026-05", "--source", "git"))


def test_a_commit_that_the_repository_lacks_says_what_was_tried(in_git: InGit) -> None:
    in_git.stand_in.verify(commit="1" * 40, origin=in_git.origin())
    with pytest.raises(BuildError, match=r"could not be fetched.*--source PATH(.|\n)*fetch"):
        compile_native(in_git.stand_in.plan("--engine", "2026-05", "--source", "git"))


def test_a_directory_with_a_revisions_files_is_that_revision(stand_in: StandIn) -> None:
    stand_in.verify()
    for arguments in ((), ("--engine", "2026-05")):
        manifest = read_build(compile_native(stand_in.plan(*arguments))).manifest
        assert (manifest["upstream"]["source"], manifest["upstream"]["revision"]) == ("path", "2026-05")
    assert "engine:   verified revision 2026-05" in stand_in.plan("--dry-run").describe()


def test_an_archive_with_a_revisions_files_is_that_revision(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.verify()
    with tarfile.open(tmp_path / "upstream.tar.gz", "w:gz") as archive:
        archive.add(stand_in.upstream, "upstream")
    native = compile_native(stand_in.plan("--source", str(tmp_path / "upstream.tar.gz")))
    assert read_build(native).manifest["upstream"]["revision"] == "2026-05"


def test_a_changed_directory_is_not_the_revision_that_was_asked_for(stand_in: StandIn) -> None:
    stand_in.verify()
    (stand_in.upstream / "src/engine.c").write_text(f"{ENGINE}\n")
    assert "no verified revision" in stand_in.plan("--dry-run").describe()
    with pytest.raises(BuildError, match=r"not revision 2026-05 (.|\n)*leave --engine out"):
        compile_native(stand_in.plan("--engine", "2026-05"))
    native = compile_native(stand_in.plan())
    assert read_build(native).manifest["upstream"]["revision"] is None
    with pytest.raises(BuildError, match="not revision 2026-05"):  # the other build is no answer to this request
        compile_native(stand_in.plan("--engine", "2026-05"))
