"""A portable build's wheel: made to be installed elsewhere, where nothing can be compiled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import engines
import pytest
from gpus import with_stubs
from places import ROOT

from sdcffi._build.add_ons import pack_add_ons
from sdcffi._machine.builds import read_build

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files; uses auditwheel")]

SYSTEM = re.compile(r"(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-[\w-]+)\.so\.\d+")
MOST = 40_000_000  # bytes, of the whole wheel
WEIGHTS = 12_000_000  # of the model in it
DRAWING = """\
import sys
import sdcffi
from sdcffi.demo import SETTINGS
with sdcffi.Engine(**sdcffi.demo_model(), backend=sys.argv[1]) as engine:
    result = engine.generate("a red heart on a blue background", **{**SETTINGS, "steps": 2}, seed=1, loras=["outline"])
    print(engine.device.id, sdcffi.__file__, result.arrays[0].std() > 1)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pip makes it; the build comes from the cache."""
    directory = tmp_path_factory.mktemp("wheel")
    chosen = {**engines.settings(), "backend": "cpu", "cpu": "portable"}
    settings = [f"--config-settings={name}={value}" for name, value in chosen.items()]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(directory), *settings, str(ROOT)],
        check=True,
    )
    return next(directory.glob("sdcffi-*.whl"))


@pytest.fixture(scope="module")
def repaired(wheel: Path) -> Path:
    """With the tag that it has earned."""
    return repair(wheel)


def repair(wheel: Path, *options: str) -> Path:
    directory = wheel.parent / "repaired"
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "auditwheel", "repair", *options, "--wheel-dir", str(directory), str(wheel)]
    subprocess.run(command, check=True, env={**os.environ, "PATH": tools})
    (made,) = directory.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def add_on(repaired: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An add-on's wheel, with a GPU that is the CPU underneath; its libraries are in the other wheel."""
    directory = tmp_path_factory.mktemp("add-on")
    with zipfile.ZipFile(repaired) as file:
        file.extractall(directory / "wheel")
    build = read_build(directory / "wheel" / "sdcffi" / "_native")
    native = with_stubs(directory / "native", "cuda", build=build)
    (made,) = pack_add_ons(native, directory / "add-ons")
    return repair(made, "--exclude", "libsdcffi-*")


@pytest.fixture(scope="module")
def environment(repaired: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has the wheel and what it depends on."""
    directory = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    subprocess.run([directory / "bin" / "python", "-m", "pip", "install", "-q", str(repaired)], check=True)
    return directory / "bin"


def run(environment: Path, *command: str) -> str:
    """Run there with nothing else on PATH, outside of the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SDCFFI", "CC", "CXX"))}
    program, *arguments = command
    done = subprocess.run(
        [environment / program, *arguments],
        env={**kept, "PATH": str(environment)},
        cwd=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tag_is_that_of_the_oldest_system_it_runs_on(wheel: Path, repaired: Path) -> None:
    assert re.search(r"-py3-none-linux_\w+\.whl$", wheel.name)
    tag = re.search(r"-py3-none-(?:manylinux\d+_\w+\.)?manylinux_2_(\d+)_\w+\.whl$", repaired.name)
    assert tag, repaired.name
    own = re.search(r"2\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    assert own
    assert int(tag[1]) <= int(own[1])
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(repaired) as after:
        libraries = {name for name in before.namelist() if ".so" in name}
        assert {name for name in after.namelist() if ".so" in name} == libraries  # nothing had to be copied in
        assert all(before.read(name) == after.read(name) for name in libraries)


def test_it_is_small(repaired: Path) -> None:
    assert repaired.stat().st_size < MOST
    with zipfile.ZipFile(repaired) as file:
        weights = [item for item in file.infolist() if item.filename.startswith("sdcffi/weights/")]
    assert {Path(item.filename).name for item in weights} >= {"dit.gguf", "llm.safetensors", "taef2.safetensors"}
    assert sum(item.compress_size for item in weights) < WEIGHTS


def test_its_libraries_need_each_other_and_the_system_only(repaired: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(repaired) as file:
        file.extractall(tmp_path)
    native = tmp_path / "sdcffi" / "_native"
    libraries = {path.name for path in native.glob("*.so")}
    assert len(libraries) > 3
    for name in libraries:
        dynamic = subprocess.run(["readelf", "-dW", native / name], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        foreign = [item for item in needed if item not in libraries and not SYSTEM.fullmatch(item)]
        assert not foreign, (name, foreign)
        if libraries.intersection(needed):
            assert re.findall(r"\(RUNPATH\).*\[(.*)\]", dynamic) == ["$ORIGIN"], name


def test_it_works_where_nothing_can_be_compiled(environment: Path) -> None:
    assert not any((environment / tool).exists() for tool in ("cc", "c++", "gcc", "cmake", "ninja"))
    found = json.loads(run(environment, "sdcffi", "devices", "--json"))
    running = [variant["name"] for variant in found["variants"] if variant["score"]]
    assert found["device"]["variant"] == running[0]
    for variant in {running[0], *running[-2:]}:  # the best, and the two plainest
        device, file, drawn = run(environment, "python", "-c", DRAWING, f"cpu:{variant}").split()
        assert (device, drawn) == (f"cpu:{variant}", "True")
        assert Path(file).is_relative_to(environment.parent)


def test_an_add_on_comes_and_goes_with_pip(environment: Path, add_on: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"^sdcffi_cuda-.*manylinux_2_\d+_\w+\.whl$", add_on.name)
    monkeypatch.setenv("STUB_CUDA", "gpu:8")
    run(
        environment, "python", "-m", "pip", "install", "-q", "--no-index", str(add_on)
    )  # sdcffi, which it wants, is here
    device, _, drawn = run(environment, "python", "-c", DRAWING, "auto").split()
    assert (device, drawn) == ("cuda:0", "True")
    run(environment, "python", "-m", "pip", "uninstall", "-q", "-y", "sdcffi-cuda")
    assert json.loads(run(environment, "sdcffi", "devices", "--json"))["device"]["backend"] == "cpu"


def test_doctor_says_that_there_is_no_compiler_and_that_none_is_needed(environment: Path) -> None:
    checks = {check["name"]: check for check in json.loads(run(environment, "sdcffi", "doctor", "--json"))["checks"]}
    assert checks["compiler"]["status"] == "note"
    assert checks["files"]["status"] == "ok"
    assert not [check for check in checks.values() if check["status"] == "failed"]
