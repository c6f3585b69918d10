"""Every CPU variant of a portable build that runs here: the same operations, the same pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ggml_cpu import Backend, runs_here
from sdcli import Pixels
from test_cpu_operations import CONVOLUTIONS, ROUNDING, convolved, error, normal, product

from sdcffi import Engine
from sdcffi._build.pipeline import compile_native
from sdcffi._build.plan import make_plan
from sdcffi._build.request import BuildRequest
from sdcffi._locate import MANIFEST, NativeBuild, read_build
from sdcffi.demo import DemoModel, compare

pytestmark = pytest.mark.slow

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 96, "height": 80, "steps": 3, "cfg_scale": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def portable() -> NativeBuild:
    """A build with all variants, kept in the build cache."""
    return read_build(compile_native(make_plan(BuildRequest(backends=("cpu",), cpu="portable"))))


@pytest.fixture(scope="module")
def variants(portable: NativeBuild) -> list[Path]:
    """The plug-ins that this processor has the instructions for."""
    found = [path for path in portable.backends["cpu"] if runs_here(path)]
    assert found, "not even the plainest variant runs here"
    return found


def only(portable: NativeBuild, plugin: Path, directory: Path) -> Path:
    """Copy a build with one variant alone, so that no other can be chosen."""
    shutil.copytree(portable.directory, directory)
    manifest = {**portable.manifest, "backends": {"cpu": [plugin.name]}}
    (directory / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return directory


def test_operations_are_exact_but_for_rounding(variants: list[Path]) -> None:
    random = np.random.default_rng(7)
    for path in variants:
        backend = Backend(path)
        for kind in ("f32", "f16", "q4_0", "q6_K"):
            weights, values = normal(random, 1, 1, 333, 512), normal(random, 1, 1, 77, 512)
            found, held = backend.multiply(weights, values, kind)
            assert error(found, product(held, values)) < ROUNDING, (path.name, kind)
        for case in CONVOLUTIONS:
            assert convolved(backend, random, "f16", case) < ROUNDING, (path.name, case)


def test_pictures_are_the_same_whatever_the_number_of_threads(
    portable: NativeBuild, variants: list[Path], demo_model: DemoModel, tmp_path: Path
) -> None:
    with Engine(**demo_model.engine_arguments(), backend="cpu", threads=1) as engine:
        native = engine.generate(**DRAW).arrays[0].copy()
    for path in variants:
        library = only(portable, path, tmp_path / path.stem)
        drawn: list[Pixels] = []
        for threads in (1, 2, 3, 7):
            with Engine(**demo_model.engine_arguments(), library=library, backend="cpu", threads=threads) as engine:
                drawn.append(engine.generate(**DRAW).arrays[0].copy())
        assert compare(drawn[0], native).psnr > 45, path.name
        assert all(np.array_equal(pixels, drawn[0]) for pixels in drawn), path.name
