"""The same build without some patches: what LoRA on quantised weights did, and what our CPU kernels must not change."""

from __future__ import annotations

import shutil
import subprocess
import sys
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
from sdcffi._machine.builds import locate
from sdcffi.images.compare import compare

LORA_PATCH = "0001-cast-quantised-tensors-by-rows.patch"
CPU_PATCHES = (
    "0033-one-operation-on-the-cpu.patch",
    "0034-sleep-at-barriers.patch",
)
DRAW = (
    "import sys; from sdcffi import Engine\n"
    "model, llm, taesd, lora, mode, library = sys.argv[1:]\n"
    "with Engine(diffusion_model=model, llm=llm, taesd=taesd, lora_apply_mode=mode, library=library) as engine:\n"
    "    result = engine.generate('a cat', width=64, height=64, steps=1, cfg_scale=1, loras=[lora])\n"
    "print(result.loras[0].mode, result.arrays[0].shape)\n"
)


@pytest.fixture(scope="module")
def unpatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build like the package's own, without some patches and without our CPU operations; kept in the build cache."""
    csrc = tmp_path_factory.mktemp("unpatched") / "csrc"
    shutil.copytree(csrc_directory(), csrc)
    for patch in (LORA_PATCH, *CPU_PATCHES):
        (csrc / "patches" / patch).unlink()
    cmake = csrc / "CMakeLists.txt"
    lines = cmake.read_text("utf-8").splitlines(keepends=True)
    ours = ("sdcffi_stand_before(ggml_backend_cpu_get_extra_buffer_types", "cpu/operations.cpp")
    kept = [line for line in lines if not any(text in line for text in ours)]
    assert len(kept) == len(lines) - len(ours)
    cmake.write_text("".join(kept), "utf-8")
    return compile_native(make_plan(engines.request(backend="cpu"), csrc))


def draw(model: TinyModel, mode: str, library: Path) -> subprocess.CompletedProcess[str]:
    paths = [model.diffusion_model, model.llm, model.taesd, model.lora]
    command = [sys.executable, "-c", DRAW, *map(str, paths), mode, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_without_our_patch_merging_into_quantised_weights_fails_an_assertion(
    unpatched: Path, models: dict[str, TinyModel]
) -> None:
    ours = draw(models["q8_0"], "immediately", locate().directory)
    assert (ours.returncode, ours.stdout) == (0, "immediately (64, 64, 3)\n"), ours.stderr
    theirs = draw(models["q8_0"], "immediately", unpatched)
    assert theirs.returncode != 0
    assert "GGML_ASSERT(src1->type == GGML_TYPE_F32)" in theirs.stderr
    at_runtime = draw(models["q8_0"], "at_runtime", unpatched)
    assert (at_runtime.returncode, at_runtime.stdout) == (0, "at_runtime (64, 64, 3)\n"), at_runtime.stderr


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
