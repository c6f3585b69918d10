"""500 jobs on three nodes, of which two die: every image is there once, byte for byte as one engine makes it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from ray_clusters import running_cluster
from tiny_model import TinyModel

pytest.importorskip("ray.data", reason="needs Ray: pip install 'sdcffi[ray]'")

from sdcffi import Engine
from sdcffi.ray import batches
from sdcffi.ray.actor import Generator
from sdcffi.ray.rows import seed_of

JOBS = 500
WORDS = ("cat", "dog", "bird", "red", "blue", "small", "on a hill", "at night")


def rows() -> list[dict[str, Any]]:
    """Prompts with and without seeds, in several sizes; some of several images."""
    chance = random.Random(1)
    made = []
    for number in range(1, JOBS + 1):
        row: dict[str, Any] = {"prompt": " ".join(chance.sample(WORDS, 3))}
        if number % 3 == 0:
            row["seed"] = chance.randrange(1 << 32)
        if number % 7 == 0:
            row["width"] = 48
        if number % 50 == 0:
            row["batch_count"] = 2
        made.append(row)
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_lost_nodes_change_nothing(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, alone, begun = (tmp_path / name for name in ("ours", "alone", "begun"))
    for folder in (ours, alone, begun):
        folder.mkdir()

    class Counting(Generator):
        def _result(self, name: Any, arguments: Any) -> Any:
            (begun / f"{name}-{os.getpid()}-{random.random()}").touch()
            return super()._result(name, arguments)

    monkeypatch.setattr(batches, "Generator", Counting)
    small: dict[str, Any] = {"width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(map(json.dumps, rows())))
    given = batches.as_arguments({**tiny_model.engine_arguments(), "backend": "cpu", **small})
    found = []
    with running_cluster(3) as nodes:
        table = batches.outcomes(batches.rows_of(prompts), given, ours, batches.Options())
        for row in table.iter_rows():
            found.append(row)
            if len(found) == 60:
                nodes.kill()
                nodes.add()
            elif len(found) == 240:
                nodes.kill()  # nothing comes in its place
    assert sorted(row["row"] for row in found) == list(range(1, JOBS + 1))
    assert {row["error"] for row in found} == {""}
    assert JOBS <= len(list(begun.iterdir())) <= JOBS + 2

    with Engine(**tiny_model.engine_arguments(), backend="cpu", threads=1) as engine:
        for number, row in enumerate(rows(), 1):
            engine.generate(**{**small, "seed": seed_of(number), **row}).save(alone / f"image_{number:04}.png")
    names = sorted(path.name for path in alone.iterdir())
    assert len(names) == JOBS + JOBS // 50
    assert sorted(os.listdir(ours)) == names
    assert [name for name in names if (ours / name).read_bytes() != (alone / name).read_bytes()] == []
