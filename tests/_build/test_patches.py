"""The patches of csrc/patches: their headers, what each does to a tree, and what stops a build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import engines
import pytest
from places import ROOT

from sdcffi import BuildError
from sdcffi._build.patches import Finding, Patch, examine, find_patches, patch_tree, read_patches
from sdcffi._build.places import csrc_directory
from sdcffi._build.revisions import Revision, read_revisions

REVISIONS = read_revisions(csrc_directory())
OLD, NEW = REVISIONS.default, REVISIONS.newest
PATCHES = read_patches(csrc_directory() / "patches", REVISIONS.names)
PATCH = """\
Subject: Say two
Upstream-issue: not reported
Why-a-patch: it is for tests
Fault: int one() {\\n return 1;
Fault: int uno()
Test: none
2026-05: applies
2026-08: mended in 0123abcd

It says one.

--- a/src/util.cpp
+++ b/src/util.cpp
@@ -1,3 +1,3 @@
 int one() {
-    return 1;
+    return 2;
 }
"""
SOURCE = "int one() {\n    return 1;\n}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of one file, and directories for patches and others."""
    return write(tmp_path / "tree", {"src/util.cpp": SOURCE}).resolve()


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(text.encode())
    return directory


def patches(directory: Path, *texts: str) -> tuple[Patch, ...]:
    files = {f"{number:04}-say.patch": text for number, text in enumerate(texts, 1)}
    return read_patches(write(directory.parent / "patches", files), REVISIONS.names)


def found(tree: Path, revision: Revision | None, *texts: str) -> list[Finding]:
    return list(examine(patches(tree, *texts), tree, REVISIONS, revision))


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_patch_names_its_reasons_and_a_test_that_exists(patch: Patch) -> None:
    assert patch.subject
    assert patch.upstream_issue
    assert patch.why
    assert patch.faults
    assert (ROOT / patch.test).is_file()


@pytest.fixture(scope="module")
def upstream() -> Path:
    """The tree of the default revision, to read only."""
    return engines.tree_of(OLD.name)


@pytest.fixture(scope="module")
def patched(upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Finding, ...]]:
    tree = tmp_path_factory.mktemp("patched") / "tree"
    shutil.copytree(upstream, tree)
    return tree, patch_tree(PATCHES, tree, REVISIONS, OLD)


def test_the_headers_are_true_of_the_default_revision(patched: tuple[Path, tuple[Finding, ...]]) -> None:
    verdicts = {finding.patch.name: finding.verdict for finding in patched[1]}
    said = {patch.name: patch.verdicts[OLD.name] for patch in PATCHES}
    assert verdicts == {
        name: "applied" if text == "applies" else text[: len(verdicts[name])] for name, text in said.items()
    }


def test_patching_changes_the_files_that_patches_name_and_no_others(
    upstream: Path, patched: tuple[Path, tuple[Finding, ...]]
) -> None:
    before, after = (
        {file.relative_to(tree): file.read_bytes() for file in tree.rglob("*") if file.is_file()}
        for tree in (upstream, patched[0])
    )
    assert after.keys() == before.keys()
    named = {hunk.path for patch in PATCHES if patch.verdicts[OLD.name] == "applies" for hunk in patch.hunks}
    assert {path.as_posix() for path in after if after[path] != before[path]} == {
        OLD.moved.get(path, path) for path in named
    }


def test_a_patch_applies_to_the_revision_that_it_names(tree: Path) -> None:
    (finding,) = patch_tree(patches(tree, PATCH), tree, REVISIONS, OLD)
    assert str(finding) == "0001-say.patch: applied"
    assert (tree / "src/util.cpp").read_text() == SOURCE.replace("1", "2")


def test_examining_changes_nothing(tree: Path) -> None:
    assert found(tree, OLD, PATCH)[0].verdict == "applied"
    assert (tree / "src/util.cpp").read_text() == SOURCE


def test_lines_are_found_wherever_they_are_in_the_file(tree: Path) -> None:
    write(tree, {"src/util.cpp": f"// one\n// two\n{SOURCE}"})
    patch_tree(patches(tree, PATCH), tree, REVISIONS, OLD)
    assert (tree / "src/util.cpp").read_text() == f"// one\n// two\n{SOURCE.replace('1', '2')}"


def test_the_line_ends_of_a_file_are_kept(tree: Path) -> None:
    write(tree, {"src/util.cpp": SOURCE.replace("\n", "\r\n")})
    patch_tree(patches(tree, PATCH), tree, REVISIONS, OLD)
    assert (tree / "src/util.cpp").read_bytes() == SOURCE.replace("1", "2").replace("\n", "\r\n").encode()


def test_a_moved_file_is_found_in_the_revision_that_moved_it(tree: Path) -> None:
    (tree / "src/core").mkdir()
    (tree / "src/util.cpp").rename(tree / "src/core/util.cpp")
    assert NEW.moved["src/util.cpp"] == "src/core/util.cpp"
    assert found(tree, NEW, PATCH.replace("mended in 0123abcd", "applies"))[0].verdict == "applied"
    assert found(tree, None, PATCH)[0].verdict == "applied"
    assert found(tree, OLD, PATCH)[0].reason == "there is no src/util.cpp"


def test_a_later_patch_sees_what_an_earlier_one_did(tree: Path) -> None:
    second = (
        PATCH.replace("return 2", "return 3")
        .replace("return 1", "return 2")
        .replace("int one() {\\n return 2;", "int one() {")
    )
    assert [finding.verdict for finding in found(tree, OLD, PATCH, second)] == ["applied", "applied"]
    assert [finding.verdict for finding in found(tree, OLD, second, PATCH)] == ["unknown", "applied"]


@pytest.mark.parametrize(("copies", "places"), [("int two();\n", "no place"), (SOURCE * 2, "2 places")])
def test_lines_that_are_nowhere_or_in_several_places_name_patch_file_and_hunk(
    tree: Path, copies: str, places: str
) -> None:
    write(tree, {"src/util.cpp": copies})
    message = rf"0001-say\.patch.*hunk 1 of src/util\.cpp is found in {places}"
    with pytest.raises(BuildError, match=message):
        patch_tree(patches(tree, PATCH), tree, REVISIONS, OLD)
    assert (tree / "src/util.cpp").read_text() == copies


def test_equal_hunks_need_as_many_places_as_there_are_of_them(tree: Path) -> None:
    hunk = PATCH[PATCH.index("@@") :]
    twice = PATCH + hunk.replace("-1,3 +1,3", "-4,3 +4,3")
    assert found(tree, OLD, twice)[0].verdict == "unknown"
    write(tree, {"src/util.cpp": SOURCE * 2})
    patch_tree(patches(tree, twice), tree, REVISIONS, OLD)
    assert (tree / "src/util.cpp").read_text() == SOURCE.replace("1", "2") * 2


def test_two_hunks_never_share_a_place(tree: Path) -> None:
    other = PATCH[PATCH.index("@@") :].replace("-1,3 +1,3", "-4,3 +4,3").replace("return 2", "return 3")
    assert "hunks 1 and 2 of src/util.cpp are found in the same place" in found(tree, OLD, PATCH + other)[0].reason


def test_a_header_that_says_mended_is_refused_where_the_fault_is(tree: Path) -> None:
    with pytest.raises(
        BuildError, match=r"0001-say\.patch.*says mended in 0123abcd, but the fault is in src/util\.cpp"
    ):
        patch_tree(patches(tree, PATCH), tree, REVISIONS, NEW)
    write(tree, {"src/util.cpp": "int one();\n"})
    (finding,) = patch_tree(patches(tree, PATCH), tree, REVISIONS, NEW)
    assert str(finding) == "0001-say.patch: mended (in 0123abcd)"


def test_what_is_not_needed_is_left_as_it_is(tree: Path) -> None:
    (finding,) = patch_tree(
        patches(tree, PATCH.replace("mended in 0123abcd", "not needed: the guard does it")), tree, REVISIONS, NEW
    )
    assert str(finding) == "0001-say.patch: not needed (the guard does it)"
    assert (tree / "src/util.cpp").read_text() == SOURCE


def test_fault_lines_that_show_no_fault_are_refused(tree: Path) -> None:
    wrong = PATCH.replace("Fault: int one() {\\n return 1;\n", "")
    with pytest.raises(BuildError, match=r"0001-say\.patch.*no text of its Fault lines"):
        patch_tree(patches(tree, wrong), tree, REVISIONS, OLD)


@pytest.mark.parametrize(
    "text", ["int one()  {\n\treturn 1;\n}\n", "int one()\n{ return 1; }\n", "int uno() { return 1; }\n"]
)
def test_the_fault_is_looked_for_in_every_file_whatever_its_white_space(tree: Path, text: str) -> None:
    (tree / "src/util.cpp").unlink()
    write(tree, {"engine/new place.cc": text})
    (finding,) = found(tree, None, PATCH)
    assert finding.verdict == "unknown"
    assert "the fault is in engine/new place.cc" in finding.reason


def test_a_fault_that_is_nowhere_is_mended(tree: Path) -> None:
    write(tree, {"src/util.cpp": "int one() { return 2; }\n", "README.md": SOURCE})
    assert found(tree, None, PATCH)[0].verdict == "mended"


def test_of_two_patches_for_one_fault_one_is_enough(tree: Path) -> None:
    other = PATCH.replace("src/util.cpp", "src/other.cpp")
    assert [finding.verdict for finding in found(tree, None, other, PATCH)] == ["mended", "applied"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_patch_leaves_the_work_to_the_one_that_does_it_in_the_newest(tree: Path, order: int) -> None:
    second, first = ("0002-say", "0001-say")[::order]
    old = PATCH.replace("mended in 0123abcd", f"not needed: {second} does it there")
    new = PATCH.replace("return 2", "return 3").replace(
        "2026-05: applies", f"2026-05: not needed: {first} does it there"
    )
    new = new.replace("mended in 0123abcd", "applies")
    verdicts = ["not needed", "applied"][::order]
    assert [finding.verdict for finding in found(tree, None, *[old, new][::order])] == verdicts
    write(tree, {"src/util.cpp": SOURCE.replace("1", "4")})
    assert [finding.verdict for finding in found(tree, None, *[old, new][::order])] == ["mended", "mended"]


def test_lines_in_a_file_that_no_revision_names_are_told(tree: Path) -> None:
    (tree / "src/util.cpp").rename(tree / "src/new.cpp")
    with pytest.raises(BuildError, match=r"; lines of src/util\.cpp are in src/new\.cpp(.|\n)*Say two"):
        patch_tree(patches(tree, PATCH), tree, REVISIONS, None)


def test_an_unknown_patch_can_be_left_out_by_name(tree: Path) -> None:
    (tree / "src/util.cpp").rename(tree / "src/new.cpp")
    (finding,) = patch_tree(patches(tree, PATCH), tree, REVISIONS, None, ["0001-say.patch"])
    assert finding.verdict == "left out"
    assert (tree / "src/new.cpp").read_text() == SOURCE


@pytest.mark.parametrize("revision", [OLD, None])
def test_only_an_unknown_patch_can_be_left_out(tree: Path, revision: Revision | None) -> None:
    with pytest.raises(BuildError, match=r"--allow-unpatched 0001-say\.patch: not unknown"):
        patch_tree(patches(tree, PATCH), tree, REVISIONS, revision, ["0001-say.patch"])


@pytest.mark.parametrize("name", ["0001-say.patch", "0001-say", "say.patch", "say"])
def test_a_patch_may_be_named_without_number_and_suffix(tree: Path, name: str) -> None:
    assert find_patches(patches(tree, PATCH), [name]) == ("0001-say.patch",)


def test_a_name_that_is_no_patch_is_refused_with_the_legal_ones(tree: Path) -> None:
    with pytest.raises(BuildError, match=r"--allow-unpatched sing: no such patch \(legal: 0001-say\.patch\)"):
        find_patches(patches(tree, PATCH), ["sing"])


@pytest.mark.parametrize(
    "line", [line for line in PATCH.split("\n\n", 1)[0].split("\n") if not line.startswith("Fault")]
)
def test_a_header_without_a_line_is_refused(tree: Path, line: str) -> None:
    with pytest.raises(BuildError, match=rf"0001-say\.patch: .*{line.split(':')[0]}"):
        patches(tree, PATCH.replace(line + "\n", ""))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2026-08: perhaps", "2026-08: VERDICT"),
        ("2026-08: mended", "2026-08: VERDICT"),
        ("2026-08: not needed", "2026-08: VERDICT"),
        ("2026-08: applies\n1999-01: applies", "1999-01 is no line of a header"),
    ],
)
def test_a_wrong_verdict_is_refused(tree: Path, line: str, problem: str) -> None:
    with pytest.raises(BuildError, match=problem):
        patches(tree, PATCH.replace("2026-08: mended in 0123abcd", line))


def test_a_hunk_without_old_lines_is_refused(tree: Path) -> None:
    with pytest.raises(BuildError, match=r"hunk 1 of src/util\.cpp has no line"):
        patches(tree, PATCH[: PATCH.index("@@")] + "@@ -0,0 +1,1 @@\n+int two();\n")


def test_a_moved_file_in_a_copy_of_the_real_tree_stops_the_real_command(upstream: Path, tmp_path: Path) -> None:
    moving = next(
        patch
        for patch in PATCHES
        if patch.verdicts[OLD.name] == "applies" and len({hunk.path for hunk in patch.hunks}) == 1
    )
    path = moving.hunks[0].path
    tree = tmp_path / "tree"
    shutil.copytree(upstream, tree)
    (tree / "elsewhere").mkdir()
    shutil.move(tree / path, tree / "elsewhere")
    command = [
        sys.executable,
        str(ROOT / "build_native.py"),
        "--backend",
        "cpu",
        "--source",
        str(tree),
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no verified revision" in done.stderr
    assert f"{moving.name}: unknown (the fault is in " in done.stderr
    assert f"are in elsewhere/{Path(path).name}" in done.stderr
    untouched = [
        patch
        for patch in PATCHES
        if patch.verdicts[OLD.name] == "applies" and path not in {hunk.path for hunk in patch.hunks}
    ]
    assert all(f"{patch.name}: applied" in done.stderr for patch in untouched)
    assert not (tmp_path / "out").exists()


def test_the_newest_revision_needs_few_and_short_patches() -> None:
    """What a hook or a check of ours can do is no patch; each patch is work for whoever moves to another revision."""
    applied = [patch for patch in PATCHES if patch.verdicts[NEW.name] == "applies"]
    assert len(applied) <= 50
    lengths = {
        patch.name: sum(line[:1] in (b"+", b"-") for hunk in patch.hunks for line in hunk.text) for patch in applied
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}
