"""What Ray costs a batch: ``python -m tests.bench.ray_batches``.

On one machine, with two nodes of one CPU: starting an actor, loading a model in it, and what each row takes when its
images take no time: those of rows that are finished, and those of rows that do nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

import sdcffi
from sdcffi.ray import batches
from sdcffi.ray.actor import Generator
from tests.support.ray_clusters import running_cluster


class Idle(Generator):
    """Returns at once: what remains is Ray's."""

    def __call__(self, row: Any) -> dict[str, Any]:
        return {"row": row["row"], "files": [""], "seeds": [0], "error": "", "state": "generated", "seconds": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    rows = parser.parse_args().rows
    small = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0}
    given = batches.as_arguments({**sdcffi.demo_model(), "backend": "cpu", **small})
    started = time.perf_counter()
    with running_cluster(2), tempfile.TemporaryDirectory() as folder:
        ray.data.DataContext.get_current().enable_progress_bars = False
        print(f"cluster of two nodes: {time.perf_counter() - started:.1f} s")
        ray.get(ray.remote(lambda: None).remote())
        started = time.perf_counter()
        print(f"first row of an idle actor: {_first(given, folder, Idle) - started:.2f} s")
        started = time.perf_counter()
        print(f"first image: {_first(given, folder, Generator) - started:.2f} s")
        started = time.perf_counter()
        with sdcffi.Engine(**given.engine, threads=1):
            print(f"loading the model, without Ray: {time.perf_counter() - started:.2f} s")
        for size in (1, 16):
            seconds = _all(given, folder, Idle, rows, batches.Options(rows_per_task=size, concurrency=2))
            print(f"{rows} rows, {size} at once: {rows / seconds:.0f} rows/s, {seconds / rows * 1e3:.2f} ms a row")
        started = time.perf_counter()
        batches.outcomes([(row, {"prompt": "a"}) for row in range(10 * rows)], given, None, batches.Options())
        print(f"handing {10 * rows} rows to the object store: {time.perf_counter() - started:.1f} s")
        few = 300
        for state in ("generated", "finished"):
            seconds = _all(given, folder, Generator, few, batches.Options(concurrency=1))
            print(f"{few} rows, {state}: {few / seconds:.1f} rows/s, one actor, its start included")


def _first(given: Any, folder: str, kind: type[Generator]) -> float:
    batches.Generator = kind  # type: ignore[misc]
    found = batches.outcomes([(1, {"prompt": "a"})], given, Path(folder, "first.png"), batches.Options())
    next(iter(found.iter_rows()))
    return time.perf_counter()


def _all(given: Any, folder: str, kind: type[Generator], count: int, options: batches.Options) -> float:
    batches.Generator = kind  # type: ignore[misc]
    found = batches.outcomes([(row, {"prompt": "a"}) for row in range(1, count + 1)], given, folder, options)
    started = time.perf_counter()
    assert sum(1 for _ in found.iter_rows()) == count
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
