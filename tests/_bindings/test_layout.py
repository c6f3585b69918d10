"""The layout gate: a library, declarations or manifest that do not belong together are refused before any call."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gpus import copied

from sdcffi._bindings.layout import StructLayout, check_layout, layout_table
from sdcffi._machine.builds import locate
from sdcffi.errors import LayoutMismatchError

ONE = {"sd_x_t": StructLayout(8, {"a": (0, 4), "b": (4, 4)})}


def test_equal_layouts_pass() -> None:
    rows = [("sd_x_t", "", 0, 8), ("sd_x_t", "a", 0, 4), ("sd_x_t", "b", 4, 4)]
    check_layout(ONE, layout_table(rows))


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        ({"sd_x_t": StructLayout(8, {"a": (4, 4), "b": (0, 4)})}, r"sd_x_t\.a .*offset 0 with size 4.*offset 4"),
        ({"sd_x_t": StructLayout(16, {"a": (0, 4), "b": (4, 4)})}, r"sd_x_t .*8 bytes.* 16"),
        ({"sd_x_t": StructLayout(8, {"a": (0, 4), "b": (4, 1)})}, r"sd_x_t\.b .*size 4.*size 1"),
        ({"sd_x_t": StructLayout(8, {"a": (0, 4)})}, r"sd_x_t\.b is in the declarations"),
        ({"sd_x_t": StructLayout(8, {"a": (0, 4), "b": (4, 4), "c": (8, 4)})}, r"sd_x_t\.c is in the library"),
        ({}, r"sd_x_t is in the declarations"),
        ({**ONE, "sd_y_t": StructLayout(1)}, r"sd_y_t is in the library"),
    ],
)
def test_each_kind_of_difference_names_struct_field_and_values(compiled: dict[str, StructLayout], message: str) -> None:
    with pytest.raises(LayoutMismatchError, match=message):
        check_layout(ONE, compiled)


@pytest.fixture
def tampered(tmp_path: Path) -> Path:
    """A copy of the package's build that a test may damage."""
    return copied(tmp_path / "native")


def load_in_a_new_process(directory: Path) -> str:
    """Give what loading the build says on standard error; empty if it loads."""
    code = (
        "import sys; from sdcffi._bindings.library import load\n"
        "from sdcffi import SDError\n"
        "try: load(sys.argv[1])\n"
        "except SDError as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=False)
    return run.stderr


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)


def sign(directory: Path, file: str) -> None:
    """Make the manifest agree with a file, as somebody who tampers with both would."""
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][file] = hashlib.sha256((directory / file).read_bytes()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_an_untouched_copy_loads(tampered: Path) -> None:
    assert load_in_a_new_process(tampered) == ""


def test_a_changed_cdef_is_refused_by_its_digest(tampered: Path) -> None:
    edit(tampered / "cdef.h", lambda text: text + "\n")
    message = load_in_a_new_process(tampered)
    assert "LayoutMismatchError" in message
    assert "cdef.h was changed after the build: its sha256 is" in message


def test_a_changed_library_is_refused_by_its_digest(tampered: Path) -> None:
    library = locate(tampered).library
    library.write_bytes(library.read_bytes() + b"\0")
    message = load_in_a_new_process(tampered)
    assert "LayoutMismatchError" in message
    assert library.name in message


def test_a_changed_digest_in_the_manifest_is_refused(tampered: Path) -> None:
    edit(tampered / "manifest.json", lambda text: re.sub(r'("cdef\.h": ?")[0-9a-f]{8}', r"\g<1>00000000", text))
    message = load_in_a_new_process(tampered)
    assert "LayoutMismatchError" in message
    assert "the manifest has 00000000" in message


def test_a_manifest_that_is_no_manifest_is_refused(tampered: Path) -> None:
    (tampered / "manifest.json").write_text("[1, 2]")
    assert "LayoutMismatchError" in load_in_a_new_process(tampered)


def test_swapped_fields_are_refused_although_all_digests_agree(tampered: Path) -> None:
    edit(
        tampered / "cdef.h",
        lambda text: re.sub(r"(const char ?\* ?model_path;)(\s+)(const char ?\* ?clip_l_path;)", r"\3\2\1", text),
    )
    sign(tampered, "cdef.h")
    message = load_in_a_new_process(tampered)
    assert "LayoutMismatchError" in message
    assert "sd_ctx_params_t.clip_l_path is declared at offset 0 with size 8" in message
    assert "offset 8" in message


def test_a_missing_field_is_refused_although_all_digests_agree(tampered: Path) -> None:
    edit(tampered / "cdef.h", lambda text: re.sub(r"float eta;", "", text, count=1))
    sign(tampered, "cdef.h")
    message = load_in_a_new_process(tampered)
    assert "sd_sample_params_t.eta is in the library but not in the declarations" in message


def test_declarations_that_are_no_c_are_refused(tampered: Path) -> None:
    edit(tampered / "cdef.h", lambda text: text + "\n#error }")
    sign(tampered, "cdef.h")
    message = load_in_a_new_process(tampered)
    assert "LayoutMismatchError" in message
    assert "cannot be read as C declarations" in message
