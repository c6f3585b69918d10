"""Batches on a cluster of two nodes: the images are those of one engine, and each row is done once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray_clusters import Nodes, an_actor, an_engine, running_cluster
from tiny_model import TinyModel

pytest.importorskip("ray.data", reason="needs Ray: pip install 'sdcffi[ray]'")

import ray.data

import sdcffi.ray
from sdcffi import Engine, SDError, cli
from sdcffi.ray import batches
from sdcffi.ray.actor import Generator
from sdcffi.ray.rows import seed_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
]

SMALL: dict[str, Any] = {"width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with running_cluster(2) as nodes:
        yield nodes


@pytest.fixture
def model(cluster: Nodes, tiny_model: TinyModel) -> dict[str, Any]:
    """Keywords of `generate` for the tiny model."""
    return {**tiny_model.engine_arguments(), "backend": "cpu", **SMALL}


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    """One engine without Ray."""
    with Engine(**tiny_model.engine_arguments(), backend="cpu", threads=1) as engine:
        yield engine


def by_row(done: Any) -> dict[Any, dict[str, Any]]:
    rows = list(done.iter_rows())
    found = {row["row"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def states(done: Any) -> dict[Any, str]:
    return {name: row["state"] for name, row in by_row(done).items()}


def test_files_are_those_of_one_engine_and_a_bad_row_costs_no_other(
    model: dict[str, Any], engine: Engine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    rows: list[Any] = [
        "a cat",
        {"prompt": "a dog", "seed": 5, "batch_count": 2},
        {"prompt": "a bird", "stepz": 2},
        {"prompt": "a cow", "sampler": "nope"},
        {"prompt": "a fish", "loras": [{"path": str(tiny_model.lora), "multiplier": 0.5}], "seed": -1},
        {"prompt": "a cat", "init_image": Image.new("RGB", (32, 32), "red"), "strength": 0.9},
    ]
    with pytest.warns(UserWarning, match="2 of 6 rows failed, the first with: row [34]: "):
        done = by_row(sdcffi.ray.generate(rows, tmp_path, **model))
    assert {name: row["state"] for name, row in done.items()} == {
        **dict.fromkeys((1, 2, 5, 6), "generated"),
        **dict.fromkeys((3, 4), "failed"),
    }
    assert done[3]["error"] == "unknown parameter 'stepz'; did you mean steps?"
    assert "sampler must be one of" in done[4]["error"]
    calls: dict[int, dict[str, Any]] = {
        1: {"prompt": "a cat", "seed": seed_of(1)},
        2: rows[1],
        5: {"prompt": "a fish", "loras": [(tiny_model.lora, 0.5)], "seed": seed_of(5)},
        6: {**rows[5], "seed": seed_of(6)},
    }
    (tmp_path / "alone").mkdir()
    for name, call in calls.items():
        files = engine.generate(**{**SMALL, **call}).save(tmp_path / f"alone/image_000{name}.png")
        assert [Path(path).name for path in done[name]["files"]] == [path.name for path in files]
        assert [Path(path).read_bytes() for path in done[name]["files"]] == [path.read_bytes() for path in files]
        assert done[name]["seeds"] == [sdcffi.Record.from_file(path).seed for path in files]


def test_a_second_run_passes_over_what_is_finished(model: dict[str, Any], tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    lines: list[Any] = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "output": str(tmp_path / "own.png")}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    first = by_row(sdcffi.ray.generate(prompts, tmp_path / "x.png", **model))
    assert {path.name for path in tmp_path.glob("*.png")} == {"x_0001.png", "x_0002.png", "own.png"}
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    lines[1]["prompt"] = "d"
    prompts.write_text("\n".join(map(json.dumps, lines)))
    second = by_row(sdcffi.ray.generate(prompts, tmp_path / "x.png", **model))
    assert {name: row["state"] for name, row in second.items()} == {1: "finished", 2: "generated", 3: "finished"}
    assert [second[name]["seeds"] for name in (1, 2, 3)] == [first[name]["seeds"] for name in (1, 2, 3)]
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"x_0002.png"}
    again = sdcffi.ray.generate(prompts, tmp_path / "x.png", **model, overwrite=True)
    assert set(states(again).values()) == {"generated"}
    assert not list(tmp_path.glob(".sdcffi*"))


def test_the_rows_of_a_dataset_have_images_as_columns(model: dict[str, Any], engine: Engine) -> None:
    pixels = np.full((32, 32, 3), 99, np.uint8)
    table = ray.data.from_items(
        [
            {"row": "cat", "prompt": "a cat", "seed": None, "init_image": pixels},
            {"row": "../dog", "prompt": "a dog", "seed": 3, "init_image": pixels},
        ]
    )
    done = by_row(sdcffi.ray.generate(table, **model, strength=0.9))
    alone = engine.generate("a cat", seed=seed_of("cat"), init_image=pixels, strength=0.9, **SMALL)
    assert done["cat"]["images"] == [alone.to_bytes()]
    assert done["../dog"]["images"] == []
    assert done["../dog"]["error"].startswith("row must be")


def test_rows_without_a_name_are_named_after_what_they_say(model: dict[str, Any], tmp_path: Path) -> None:
    table = ray.data.from_items([{"prompt": "a cat"}, {"prompt": "a dog"}])
    done = by_row(sdcffi.ray.generate(table, tmp_path, **model))
    other = by_row(sdcffi.ray.generate(ray.data.from_items([{"prompt": "a dog"}]), tmp_path, **model))
    assert [row["state"] for row in other.values()] == ["finished"]
    assert other.keys() < done.keys()
    assert {path.stem for path in tmp_path.glob("*.png")} == {f"image_{name}" for name in done}


def test_what_is_wrong_with_all_rows_is_refused_before_anything_is_generated(
    model: dict[str, Any], tmp_path: Path
) -> None:
    table = ray.data.from_items([{"row": 1, "prompt": "a"}, {"row": 1, "prompt": "b"}])
    with pytest.raises(ValueError, match="the column row has 2 values, but only 1 different"):
        sdcffi.ray.generate(table, tmp_path, **model)
    with pytest.raises(ValueError, match=r"columns of the Dataset: unknown parameter 'stepz'; did you mean steps\?"):
        sdcffi.ray.generate(ray.data.from_items([{"prompt": "a", "stepz": 1}]), tmp_path, **model)
    named = ray.data.from_items([{"row": "a", "prompt": "a", "batch_count": 2}, {"row": "a_0", "prompt": "b"}])
    with pytest.raises(ValueError, match=r"rows a(_0)? and a(_0)? have the same file image_a_0\.png, .* otherwise"):
        sdcffi.ray.generate(named, tmp_path, **model)
    table = ray.data.from_items([{"row": "a", "prompt": "a"}, {"row": "a_0", "prompt": "b", "batch_count": 1}])
    with pytest.raises(ValueError, match=r"have the same file image_a_0\.png"):
        sdcffi.ray.generate(table, tmp_path, **model, batch_count=2)
    batches.outcomes(table, batches.as_arguments(model), tmp_path, batches.Options())  # one image each: no complaint
    two = [{"prompt": "a", "output": f"{tmp_path}/a.png"}, {"prompt": "b", "output": f"{tmp_path}/a.png"}]
    with pytest.raises(ValueError, match="lines 1 and 2 have the same output"):
        sdcffi.ray.generate(two, tmp_path, **model)
    with pytest.raises(ValueError, match="no machine of the cluster has CPU: 1, GPU: 1; give less"):
        sdcffi.ray.generate(["a"], tmp_path, **model, resources={"num_cpus": 1, "num_gpus": 1})
    with pytest.raises(ValueError, match=r"directory .* does not exist"):
        sdcffi.ray.generate(["a"], tmp_path / "no/x.png", **model)
    with pytest.raises(ValueError, match="BMP files have no record"):
        sdcffi.ray.generate(["a"], tmp_path / "x.bmp", **model)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_ends_the_batch(cluster: Nodes, tmp_path: Path) -> None:
    with pytest.raises(SDError, match=r"the model cannot be loaded on .*'/nowhere.gguf' does not exist"):
        sdcffi.ray.generate(["a"] * 3, tmp_path, model="/nowhere.gguf")


def counting(folder: Path) -> type[Generator]:
    """`Generator`, with a file in `folder` for each time that an image is begun."""

    class Counting(Generator):
        def _result(self, name: Any, arguments: Any) -> Any:
            (folder / f"{name}-{os.getpid()}-{len(os.listdir(folder))}").touch()
            return super()._result(name, arguments)

    return Counting


@pytest.mark.parametrize(("one", "rows_per_task"), [(an_actor, 4), (an_engine, 1)])
def test_a_killed_process_loses_one_image_and_it_is_made_again(
    one: Callable[[], int], rows_per_task: int, model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(batches, "Generator", counting(tmp_path / "begun"))
    given = batches.as_arguments({**model, "steps": 20})
    rows = batches.rows_of(["a cat"] * 12)
    table = batches.outcomes(rows, given, tmp_path / "out", batches.Options(rows_per_task=rows_per_task))
    found = []
    for row in table.iter_rows():
        found.append(row)
        if len(found) == rows_per_task:
            os.kill(one(), signal.SIGKILL)
    assert sorted(row["row"] for row in found) == list(range(1, 13))
    assert {row["error"] for row in found} == {""}
    assert len(list((tmp_path / "out").glob("*.png"))) == 12
    assert 12 <= len(os.listdir(tmp_path / "begun")) <= 13


def test_the_command_line_does_the_same(
    cluster: Nodes, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {name: str(path) for name, path in tiny_model.engine_arguments().items()}
    Path("m.json").write_text(json.dumps({**own, "backend": "cpu", "threads": 1, **SMALL}))
    Path("p.jsonl").write_text('{"prompt": "a", "seed": 7}\n{"prompt": "b", "stepz": 1}\n')
    ray.shutdown()  # the command connects by itself
    command = ["generate", "--params", "m.json", "--prompts", "p.jsonl", "-o", "out.png"]
    try:
        assert cli.main([*command, "--ray", cluster.address, "--json"]) == 1
        out, err = capfd.readouterr()
        report, failure = map(json.loads, out.splitlines())
        assert report == {"line": 1, "path": str(tmp_path / "out_0001.png"), "seed": 7}
        assert "1 of 2 lines of p.jsonl failed" in failure["error"]
        assert "sdcffi: error: line 2: unknown parameter 'stepz'" in err
        ray.shutdown()
        Path("p.jsonl").write_text('{"prompt": "a", "seed": 7}\n')
        assert cli.main([*command, "--ray", cluster.address, "--ray-resources", "num_cpus=1"]) == 0
        assert cli.main(command) == 0  # without Ray, it is finished too
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("1 of 1 lines are finished already") == 2
    finally:
        ray.shutdown()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
