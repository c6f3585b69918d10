"""Rows of tables: their names, seeds and parameters."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.data", reason="needs Ray: pip install 'sdcffi[ray]'")

from sdcffi import ContextParams
from sdcffi.engine.catalogue import refuse_open_variants
from sdcffi.parameter_files import as_arguments
from sdcffi.ray.actor import Generator, Task
from sdcffi.ray.batches import Options, outcomes, rows_of
from sdcffi.ray.rows import packed, read_row, seed_of, unpacked


def test_a_seed_depends_on_the_row_alone_and_never_changes() -> None:
    assert seed_of(7) == seed_of("7") == int(hashlib.sha256(b"7").hexdigest()[:8], 16) == 2030201243
    assert len({seed_of(row) for row in range(1000)}) == 1000


def test_a_row_without_a_name_is_named_after_its_parameters() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    name, own = read_row({"prompt": "a", "steps": np.int64(3), "init_image": pixels, "sampler": None})
    assert own == {"prompt": "a", "steps": 3, "init_image": pixels}
    same = [
        {"steps": 3, "prompt": "a", "init_image": pixels.copy()},
        {"prompt": "a", "steps": 3, "init_image": pixels, "cfg_scale": math.nan},
    ]
    assert {read_row(row)[0] for row in same} == {name}
    others: list[dict[str, Any]] = [
        {"prompt": "a", "steps": 4, "init_image": pixels},
        {"prompt": "a", "steps": 3, "init_image": pixels + np.uint8(1)},
        {"prompt": "a", "steps": 3, "init_image": pixels.tobytes()},
        {"prompt": "a", "steps": 3},
    ]
    assert len({name, *(read_row(row)[0] for row in others)}) == 5


def test_empty_cells_are_left_out_also_within_others() -> None:
    row = {"row": np.int64(4), "loras": [{"path": "a", "multiplier": None}], "sigmas": np.array([1.0, 0.5])}
    assert read_row(row) == (4, {"loras": [{"path": "a"}], "sigmas": [1.0, 0.5]})


@pytest.mark.parametrize("name", [None, True, -1, 1.5, "", "../a", "a/b", ".a", "a\0", "a" * 101])
def test_what_cannot_name_a_row_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="row must be"):
        read_row({"row": name, "prompt": "a"})


def test_rows_with_objects_go_through_a_table() -> None:
    rows = [(1, {"prompt": "a"}), (2, {"init_image": np.ones((2, 2, 3))})]
    back = [unpacked(row) for row in packed(rows)]
    assert back[0] == rows[0]
    assert np.array_equal(back[1][1]["init_image"], np.ones((2, 2, 3)))


def test_prompts_are_numbered(tmp_path: Any) -> None:
    assert rows_of(["a", {"prompt": "b", "steps": 2}]) == [(1, {"prompt": "a"}), (2, {"prompt": "b", "steps": 2})]
    (tmp_path / "p.txt").write_text("a\n\nb\n")
    assert rows_of(tmp_path / "p.txt") == [(1, {"prompt": "a"}), (3, {"prompt": "b"})]
    with pytest.raises(ValueError, match="at least one row"):
        rows_of([])
    with pytest.raises(TypeError, match="row 2 is 5"):
        rows_of(["a", 5])  # type: ignore[list-item]


def test_edges_of_an_image_in_memory_are_refused_where_a_second_run_would_not_know_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # as the generator does, and back afterwards

    class Tried(Generator):
        def _result(self, name: Any, arguments: Any) -> Any:
            raise LookupError("it would be generated")

    def said(image: Any, name: str = "a.png", canny: bool = True, overwrite: bool = False) -> str:
        given = as_arguments({"prompt": "a", "canny": canny})
        output = tmp_path / name if name else None
        task = Task(given, output, 4, True, str(tmp_path), overwrite, 0, None, "PNG", False, False)
        [row] = packed([(1, {"control_image": image})])
        return str(Tried(task)(row)["error"])

    pixels = np.zeros((32, 32, 3), np.uint8)
    assert said(pixels) == (
        "with canny=True, control_image must be a path, or each run would generate the row again; give a path, or"
        " control_image=sdcffi.canny(image) without canny"
    )
    others = [said("a.png"), said(Path("a.png")), said(pixels, ""), said(pixels, canny=False)]
    assert {*others, said(pixels, overwrite=True)} == {"LookupError: it would be generated"}


def test_a_model_whose_variant_each_machine_would_choose_is_refused() -> None:
    with pytest.raises(ValueError, match="catalogue:sd-turbo leaves the variant to the memory of each machine"):
        outcomes([], as_arguments({"model": "catalogue:sd-turbo"}), None, Options())
    refuse_open_variants(ContextParams(model_path="catalogue:sd-turbo/q8_0", vae_path="catalogue:demo"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "concurrency must be"),
        ({"concurrency": (2, 1)}, "concurrency must be"),
        ({"resources": {"num_gpus": -1}}, r"resources\['num_gpus'\] must be"),
        ({"rows_per_task": 0}, "rows_per_task must be"),
        ({"retries": -1}, "retries must be"),
        ({"timeout": math.inf}, "timeout must be finite"),
        ({"format": "PDF"}, "format must be"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        Options(**options)
