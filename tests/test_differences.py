"""The page of differences from upstream: its rows name patches and tests that are there, and leave no patch out."""

from __future__ import annotations

import pytest
from places import ROOT
from revisions.image_differences import PAGE, Difference, has_test, read_parts, with_tables

from sdcffi._build.patches import read_patches
from sdcffi._build.places import csrc_directory
from sdcffi._build.revisions import read_revisions

PARTS = read_parts()
ROWS = [row for part in PARTS for row in part.differences]
NAMES = read_revisions(csrc_directory()).names
PATCHES = {patch.name.removesuffix(".patch"): patch for patch in read_patches(csrc_directory() / "patches", NAMES)}


def patches_of(row: Difference) -> list[str]:
    return [path.rpartition("/")[2].removesuffix(".patch") for path in row.by if path.endswith(".patch")]


def test_the_page_has_what_the_rows_say() -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "the tables are old. Run: python -m tests.revisions --write"


@pytest.mark.parametrize("row", ROWS, ids=[row.case for row in ROWS])
def test_a_row_names_what_is_there(row: Difference) -> None:
    assert all(vars(row).values())
    assert not [path for path in row.by if not (ROOT / path).is_file()]
    assert has_test(row.test)
    assert not set(row.revisions) - set(NAMES)
    applied = {name for patch in patches_of(row) for name in NAMES if PATCHES[patch].verdicts[name] == "applies"}
    assert applied in (set(row.revisions), set()), "the patches apply to other revisions than those with the fault"


def test_every_patch_changes_an_image_or_is_said_to_change_none() -> None:
    named = {patch for row in ROWS for patch in patches_of(row)}
    same = {patch for part in PARTS for patch in part.same_image}
    assert not named & same
    assert named | same == set(PATCHES)


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert has_test("tests/test_differences.py::test_the_page_has_what_the_rows_say")
    assert not has_test("tests/test_differences.py::test_the_page")
    assert not has_test("tests/test_nothing.py")
