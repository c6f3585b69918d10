"""Digests of files are right, computed once, and never those of what a file was before."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from sdcffi._records import digests as _digest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were read, with an empty cache directory that keeps digests of small and new files too."""
    read: list[Path] = []
    hashed = _digest._hashed

    def count(path: Path, part: str) -> str:
        read.append(path)
        return hashed(path, part)

    monkeypatch.setattr(_digest, "_hashed", count)
    monkeypatch.setattr(_digest, "_kept", {})
    monkeypatch.setattr(_digest, "_LEAST_KEPT", 0)
    monkeypatch.setattr(_digest, "_SETTLED", -(10**12))
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    return read


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights" * 1000)
    return path


def test_a_digest_is_computed_once_and_kept_for_other_processes(reads: list[Path], model: Path) -> None:
    expected = hashlib.sha256(model.read_bytes()).hexdigest()
    assert [_digest.sha256(model), _digest.sha256(model)] == [expected, expected]
    _digest._kept.clear()  # as another process would find it
    assert _digest.sha256(model) == expected
    assert reads == [model]


def test_a_changed_file_has_another_digest_even_of_the_same_size(reads: list[Path], model: Path) -> None:
    before = _digest.sha256(model)
    model.write_bytes(b"WEIGHTS" * 1000)
    os.utime(model, ns=(1, 1))
    assert _digest.sha256(model) == hashlib.sha256(b"WEIGHTS" * 1000).hexdigest() != before


def test_what_was_just_written_and_what_is_small_is_not_kept_on_disk(
    reads: list[Path], model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_digest, "_SETTLED", 10**12)
    _digest.sha256(model)
    monkeypatch.setattr(_digest, "_SETTLED", -(10**12))
    monkeypatch.setattr(_digest, "_LEAST_KEPT", 1 << 20)
    _digest._kept.clear()
    _digest.sha256(model)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "kept_text", ['{"state": {}}', "[" * 100_000, "[]", '{"state": 7}', "{" + " " * 100_000, "\xff"]
)
def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(
    kept_text: str, reads: list[Path], model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = _digest.sha256(model)
    for kept in (tmp_path / "cache" / "digests").iterdir():
        kept.write_text(kept_text, encoding="latin-1")
    _digest._kept.clear()
    assert _digest.sha256(model) == expected
    monkeypatch.setenv("SDCFFI_CACHE", str(model))
    _digest._kept.clear()
    assert _digest.sha256(model) == expected
    assert len(reads) == 3


def test_a_directory_is_known_by_its_files_and_their_names(reads: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "diffusers"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(b"1")
    (folder / "vae").write_bytes(b"22")
    state, digest = _digest.file_state(folder), _digest.sha256(folder)
    assert state is not None
    assert state.size == 3
    (folder / "vae").rename(folder / "vae2")
    os.utime(folder / "vae2", ns=(1, 1))
    os.utime(folder / "unet" / "weights", ns=(1, 1))
    assert _digest.sha256(folder) != digest
    assert _digest.file_state(tmp_path / "nowhere") is None


def test_a_lora_is_known_by_its_tensors_whatever_its_header(reads: list[Path], tmp_path: Path) -> None:
    digests = set()
    for name, header in {"a": b"{}", "b": b'{"x": 1}'}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"tensors")
        digests.add(_digest.tensors_sha256(path))
    assert digests == {hashlib.sha256(b"tensors").hexdigest()}
    assert _digest.tensors_sha256(tmp_path / "a.gguf") is None
