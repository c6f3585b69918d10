"""What can be computed on here, as it is listed: backends, devices, variants, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpus import with_stubs

from sdcffi import Inventory, cli, inventory, list_devices
from sdcffi._machine.devices import Device, Variant
from sdcffi._machine.probes import DEVICES
from sdcffi.inventory import BackendReport

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the build with CUDA, whose devices the tests name, and a Vulkan plug-in that is missing."""
    native = with_stubs(tmp_path_factory.mktemp("gpus") / "native", "cuda", "vulkan")
    (native / "libggml-vulkan.so").unlink()
    return native


def test_devices_lists_what_is_built_and_found_and_what_would_be_used(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setenv("STUB_CUDA", "gpu:8,gpu:24")
    assert cli.main(["devices", "--json", "--library", str(gpus)]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["device"]["id"] == "cuda:1"
    assert found["device"]["reason"] == "auto: the best of 2 GPUs found"
    reports = {report["name"]: report for report in found["backends"]}
    assert [device["memory_total"] >> 30 for device in reports["cuda"]["devices"]] == [8, 24]
    assert [device["id"] for device in reports["cpu"]["devices"]] == ["cpu"]
    assert reports["vulkan"]["built"]
    assert "libggml-vulkan.so is missing" in reports["vulkan"]["problem"]
    assert not reports["hip"]["built"]


def test_a_driver_that_crashes_hides_no_other_device_and_status_1_is_no_usable_device(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setenv("STUB_CUDA", "crash:1")
    assert cli.main(["devices", "--library", str(gpus), "--backend", "cuda:3"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("device cpu: ") for line in lines)
    assert any(line.startswith("backend cuda: NativeCrashError: ") for line in lines)
    assert any(line.startswith("backend vulkan: ") and "missing" in line for line in lines)
    assert lines[-1].startswith("no usable device: NativeCrashError: ")


def test_a_wrong_backend_is_status_2(capfd: Capture) -> None:
    assert cli.main(["devices", "--backend", "gpu"]) == 2
    assert "backend must be auto, one of cpu, cuda" in capfd.readouterr().err


def test_a_device_of_a_backend_that_is_not_built_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "DEVICES", {name: lambda name=name: name == "hip" for name in DEVICES})
    reports = {report.name: report for report in list_devices(backend="cpu").backends}
    assert reports["hip"].problem.endswith("To add it: python -m sdcffi build --backend cpu,hip")
    assert reports["cuda"].problem == ""


def test_lines_name_variants_and_what_is_not_built() -> None:
    cpu = Device("CPU", "a processor", "cpu", "cpu", 1 << 30, 2 << 30, variant="haswell", reason="cpu was asked for")
    variants = (
        Variant("haswell", "haswell.so", 64),
        Variant("x64", "x64.so", 1),
        Variant("zen4", "zen4.so", 0),
        Variant("zen5", "zen5.so", 0, missing=True),
    )
    reports = (BackendReport("cpu", True, (cpu,), ""), BackendReport("cuda", False, (), ""))
    assert list(Inventory("/native", cpu, reports, variants).lines()) == [
        "device cpu:haswell: a processor, 1.0 of 2.0 GiB free  <- used (cpu was asked for)",
        "variant cpu:haswell: runs here, score 64  <- used with backend='cpu'",
        "variant cpu:x64: runs here, score 1",
        "variant cpu:zen4: not for this processor",
        "variant cpu:zen5: missing",
        "not built: cuda",
    ]
