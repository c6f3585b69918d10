"""The backend matrix: the same images on every backend and CPU variant that is built and here.

``pytest -m backend`` runs it, and lists in a table what ran and why the rest did not; ``--require-backend cuda`` makes
what is not here a failure. All is compared with the plainest CPU variant of a portable build, which is compiled where
the build cache has none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import engines
import pytest
from gpus import with_stubs
from matrix import CASES, ROWS, SMALL, VARIANTS, Drawer, Models, Row, drawn_row, only_its_driver_crashed, record
from sdcli import Pixels
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import BackendUnavailableError, BuildError, list_devices
from sdcffi._bindings.plugins import variant_of
from sdcffi._build.backends import GPUS
from sdcffi._build.compilers import find_compiler
from sdcffi._build.pipeline import compile_native
from sdcffi._build.plan import make_plan
from sdcffi._machine.builds import NativeBuild, locate
from sdcffi.inventory import Inventory

pytestmark = pytest.mark.backend

PLANS = ("metal", "hip", "sycl", "opencl", "musa")
SOFTWARE = ("llvmpipe", "lavapipe", "SwiftShader")


@pytest.fixture(scope="module")
def drawing_models(models: dict[str, TinyModel], tmp_path_factory: pytest.TempPathFactory) -> Models:
    network = write_network(tmp_path_factory.mktemp("network") / "x2.safetensors", random_weights(2))
    return Models(models, network)


@pytest.fixture(scope="module")
def reference(portable: NativeBuild, drawing_models: Models) -> Callable[[str], list[Pixels]]:
    """What the plainest variant generates of each case."""
    drawer = Drawer(drawing_models, portable.directory, f"cpu:{VARIANTS[0]}")

    @cache
    def drawn(name: str) -> list[Pixels]:
        return CASES[name](drawer)

    return drawn


def build_for(word: str, portable: Callable[[], NativeBuild]) -> Path:
    """The build that has a backend.

    Raises
    ------
    BackendUnavailableError
        With the reason, where there is none.
    """
    name, _, variant = word.partition(":")
    own = locate()
    if variant:
        return portable().directory
    if name in own.backends:
        return own.directory
    plan = "not built: only the options and file names of its build are checked against the pinned source"
    if name in PLANS:
        raise BackendUnavailableError(plan)
    try:
        toolkit = GPUS[name].toolkit(find_compiler())
    except BuildError as error:
        raise BackendUnavailableError(error.message) from error
    if toolkit.missing:
        raise BackendUnavailableError(f"{plan}; there is {toolkit.missing[0].what}")
    if name != "vulkan":
        raise BackendUnavailableError(f"{plan}. To build it: python build_native.py --backend cpu,{name}")
    request = engines.request(**{"backend": "cpu,vulkan", "with-cli": "on", "allow-missing-device": "on"})
    return compile_native(make_plan(request))


def why_not(word: str, inventory: Inventory) -> str:
    """Why there is no device, in one line."""
    name, _, variant = word.partition(":")
    if variant:
        return next((item.state for item in inventory.variants if item.name == variant), "not built")
    return next((item.problem for item in inventory.backends if item.name == name), "") or inventory.problem


@pytest.mark.slow
@pytest.mark.parametrize("word", ROWS)
def test_the_same_pictures(word: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(word)
    try:
        library = build_for(word, lambda: request.getfixturevalue("portable"))
        inventory = list_devices(library, backend=word)
        if inventory.device is None and word == "vulkan":
            monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")  # then ggml takes a software device, too
            inventory = list_devices(library, backend=word)
        if inventory.device is None:
            raise BackendUnavailableError(why_not(word, inventory))
    except BackendUnavailableError as error:
        row.reason = error.message
        record(request, row)
        if word in request.config.getoption("--require-backend"):
            pytest.fail(f"{word} is required: {row.reason}")
        pytest.skip(row.reason)
    device = inventory.device
    row.device = f"{device.id}, {device.description}"
    assert device.backend == word.partition(":")[0]
    if ":" in word:
        assert device.id == word
    software = any(name in device.description for name in SOFTWARE)
    cases = SMALL if software else tuple(CASES)
    drawer = Drawer(request.getfixturevalue("drawing_models"), library, device.id)
    wrong = drawn_row(row, drawer, request.getfixturevalue("reference"), cases)
    if software and not wrong:
        row.reason = "software device: small cases only"
    if software and word not in request.config.getoption("--require-backend") and only_its_driver_crashed(row, wrong):
        names = ", ".join(line.partition(":")[0] for line in wrong)
        row.failed, row.reason, wrong = False, f"software device, whose driver crashed: {names}", []
    record(request, row)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_the_rows_are_the_variants_of_a_portable_build(portable: NativeBuild) -> None:
    assert {variant_of(path) for path in portable.backends["cpu"]} == set(VARIANTS)


# --- the matrix itself, on a GPU that is the CPU underneath ---


def run_matrix(library: Path, table: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "-m", "backend", __file__]
    selected = ["-k", "same_pictures and cuda", "--backend-table", str(table)]
    environment = {**os.environ, **environment, "SDCFFI_LIBRARY": str(library)}
    return subprocess.run([*command, *selected, *options], env=environment, capture_output=True, text=True)


def row_of(table: Path) -> dict[str, Any]:
    rows = json.loads(table.with_suffix(".json").read_text("utf-8"))["rows"]
    assert [row["word"] for row in rows] == ["cuda"]
    found: dict[str, Any] = rows[0]
    return found


@pytest.mark.slow
def test_a_gpu_gets_its_row(tmp_path: Path) -> None:
    library = with_stubs(tmp_path / "native", "cuda")
    done = run_matrix(library, tmp_path / "table", STUB_CUDA="gpu:8")
    assert done.returncode == 0, done.stdout
    row = row_of(tmp_path / "table")
    assert list(row["psnr"]) == list(CASES)
    assert row["device"].startswith("cuda:0, ")
    assert not row["failed"]
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "| `cuda` | cuda:0, " in text
    assert "backend matrix" in done.stdout


def test_a_backend_that_is_not_here_is_told_and_can_be_required(tmp_path: Path) -> None:
    library = with_stubs(tmp_path / "native", "cuda")
    done = run_matrix(library, tmp_path / "table", STUB_CUDA="")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
    row = row_of(tmp_path / "table")
    assert "no device" in row["reason"]
    assert f"| `cuda` | {row['reason']} |" in (tmp_path / "table.md").read_text("utf-8")
    done = run_matrix(library, tmp_path / "table", "--require-backend", "cuda", STUB_CUDA="")
    assert done.returncode == 1
    assert "cuda is required: " in done.stdout
    done = run_matrix(library, tmp_path / "table", "--require-backend", "abacus")
    assert done.returncode == 4
    assert "invalid choice: 'abacus'" in done.stderr


@pytest.mark.slow
def test_a_device_that_draws_something_else_fails(tmp_path: Path, drawing_models: Models) -> None:
    def another(name: str) -> list[Pixels]:
        return [255 - pixels for pixels in CASES[name](drawer)]

    drawer = Drawer(drawing_models, locate().directory, "cpu")
    row = Row("cpu")
    (said,) = drawn_row(row, drawer, another, ("f16",))
    assert said.startswith("f16: ")
    assert "dB from the plainest CPU's image" in said
    assert row.failed
    assert row.reason == said


@pytest.mark.parametrize(
    ("psnr", "wrong", "excused"),
    [
        ({"upscale": 49.0}, ["f16: NativeCrashError: SIGABRT"], True),
        ({"upscale": 49.0}, [], False),
        ({}, ["f16: NativeCrashError: SIGABRT", "upscale: NativeCrashError: SIGABRT"], False),
        ({"f16": 20.0}, ["f16: 20.0 dB from the plainest CPU's image", "upscale: NativeCrashError: SIGABRT"], False),
        ({"upscale": 49.0}, ["f16: GenerationError: no memory"], False),
    ],
)
def test_only_a_crash_beside_a_right_image_is_laid_to_a_software_driver(
    psnr: dict[str, float | None], wrong: list[str], excused: bool
) -> None:
    assert only_its_driver_crashed(Row("vulkan", psnr=psnr), wrong) == excused
