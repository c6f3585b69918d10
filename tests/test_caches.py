"""A cache that cannot be found, read or written is no cache, and what is damaged in one is not in it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpus import copied

import sdcffi
from sdcffi._build import pipeline
from sdcffi._build.pipeline import _prepared
from sdcffi._files import cache_directory, read_kept_json
from sdcffi._machine.builds import is_intact, read_build
from sdcffi._records import digests
from sdcffi.engine import tuned
from sdcffi.errors import LayoutMismatchError

DEEP = "[" * 100_000
DAMAGED = {
    "nested deep": DEEP,
    "nested deep in an object": '{"a":' * 100_000,
    "empty": "",
    "cut off": '{"state": {"size": 1',
    "another thing": "[1, 2]",
    "a number": "7",
    "no text": "\udcff\udcfe",
    "a large number": '{"schema": ' + "9" * 5000 + "}",
}


@pytest.fixture(params=DAMAGED)
def damage(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Writes something damaged over a file."""
    content = DAMAGED[request.param].encode("utf-8", "surrogateescape")
    return lambda path: path.write_bytes(content)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without home, as in a container with a random user id."""
    for name in ("HOME", "XDG_CACHE_HOME", "SDCFFI_CACHE", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform == "win32":
        pytest.skip("Windows asks its registry")
    import pwd

    def nobody(_user: int) -> Any:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert os.path.expanduser("~") == "~"


def test_without_a_home_there_is_no_cache_and_the_error_says_what_to_set(
    homeless: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="no home directory for a cache; set SDCFFI_CACHE"):
        cache_directory()
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path


def test_without_a_home_digests_are_computed(homeless: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digests, "_LEAST_KEPT", 0)
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    assert len(digests.sha256(path)) == 64


def test_without_a_home_nothing_is_measured_that_cannot_be_stored(
    homeless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdcffi.tuning.Bench", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(OSError, match="set SDCFFI_CACHE"):
        sdcffi.tune("model.gguf")


def test_a_damaged_digest_is_computed_again(
    damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(digests, "_LEAST_KEPT", 0)
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))
    monkeypatch.setattr(digests, "_kept", {})
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    expected = digests.sha256(path)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    damage(kept)
    digests._kept.clear()
    assert digests.sha256(path) == expected
    assert json.loads(kept.read_text())["sha256"] == expected, "it is not mended"


def test_a_kept_digest_that_is_none_is_computed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digests, "_LEAST_KEPT", 0)
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))
    monkeypatch.setattr(digests, "_kept", {})
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    expected = digests.sha256(path)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    for text in ("", "0", None, 7, ["a"], expected[:-1], expected.upper()):
        kept.write_text(json.dumps({**json.loads(kept.read_text()), "sha256": text}))
        digests._kept.clear()
        assert digests.sha256(path) == expected


def test_a_damaged_manifest_is_an_error_with_the_command(damage: Callable[[Path], object], tmp_path: Path) -> None:
    directory = copied(tmp_path / "build")
    damage(directory / "manifest.json")
    with pytest.raises(LayoutMismatchError, match="python -m sdcffi build"):
        read_build(directory)
    assert not is_intact(directory)


def test_a_damaged_add_on_is_refused_and_the_build_is_used(damage: Callable[[Path], object], tmp_path: Path) -> None:
    directory = copied(tmp_path / "build")
    damage(directory / "plugin-vulkan.json")
    assert "is not used" in read_build(directory).refused["vulkan"]


def test_a_damaged_note_of_a_patched_tree_is_none(damage: Callable[[Path], object], tmp_path: Path) -> None:
    assert _prepared(tmp_path) is None
    damage(tmp_path / pipeline._PREPARED)
    assert _prepared(tmp_path) is None


def test_a_kept_file_is_read_to_a_limit_and_never_from_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.json"
    path.write_text("[1]")
    assert read_kept_json(path) == [1]
    monkeypatch.setattr("sdcffi._files._MOST_KEPT", 2)
    with pytest.raises(ValueError, match="has more than"):
        read_kept_json(path)
    with pytest.raises(ValueError, match="is not a regular file"):
        read_kept_json(Path(os.devnull))


def test_a_stored_choice_is_checked_as_a_whole(damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    damage(path)
    try:
        tuned._checked(read_kept_json(path), {})
    except ValueError:
        return
    pytest.fail("it was taken")
