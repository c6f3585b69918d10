"""The same build without our CPU operations: the images that our kernels must not change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import engines
import numpy as np
import pytest
import sd1_model
from parity import gradient
from tiny_model import TinyModel

from sdcffi import Engine, Tiling
from sdcffi._build.pipeline import compile_native
from sdcffi._build.places import csrc_directory
from sdcffi._build.plan import make_plan
from sdcffi.images.compare import compare

CPU_PATCHES = (
    "0033-one-operation-on-the-cpu.patch",
    "0034-sleep-at-barriers.patch",
)


@pytest.fixture(scope="module")
def unpatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build like the package's own, without our CPU operations and their patches; kept in the build cache."""
    csrc = tmp_path_factory.mktemp("unpatched") / "csrc"
    shutil.copytree(csrc_directory(), csrc)
    for patch in CPU_PATCHES:
        (csrc / "patches" / patch).unlink()
    cmake = csrc / "CMakeLists.txt"
    lines = cmake.read_text("utf-8").splitlines(keepends=True)
    ours = ("sdcffi_stand_before(ggml_backend_cpu_get_extra_buffer_types", "cpu/operations.cpp")
    kept = [line for line in lines if not any(text in line for text in ours)]
    assert len(kept) == len(lines) - len(ours)
    cmake.write_text("".join(kept), "utf-8")
    return compile_native(make_plan(engines.request(backend="cpu"), csrc))


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [{}, {"init_image": gradient(96, 80), "strength": 0.6, "steps": 6}, {"tiling": Tiling(enabled=True)}],
    ids=["text to image", "image to image", "tiles"],
)
@pytest.mark.parametrize("kind", ["flux2", "sd1"])
def test_our_kernels_draw_what_upstreams_draw(
    kind: str, call: dict[str, Any], unpatched: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    if kind == "sd1":
        model = sd1_model.write(sd1_model.small().tensors, tmp_path / "small.safetensors")
        files: dict[str, Any] = {"model": model, "taesd": sd1_model.write_taesd(tmp_path / "taesd.safetensors")}
    else:
        files = tiny_model.engine_arguments()
    parameters = {"prompt": "a lovely cat", "width": 128, "height": 64, "steps": 4, "cfg_scale": 3.0, "seed": 7, **call}
    pictures = []
    for library in (None, unpatched):
        with Engine(**files, backend="cpu", threads=2, library=library) as engine:
            pictures.append(engine.generate(**parameters, resize="stretch").arrays[0].copy())
    assert compare(*pictures).psnr > 45
    assert np.ptp(pictures[0]) > 100
