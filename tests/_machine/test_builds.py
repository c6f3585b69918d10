"""Which native build is used, and what is said when there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpus import copied

from sdcffi._bindings.library import load
from sdcffi._machine import builds as _locate
from sdcffi._machine.builds import MANIFEST, locate
from sdcffi.errors import LayoutMismatchError, LibraryNotFoundError


@pytest.fixture
def other_build(tmp_path: Path) -> Path:
    return copied(tmp_path / "other")


def test_the_argument_wins_over_the_environment(other_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDCFFI_LIBRARY", "/does/not/exist")
    assert locate(other_build).directory == other_build.resolve()
    assert locate(other_build / "cdef.h").directory == other_build.resolve()


def test_the_environment_wins_over_the_package(other_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDCFFI_LIBRARY", str(other_build))
    assert locate().directory == other_build.resolve()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_an_explicit_choice_never_falls_through(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("SDCFFI_LIBRARY", str(tmp_path))
    with pytest.raises(LibraryNotFoundError, match=r"has no manifest\.json") as caught:
        locate(tmp_path if by == "argument" else None)
    assert "package's own build" not in str(caught.value)


def test_without_any_build_every_candidate_and_the_command_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SDCFFI_LIBRARY", raising=False)
    monkeypatch.setattr(_locate, "PACKAGE_BUILD", tmp_path / "nothing")
    with pytest.raises(LibraryNotFoundError) as caught:
        locate()
    message = str(caught.value)
    assert "argument library: not given" in message
    assert "SDCFFI_LIBRARY: not given" in message
    assert f"{tmp_path / 'nothing'} does not exist" in message
    assert "python -m sdcffi build" in message


@pytest.mark.parametrize("name", ["upstream", "left_out", "options", "compiler", "patches"])
@pytest.mark.parametrize("value", [None, 5, "x"])
def test_a_manifest_of_another_shape_is_refused(name: str, value: Any, other_build: Path) -> None:
    file = other_build / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), name: value}), "utf-8")
    with pytest.raises(LayoutMismatchError, match=f"cannot be read as a manifest: .*{name} must be a"):
        locate(other_build)


def test_a_process_has_one_native_library(other_build: Path) -> None:
    first = load()
    assert load() is first
    with pytest.raises(LibraryNotFoundError, match="has already loaded"):
        load(other_build)
