"""The patches of csrc/patches against the pinned upstream source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from places import ROOT

from sdcffi import BuildError
from sdcffi._build.patches import Patch, apply_needed, read_patches
from sdcffi._build.places import csrc_directory

PATCHES = read_patches(csrc_directory() / "patches")
PATCHED = ("src", "ggml/src")  # the directories that they change
BROKEN = """\
Subject: Change a line that is not there
Upstream-issue: not reported
Needed-when: src/util.cpp: ggml_cpu
Test: none

--- a/src/util.cpp
+++ b/src/util.cpp
@@ -1,2 +1,2 @@
 #include "util.h"
-this line does not exist
+whatever
"""


@pytest.fixture(scope="module")
def patched(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    tree = tmp_path_factory.mktemp("patched") / "tree"
    for directory in PATCHED:
        shutil.copytree(pinned / directory, tree / directory)
    return tree, apply_needed(PATCHES, tree)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_patch_names_its_reason_and_a_test_that_exists(patch: Patch) -> None:
    assert patch.subject
    assert patch.upstream_issue
    assert (ROOT / patch.test).is_file()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_the_pinned_source_needs_the_patch(patch: Patch, pinned: Path) -> None:
    assert patch.is_needed(pinned)


def test_all_patches_apply_to_the_pinned_source(patched: tuple[Path, tuple[str, ...]]) -> None:
    assert patched[1] == tuple(patch.name for patch in PATCHES)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_patched_tree_does_not_need_the_patch_again(patch: Patch, patched: tuple[Path, tuple[str, ...]]) -> None:
    assert not patch.is_needed(patched[0])


def test_patching_leaves_no_files_behind(pinned: Path, patched: tuple[Path, tuple[str, ...]]) -> None:
    for directory in PATCHED:
        trees = (pinned / directory, patched[0] / directory)
        before, after = ({path.relative_to(tree) for path in tree.rglob("*")} for tree in trees)
        assert after == before


def test_a_patch_that_does_not_fit_names_file_and_hunk(pinned: Path, tmp_path: Path) -> None:
    (tmp_path / "0009-broken.patch").write_text(BROKEN)
    patch = Patch.read(tmp_path / "0009-broken.patch")
    (tmp_path / "src").mkdir()
    shutil.copy(pinned / "src" / "util.cpp", tmp_path / "src")
    assert patch.is_needed(tmp_path)
    with pytest.raises(BuildError, match=r"0009-broken\.patch.*hunk 1 of src/util\.cpp"):
        patch.apply(tmp_path)


def test_a_revision_without_the_text_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "0009-broken.patch").write_text(BROKEN)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/util.cpp").write_text("int other;\n")
    assert apply_needed(read_patches(tmp_path), tmp_path) == ()
    assert (tmp_path / "src/util.cpp").read_text() == "int other;\n"


def test_a_hunk_is_found_where_its_lines_have_moved(pinned: Path, tmp_path: Path) -> None:
    patch = next(patch for patch in PATCHES if patch.needed_file == "src/util.cpp")
    shutil.copytree(pinned / "src", tmp_path / "src")
    util = tmp_path / "src/util.cpp"
    util.write_text("// one\n// two\n// three\n" + util.read_text())
    patch.apply(tmp_path)
    assert not patch.is_needed(tmp_path)


def test_a_header_without_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0009.patch").write_text(BROKEN.replace("Needed-when", "Wanted-when"))
    with pytest.raises(BuildError, match="Needed-when"):
        read_patches(tmp_path)
