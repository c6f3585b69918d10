"""It is our patch that makes LoRA work on quantised weights: the same build without it ends the process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdcffi._build.pipeline import compile_native
from sdcffi._build.places import csrc_directory
from sdcffi._build.plan import make_plan
from sdcffi._build.request import BuildRequest
from sdcffi._locate import locate
from sdcffi.demo import DemoModel

PATCH = "0001-cast-quantised-tensors-by-rows.patch"
DRAW = (
    "import sys; from sdcffi import Engine\n"
    "model, llm, taesd, lora, mode, library = sys.argv[1:]\n"
    "with Engine(diffusion_model=model, llm=llm, taesd=taesd, lora_apply_mode=mode, library=library) as engine:\n"
    "    result = engine.generate('a cat', width=64, height=64, steps=1, cfg_scale=1, loras=[lora])\n"
    "print(result.loras[0].mode, result.arrays[0].shape)\n"
)


@pytest.fixture(scope="module")
def unpatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build like the package's own, without one patch; kept in the build cache."""
    csrc = tmp_path_factory.mktemp("unpatched") / "csrc"
    shutil.copytree(csrc_directory(), csrc)
    (csrc / "patches" / PATCH).unlink()
    return compile_native(make_plan(BuildRequest(backends=("cpu",)), csrc))


def draw(model: DemoModel, mode: str, library: Path) -> subprocess.CompletedProcess[str]:
    paths = [model.diffusion_model, model.llm, model.taesd, model.lora]
    command = [sys.executable, "-c", DRAW, *map(str, paths), mode, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_without_our_patch_merging_into_quantised_weights_fails_an_assertion(
    unpatched: Path, models: dict[str, DemoModel]
) -> None:
    ours = draw(models["q8_0"], "immediately", locate().directory)
    assert (ours.returncode, ours.stdout) == (0, "immediately (64, 64, 3)\n"), ours.stderr
    theirs = draw(models["q8_0"], "immediately", unpatched)
    assert theirs.returncode != 0
    assert "GGML_ASSERT(src1->type == GGML_TYPE_F32)" in theirs.stderr
    at_runtime = draw(models["q8_0"], "at_runtime", unpatched)
    assert (at_runtime.returncode, at_runtime.stdout) == (0, "at_runtime (64, 64, 3)\n"), at_runtime.stderr
