"""Many threads on two engines: no picture and no event of one call reaches another, and memory stays flat."""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from leftovers import nothing_left, resident
from tiny_model import TinyModel

from sdcffi import Engine, Log, Preview, Progress

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0}
SEEDS = range(20)
THREADS = 8
MOST_GROWTH = 8 << 20  # bytes, for arenas of threads that come and go; 56 KB kept of each of 150 calls are more

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")]


class Load:
    """Calls made by several threads, with what was wrong with them."""

    def __init__(self, engines: list[Engine], expected: dict[int, bytes]) -> None:
        self.engines, self.expected = engines, expected
        self.wrong: list[str] = []
        self.done = 0

    def generate(self, engine: Engine, seed: int) -> None:
        logs: list[Log] = []
        steps: list[Progress] = []
        previews: list[Preview] = []
        thread = threading.get_ident()

        def hear(events: list[Any], event: Any) -> None:
            if threading.get_ident() != thread:
                self.wrong.append(f"an event of seed {seed} came on another thread")
            events.append(event)

        result = engine.generate(
            **DRAW,
            seed=seed,
            on_log=lambda event: hear(logs, event),
            on_progress=lambda event: hear(steps, event),
            on_preview=lambda event: hear(previews, event),
        )
        seeds = [match[1] for line in logs if (match := re.search(r"generating image: .* seed (\d+)", line.text))]
        if seeds != [str(seed)]:
            self.wrong.append(f"the log of seed {seed} tells of {seeds}")
        if [event.step for event in steps if event.phase == "sample"] != [0, 1, 2]:
            self.wrong.append(f"seed {seed} heard {steps}")
        if [event.step for event in previews] != [1, 2]:
            self.wrong.append(f"seed {seed} saw previews of {[event.step for event in previews]}")
        if result.seeds != [seed] or result.arrays[0].tobytes() != self.expected[seed]:
            self.wrong.append(f"seed {seed} has another's picture")

    def run(self, count: int) -> None:
        work: SimpleQueue[int] = SimpleQueue()
        for number in range(count):
            work.put(number)

        def take() -> None:
            while True:
                try:
                    number = work.get_nowait()
                except Empty:
                    return
                try:
                    self.generate(self.engines[number % len(self.engines)], SEEDS[number * 7 % len(SEEDS)])
                    self.done += 1
                except BaseException as error:
                    self.wrong.append(repr(error))

        threads = [threading.Thread(target=take) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def memory(self) -> list[int]:
        """Bytes of this process and of each engine's."""
        gc.collect()
        return [resident(pid) for pid in (os.getpid(), *(engine.pid for engine in self.engines)) if pid]


@pytest.mark.parametrize(("isolated", "count"), [(True, 200), (False, 80)], ids=["isolated", "in-process"])
def test_many_threads_on_two_engines(
    isolated: bool, count: int, tiny_model: TinyModel, open_engine: OpenEngine, tmp_path: Path
) -> None:
    reference = open_engine(tiny_model)
    expected = {seed: reference.generate(**DRAW, seed=seed).arrays[0].tobytes() for seed in SEEDS}
    reference.close()
    assert len(set(expected.values())) == len(SEEDS)
    load = Load([open_engine(tiny_model, isolated=isolated) for _ in range(2)], expected)
    with nothing_left(tmp_path):
        load.run(count // 4)
        before = load.memory()
        load.run(count - count // 4)
        growth = [after - first for after, first in zip(load.memory(), before, strict=True)]
    print(f"{load.done} pictures, growth in MiB: {[round(bytes / (1 << 20), 1) for bytes in growth]}")
    assert load.wrong == []
    assert load.done == count
    assert max(growth) < MOST_GROWTH
