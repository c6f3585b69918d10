"""Every CPU variant of a portable build that runs here: the same operations, the same pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ggml_cpu import Backend, runs_here
from gpus import copied
from sdcli import Pixels
from test_cpu_operations import (
    CONVOLUTIONS,
    ROUNDING,
    convolved,
    convolved_along,
    error,
    normal,
    normed,
    passed_on,
    passing_on,
    product,
)
from tiny_model import TinyModel

from sdcffi import BackendUnavailableError, Engine, LayoutMismatchError
from sdcffi._bindings.plugins import variant_of
from sdcffi._machine.builds import NativeBuild
from sdcffi.images.compare import compare

pytestmark = [pytest.mark.backend, pytest.mark.slow]

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 96, "height": 80, "steps": 3, "cfg_scale": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def variants(portable: NativeBuild) -> list[Path]:
    """The plug-ins that this processor has the instructions for."""
    found = [path for path in portable.backends["cpu"] if runs_here(path)]
    assert found, "not even the plainest variant runs here"
    return found


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
        assert convolved_along(backend, random, (20, 37), ("add", "leaky_relu"), True, True) < ROUNDING, path.name
        for kind, after in (("group_norm", ("mul", "add", "silu")), ("norm", ("mul", "add")), ("rms_norm", ("mul",))):
            assert normed(backend, random, kind, after, True, True) < ROUNDING, (path.name, kind)
        image = normal(random, 1, 36, 9, 11)
        assert error(passed_on(backend, image), passing_on(image)) < ROUNDING, path.name


def test_pictures_are_the_same_whatever_the_number_of_threads(
    portable: NativeBuild, variants: list[Path], tiny_model: TinyModel
) -> None:
    with Engine(**tiny_model.engine_arguments(), backend="cpu", threads=1) as engine:
        native = engine.generate(**DRAW).arrays[0].copy()
    for path in variants:
        forced = {"library": portable.directory, "backend": f"cpu:{variant_of(path)}"}
        drawn: list[Pixels] = []
        for threads in (1, 2, 3, 7):
            with Engine(**tiny_model.engine_arguments(), **forced, threads=threads) as engine:
                drawn.append(engine.generate(**DRAW).arrays[0].copy())
        assert compare(drawn[0], native).psnr > 45, path.name
        assert all(np.array_equal(pixels, drawn[0]) for pixels in drawn), path.name


def test_a_variant_is_chosen_by_name_and_without_one_the_best(
    portable: NativeBuild, variants: list[Path], tiny_model: TinyModel
) -> None:
    arguments = {**tiny_model.engine_arguments(), "library": portable.directory, "threads": 1}
    names = [str(variant_of(path)) for path in variants]
    drawn: dict[str, Pixels] = {}
    for name in names:
        with Engine(**arguments, backend=f"cpu:{name}") as engine:
            assert (engine.device.id, engine.device.reason) == (f"cpu:{name}", f"cpu:{name} was asked for")
            result = engine.generate(**DRAW)
            drawn[name] = result.arrays[0].copy()
            assert result.record(0, digests=False).device_id == f"cpu:{name}"
    assert len({pixels.tobytes() for pixels in drawn.values()}) > 1, "the same code drew all of them"
    with Engine(**arguments, backend="auto") as engine:
        best = engine.device
        assert best.reason.endswith(f"the best of {len(names)} CPU variants that run here")
        assert np.array_equal(engine.generate(**DRAW).arrays[0], drawn[str(best.variant)])
    with Engine(**arguments, backend="cpu") as engine:
        assert engine.device.variant == best.variant


def test_a_variant_that_this_processor_cannot_execute_is_refused(
    portable: NativeBuild, variants: list[Path], tiny_model: TinyModel
) -> None:
    foreign = [path for path in portable.backends["cpu"] if path not in variants]
    for path in foreign:
        name = variant_of(path)
        with pytest.raises(
            BackendUnavailableError, match=f"'cpu:{name}' needs CPU instructions that this processor lacks"
        ):
            Engine(**tiny_model.engine_arguments(), library=portable.directory, backend=f"cpu:{name}")
    with pytest.raises(BackendUnavailableError, match="'cpu:z80' is not built"):
        Engine(**tiny_model.engine_arguments(), library=portable.directory, backend="cpu:z80")


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
def test_opening_a_variant_to_ask_it_runs_nothing_of_it(portable: NativeBuild) -> None:
    """A static constructor would be compiled for the variant's processor, and run before it can refuse."""
    for path in portable.backends["cpu"]:
        sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
        size = re.search(r"\.init_array\s+INIT_ARRAY\s+\w+ \w+ (\w+)", sections)
        assert size, path.name
        assert int(size[1], 16) == 8, path.name  # the compiler's own, which registers exception frames


def test_a_missing_variant_is_passed_over_and_told_of(
    portable: NativeBuild, tiny_model: TinyModel, tmp_path: Path
) -> None:
    library = copied(tmp_path / "native", portable)
    with Engine(**tiny_model.engine_arguments(), library=library) as engine:
        best = engine.device.variant
    (library / f"libggml-cpu-{best}.so").unlink()
    with Engine(**tiny_model.engine_arguments(), library=library) as engine:
        assert engine.device.variant not in (None, best)
        assert engine.device.reason.endswith(f"(libggml-cpu-{best}.so missing)")
    with pytest.raises(BackendUnavailableError, match=f"libggml-cpu-{best}.so is missing"):
        Engine(**tiny_model.engine_arguments(), library=library, backend=f"cpu:{best}")


def test_a_variant_with_other_bytes_is_refused_before_it_is_opened(
    portable: NativeBuild, tiny_model: TinyModel, tmp_path: Path
) -> None:
    library = copied(tmp_path / "native", portable)
    file = library / "libggml-cpu-x64.so"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(LayoutMismatchError, match=r"libggml-cpu-x64\.so was changed"):
        Engine(**tiny_model.engine_arguments(), library=library)
