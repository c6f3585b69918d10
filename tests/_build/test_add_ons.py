"""GPU plug-ins as wheels of their own: what is packed, that it makes the backend appear, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpus import add_plugin, copied, with_stubs
from places import ROOT
from tiny_model import TinyModel

from sdcffi import BackendUnavailableError, BuildError, Engine, LayoutMismatchError, SDError, list_devices
from sdcffi._build import pipeline
from sdcffi._build.add_ons import pack_add_ons
from sdcffi._build.hatch_hook import platform_tag
from sdcffi._build.wheel import compile_for_wheel
from sdcffi._machine.builds import MANIFEST, NOTICES, locate, read_build
from sdcffi._version import __version__
from sdcffi.cli._checkup import examine

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7}
PLUGIN, FRAGMENT = "libggml-cuda.so", "plugin-cuda.json"
REINSTALL = f"pip install --force-reinstall --no-deps sdcffi-cuda=={__version__}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a CUDA plug-in whose device is the CPU underneath."""
    directory = tmp_path_factory.mktemp("add-on")
    (made,) = pack_add_ons(with_stubs(directory / "native", "cuda"), directory / "wheels")
    return made


@pytest.fixture
def installed(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build for the CPU with the wheel unpacked over it, and one such GPU."""
    monkeypatch.setenv("STUB_CUDA", "gpu:8")
    native = copied(tmp_path / "sdcffi" / "_native")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    return native


def test_the_wheel_only_adds_files_and_wants_the_same_version(wheel: Path) -> None:
    assert wheel.name == f"sdcffi_cuda-{__version__}-py3-none-{platform_tag()}.whl"
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = file.read(f"sdcffi_cuda-{__version__}.dist-info/METADATA").decode()
        licence, notices = (
            file.read(f"sdcffi_cuda-{__version__}.dist-info/licenses/{name}").decode() for name in ("LICENSE", NOTICES)
        )
    assert names == {f"sdcffi/_native/{PLUGIN}", f"sdcffi/_native/{FRAGMENT}"}
    assert "Name: sdcffi-cuda\n" in metadata
    assert f"Requires-Dist: sdcffi=={__version__}\n" in metadata
    assert licence == (ROOT / "LICENSE").read_text("utf-8")
    assert notices == (locate().directory / NOTICES).read_text("utf-8")
    assert "nvidia" not in metadata


@pytest.mark.parametrize(("release", "suffix"), [("12", "-cu12==12.*"), ("13", "==13.*")])
def test_it_brings_the_libraries_of_cuda_that_it_is_linked_to(release: str, suffix: str, tmp_path: Path) -> None:
    native = with_stubs(tmp_path / "native", "cuda")
    with (native / PLUGIN).open("ab") as file:
        file.write(f"\0libcublas.so.{release}\0".encode())
    (made,) = pack_add_ons(native, tmp_path / "wheels")
    with zipfile.ZipFile(made) as wheel:
        metadata = wheel.read(f"sdcffi_cuda-{__version__}.dist-info/METADATA").decode()
    required = {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")}
    packages = {f"nvidia-{name}{suffix}" for name in ("cublas", "cuda-runtime")}
    assert required == {f"sdcffi=={__version__}", *packages}


def test_pip_packs_it_too_where_its_settings_ask_for_that(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = types.SimpleNamespace(native=wheel.parent.parent / "native", backends=("cpu", "cuda"), remarks=())
    monkeypatch.setattr(pipeline, "make_plan", lambda _: plan)
    monkeypatch.setattr(pipeline, "compile_native", lambda _: plan.native)
    monkeypatch.setattr(pipeline, "verify", lambda *_, **__: [])
    monkeypatch.setenv("SDCFFI_WHEEL_NATIVE", "")  # which is set
    compile_for_wheel({"backend": "cpu,cuda", "add-on-wheels": str(tmp_path)})
    assert [made.name for made in tmp_path.glob("*.whl")] == [wheel.name]
    assert os.environ["SDCFFI_WHEEL_NATIVE"] == str(plan.native)


def test_installing_it_makes_the_backend_appear_and_compute(installed: Path, tiny_model: TinyModel) -> None:
    assert "cuda" not in json.loads((installed / MANIFEST).read_text("utf-8"))["backends"]
    with Engine(**tiny_model.engine_arguments(), library=installed, threads=1) as engine:
        assert engine.device.id == "cuda:0"
        assert engine.generate(**DRAW).arrays[0].std() > 1
    for name in (PLUGIN, FRAGMENT):
        (installed / name).unlink()
    assert [device.backend for device in list_devices(installed).devices] == ["cpu"]


OTHER = "0" * 64


@pytest.mark.parametrize(
    ("place", "spoilt", "said"),
    [
        (("against", "sdcffi"), "0.0.9", r"does not fit this build.*another sdcffi \(sdcffi '0\.0\.9', here '"),
        (("against", "upstream"), OTHER, "another upstream"),
        (("against", "csrc"), OTHER, r"another csrc \(csrc '0000"),
        (("against", "platform"), "win-amd64", r"another platform \(platform 'win-amd64', here '"),
        (("against", "declarations"), OTHER, "another declarations"),
        (("against", "patches"), ["0001-cast-quantised-tensors-by-rows.patch"], "another patches"),
        (("schema",), 2, "a format that this version does not know"),
        (("backend",), "vulkan", "a format that this version does not know"),
        (("against",), None, "cannot be read: KeyError"),
        (("files", "cdef.h"), OTHER, r"lists files that are not its own: cdef\.h"),
        (("files", "../errors.py"), OTHER, r"lists files that are not its own: \.\./errors\.py"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_cpu_goes_on(
    place: tuple[str, ...], spoilt: Any, said: str, installed: Path, tiny_model: TinyModel
) -> None:
    fragment = json.loads((installed / FRAGMENT).read_text("utf-8"))
    *above, name = place
    table = fragment[above[0]] if above else fragment
    if spoilt is None:
        del table[name]
    else:
        table[name] = spoilt
    (installed / FRAGMENT).write_text(json.dumps(fragment), "utf-8")
    said += f".*Run: {REINSTALL};.*python -m sdcffi build --backend cpu,cuda"
    arguments = {**tiny_model.engine_arguments(), "library": installed, "threads": 1}
    with pytest.raises(LayoutMismatchError, match=said):
        Engine(**arguments, backend="cuda")
    inventory = list_devices(installed)
    assert inventory.device is not None
    assert inventory.device.backend == "cpu"
    assert re.search(said, inventory.device.reason)
    (report,) = [backend for backend in inventory.backends if backend.name == "cuda"]
    assert re.search(said, report.problem)


def test_doctor_tells_of_an_add_on_that_does_not_fit(installed: Path) -> None:
    (installed / FRAGMENT).write_text("{", "utf-8")
    (check,) = [check for check in examine(installed, ["cuda"]) if check.name == "backend cuda"]
    assert check.status == "failed"
    assert "sdcffi-cuda" in check.detail


def other_bytes(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"!")


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (other_bytes, LayoutMismatchError, r"libggml-cuda\.so was changed"),
        (Path.unlink, BackendUnavailableError, r"libggml-cuda\.so is missing"),
    ],
)
def test_an_add_on_s_library_that_is_not_as_it_was_is_not_loaded_and_the_cpu_goes_on(
    damage: Callable[[Path], None], error: type[SDError], said: str, installed: Path, tiny_model: TinyModel
) -> None:
    damage(installed / PLUGIN)
    said += f".*{REINSTALL}"
    with pytest.raises(error, match=said):
        Engine(**tiny_model.engine_arguments(), library=installed, backend="cuda")
    with Engine(**tiny_model.engine_arguments(), library=installed, threads=1) as engine:
        assert engine.device.id == "cpu"
        assert re.search(said, engine.device.reason)
    checks = {check.name: check for check in examine(installed)}
    assert (checks[f"file {PLUGIN}"].status, checks[f"file {PLUGIN}"].advice) == ("failed", REINSTALL)
    assert checks["backend cuda"].status == "failed"
    assert checks["generate cpu"].status == "ok"


def test_an_add_on_takes_the_place_of_a_backend_that_was_built_in(
    installed: Path, tmp_path: Path, tiny_model: TinyModel
) -> None:
    shutil.copy(installed / PLUGIN, tmp_path / PLUGIN)
    other_bytes(tmp_path / PLUGIN)
    ours = (installed / PLUGIN).read_bytes()
    add_plugin(installed, "cuda", tmp_path / PLUGIN)  # the build's own was another one
    (installed / PLUGIN).write_bytes(ours)
    with Engine(**tiny_model.engine_arguments(), library=installed, backend="cuda", threads=1) as engine:
        assert engine.device.id == "cuda:0"
    (installed / FRAGMENT).write_text("{", "utf-8")
    (report,) = [backend for backend in list_devices(installed).backends if backend.name == "cuda"]
    assert "cannot be read" in report.problem


@pytest.mark.parametrize("backend", ["cpu", "base"])
def test_the_cpu_cannot_be_replaced_by_an_add_on(backend: str, installed: Path) -> None:
    before = read_build(installed)
    fragment = json.loads((installed / FRAGMENT).read_text("utf-8"))
    (installed / f"plugin-{backend}.json").write_text(json.dumps({**fragment, "backend": backend}), "utf-8")
    after = read_build(installed)
    assert (after.backends, after.refused) == (before.backends, before.refused)


def test_a_build_without_gpus_has_nothing_to_pack(tmp_path: Path) -> None:
    native = copied(tmp_path / "native")
    assert list(read_build(native).backends) == ["cpu"]
    with pytest.raises(BuildError, match="has no GPU backend to pack, only cpu"):
        pack_add_ons(native, tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists()
