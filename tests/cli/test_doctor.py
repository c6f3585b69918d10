"""`sdcffi doctor` on what is whole and what is broken: it goes on to its end, and reports the truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gpus import copied, with_stubs

from sdcffi import cli
from sdcffi._machine.builds import MANIFEST
from sdcffi.cli import _checkup as _doctor
from sdcffi.cli._checkup import _judged

Capture = pytest.CaptureFixture[str]
Checks = dict[str, dict[str, str]]


@pytest.fixture
def doctor(capfd: Capture) -> Callable[..., tuple[int, Checks]]:
    """Runs the command; gives its status and the checks by name."""

    def doctor(*arguments: str) -> tuple[int, Checks]:
        status = cli.main(["doctor", "--json", *arguments])
        report = json.loads(capfd.readouterr().out)
        assert report["ok"] == (status == 0)
        return status, {check["name"]: check for check in report["checks"]}

    return doctor


def states(checks: Checks) -> dict[str, str]:
    return {name: check["status"] for name, check in checks.items()}


def test_a_whole_build_without_any_compiler_is_well(
    doctor: Callable[..., tuple[int, Checks]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", "CXX", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    status, checks = doctor()
    assert status == 0
    assert set(states(checks).values()) <= {"ok", "note"}
    assert checks["compiler"]["status"] == "note"
    assert checks["compiler"]["advice"]
    assert states(checks)["files"] == states(checks)["library"] == states(checks)["backend cpu"] == "ok"
    generated = [check for name, check in checks.items() if name.startswith("generate cpu")]
    assert generated
    assert all(check["status"] == "ok" for check in generated)


def test_a_missing_plugin_and_a_device_that_crashes_are_red_and_the_others_are_examined(
    doctor: Callable[..., tuple[int, Checks]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    native = with_stubs(tmp_path / "native", "cuda", "vulkan")
    (native / "libggml-cuda.so").unlink()
    monkeypatch.setenv("STUB_Vulkan", "gpu:8,gpu:8")
    monkeypatch.setenv("STUB_CRASH", "Vulkan0")
    status, checks = doctor("--library", str(native))
    assert status == 1
    red = {name: check for name, check in checks.items() if check["status"] == "failed"}
    red.pop("driver cuda", None)  # there may be some
    red.pop("driver vulkan", None)
    assert set(red) == {"file libggml-cuda.so", "backend cuda", "generate vulkan:0"}
    assert "is listed in the manifest but missing" in red["file libggml-cuda.so"]["detail"]
    assert red["file libggml-cuda.so"]["advice"] == "python -m sdcffi build"
    assert "libggml-cuda.so is missing" in red["backend cuda"]["detail"]
    assert red["generate vulkan:0"]["detail"].startswith("its process crashed: ")
    assert "backend='cpu'" in red["generate vulkan:0"]["advice"]
    assert states(checks)["generate cpu"] == states(checks)["generate vulkan:1"] == "ok"
    assert "vulkan:0: auto: " in checks["choice"]["detail"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.fixture
def native_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what does not depend on the build."""
    monkeypatch.setattr(_doctor, "_tools", lambda _: iter(()))
    monkeypatch.setattr(_doctor, "_drivers", lambda _: iter(()))


@pytest.mark.usefixtures("native_only")
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("libstable-diffusion.so", truncate),
        ("libstable-diffusion.so", change),
        ("libstable-diffusion.so", Path.unlink),
        ("libsdcffi-ggml-base.so", truncate),
        ("libggml-cpu.so", change),
        ("libggml-cpu.so", Path.unlink),
        ("cdef.h", change),
    ],
)
def test_a_damaged_file_is_named_and_nothing_of_it_is_run(
    name: str, damage: Callable[[Path], None], doctor: Callable[..., tuple[int, Checks]], tmp_path: Path
) -> None:
    native = copied(tmp_path / "native")
    if not (native / name).is_file():  # of a portable build
        name = next(file.name for file in native.glob("libggml-cpu-*"))
    damage(native / name)
    status, checks = doctor("--library", str(native))
    assert status == 1
    assert checks[f"file {name}"]["status"] == "failed"
    assert checks[f"file {name}"]["advice"] == "python -m sdcffi build"
    assert checks["library"]["status"] == "failed"
    assert name in checks["library"]["detail"]
    assert not [check for check in checks if check.startswith("generate")]


@pytest.mark.usefixtures("native_only")
def test_a_library_that_does_not_load_though_its_digest_is_right_is_reported(
    doctor: Callable[..., tuple[int, Checks]], tmp_path: Path
) -> None:
    native = copied(tmp_path / "native")
    manifest = json.loads((native / MANIFEST).read_text("utf-8"))
    truncate(native / manifest["library"])
    manifest["files"][manifest["library"]] = hashlib.sha256((native / manifest["library"]).read_bytes()).hexdigest()
    (native / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    status, checks = doctor("--library", str(native))
    assert status == 1
    assert (states(checks)["files"], states(checks)["library"]) == ("ok", "failed")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), ("", "has no manifest.json"), ("{", "cannot be read as a manifest")],
)
def test_without_a_native_build_everything_else_is_examined(
    content: str | None,
    said: str,
    doctor: Callable[..., tuple[int, Checks]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "native"
    if content is not None:
        directory.mkdir()
        if content:
            (directory / MANIFEST).write_text(content)
    monkeypatch.setenv("SDCFFI_LIBRARY", str(directory))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    status, checks = doctor()
    assert status == 1
    assert checks["native build"]["status"] == "failed"
    assert said in checks["native build"]["detail"]
    assert checks["native build"]["advice"] == "python -m sdcffi build"
    assert checks["compiler"]["status"] == "failed"  # now it is needed
    assert {"toolkit cuda", "driver cuda", "toolkit vulkan", "driver vulkan"} <= set(checks)


def test_a_backend_that_was_asked_for_and_is_not_built_is_red(
    doctor: Callable[..., tuple[int, Checks]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_doctor, "_generated", lambda *_: iter(()))
    status, checks = doctor("--backend", "musa")
    assert status == 1
    assert (
        checks["backend musa"]["status"]
        == checks["driver musa"]["status"]
        == checks["toolkit musa"]["status"]
        == "failed"
    )
    assert checks["backend musa"]["advice"].startswith("python -m sdcffi build --backend cpu")
    assert cli.main(["doctor", "--backend", "gpu"]) == 2


def test_a_check_that_fails_by_itself_is_an_outcome_and_not_the_end(
    doctor: Callable[..., tuple[int, Checks]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> None:
        raise RuntimeError("a compiler of another kind")

    monkeypatch.setattr(_doctor, "find_compiler", broken)
    monkeypatch.setenv("SDCFFI_LIBRARY", str(tmp_path))
    status, checks = doctor()
    assert status == 1
    assert checks["compiler"]["detail"] == "could not be checked: RuntimeError: a compiler of another kind"
    assert "native build" in checks


def test_a_different_image_and_a_plain_one_are_red() -> None:
    random = np.random.default_rng(1)
    first = random.integers(0, 256, (64, 64, 3), np.uint8)
    near = np.clip(first.astype(int) + 1, 0, 255).astype(np.uint8)
    assert _judged("cpu", first, 1.0, None).status == "ok"
    assert _judged("cuda:0", near, 1.0, ("cpu", first)).status == "ok"
    other = _judged("cuda:0", first[::-1].copy(), 1.0, ("cpu", first))
    assert other.status == "failed"
    assert "differs from that of cpu" in other.detail
    assert "CUDA" in other.advice
    assert _judged("cpu:x64", np.full_like(first, 9), 1.0, None).status == "failed"


def test_the_report_for_people_marks_what_failed(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SDCFFI_LIBRARY", str(tmp_path))
    assert cli.main(["doctor"]) == 1
    lines = capfd.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAIL  ")]
    assert [line for line in failed if line.endswith("-> python -m sdcffi build")]
    assert lines[-1] == f"{len(failed)} of {len(lines) - 1} checks failed"
