"""The threads that are computed with where nobody says a number: the cores that the process may really use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from tiny_model import TinyModel
from upscaling_networks import random_weights

from sdcffi import Engine, Upscaler
from sdcffi._bindings.library import load
from sdcffi._machine import limits as _cores
from sdcffi._machine.limits import (
    MOST_THREADS,
    _linux_cores,
    _linux_processors,
    _macos_cores,
    usable_cores,
    usable_processors,
)

DRAW: dict[str, Any] = {"prompt": "a", "width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0, "seed": 1}


def system(root: Path, siblings: dict[int, str], files: dict[str, str]) -> Path:
    """A system whose processors have these siblings, and with these files."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    for name, text in {**{topology.format(number): f"{text}\n" for number, text in siblings.items()}, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


EIGHT = {number: str(number) for number in range(8)}
TWO_THREADS = {number: f"{number % 4},{number % 4 + 4}" for number in range(8)}  # 4 cores
HYBRID = {**{number: f"{number & ~1}-{number | 1}" for number in range(4)}, **{n: str(n) for n in range(4, 8)}}
V2 = {"proc/self/cgroup": "0::/user/app\n"}
V1 = {"proc/self/cgroup": "9:cpuset:/other\n4:cpu,cpuacct:/user/app\n0::/\n"}
PERIOD = {"sys/fs/cgroup/cpu/user/app/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("siblings", "allowed", "files", "cores", "processors"),
    [
        pytest.param(EIGHT, range(8), {}, 8, 8, id="every core"),
        pytest.param(EIGHT, [3], {}, 1, 1, id="affinity of one"),
        pytest.param(TWO_THREADS, range(8), {}, 4, 8, id="two threads a core"),
        pytest.param(TWO_THREADS, [0, 4, 1], {}, 2, 3, id="affinity with both threads of a core"),
        pytest.param(TWO_THREADS, range(4), {}, 4, 4, id="affinity with one thread of each core"),
        pytest.param(HYBRID, range(8), {}, 6, 8, id="cores of two kinds"),
        pytest.param({}, range(3), {}, 3, 3, id="no topology"),
        pytest.param(EIGHT, range(8), {**V2, "sys/fs/cgroup/user/app/cpu.max": "max 100000\n"}, 8, 8, id="no limit"),
        pytest.param(EIGHT, range(8), {**V2, "sys/fs/cgroup/user/app/cpu.max": "250000 100000\n"}, 3, 3, id="quota"),
        pytest.param(EIGHT, range(8), {**V2, "sys/fs/cgroup/user/app/cpu.max": "300000 200000\n"}, 2, 2, id="period"),
        pytest.param(EIGHT, range(8), {**V2, "sys/fs/cgroup/user/app/cpu.max": "10000 100000\n"}, 1, 1, id="a tenth"),
        pytest.param(
            EIGHT,
            range(8),
            {
                **V2,
                "sys/fs/cgroup/user/app/cpu.max": "600000 100000\n",
                "sys/fs/cgroup/user/cpu.max": "400000 100000\n",
            },
            4,
            4,
            id="quota of a group above",
        ),
        pytest.param(EIGHT, range(8), {**V2, "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2, 2, id="container's root"),
        pytest.param(EIGHT, range(2), {**V2, "sys/fs/cgroup/cpu.max": "600000 100000\n"}, 2, 2, id="affinity is less"),
        pytest.param(TWO_THREADS, range(8), {**V2, "sys/fs/cgroup/cpu.max": "600000 100000\n"}, 4, 6, id="between"),
        pytest.param(EIGHT, range(8), {**V2, "sys/fs/cgroup/user/app/cpu.max": ""}, 8, 8, id="empty file"),
        pytest.param(
            EIGHT,
            range(8),
            {**V1, **PERIOD, "sys/fs/cgroup/cpu/user/app/cpu.cfs_quota_us": "150000\n"},
            2,
            2,
            id="not 1: convert",
        ),
        pytest.param(
            EIGHT,
            range(8),
            {**V1, **PERIOD, "sys/fs/cgroup/cpu/user/app/cpu.cfs_quota_us": "-1\n"},
            8,
            8,
            id="version 1 without limit",
        ),
        pytest.param(
            EIGHT,
            range(8),
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
            },
            5,
            5,
            id="version 1, the container's root",
        ),
        pytest.param({}, range(2000), {}, MOST_THREADS, MOST_THREADS, id="more than ggml takes"),
    ],
)
def test_cores_of_linux_are_counted(
    siblings: dict[int, str],
    allowed: list[int],
    files: dict[str, str],
    cores: int,
    processors: int,
    tmp_path: Path,
) -> None:
    root = system(tmp_path, siblings, files)
    assert _linux_cores(root, allowed) == cores
    assert _linux_processors(root, allowed) == processors


@pytest.mark.parametrize(
    ("told", "cores"),
    [
        ({"hw.perflevel0.physicalcpu": 6, "hw.physicalcpu": 10}, 6),
        ({"hw.physicalcpu": 4}, 4),
        ({}, os.cpu_count()),
    ],
    ids=["performance cores", "Intel", "nothing told"],
)
def test_cores_of_macos_are_counted(told: dict[str, int], cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def sysctl(name: str) -> int:
        if name not in told:
            raise OSError(name)
        return told[name]

    monkeypatch.setattr(_cores, "_sysctl", sysctl)
    assert _macos_cores() == cores


@pytest.mark.parametrize(("logical", "cores", "processors"), [(12, 6, 12), (1, 1, 1), (None, 1, 1)])
def test_elsewhere_half_of_the_logical_processors_are_taken(
    logical: int | None, cores: int, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "cpu_count", lambda: logical)
    assert (usable_cores(), usable_processors()) == (cores, processors)


# What is computed with


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Lets this thread, and what it starts, use a single processor."""
    if not hasattr(os, "sched_setaffinity"):  # elsewhere a process has all of them
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def threads(model: TinyModel, **keywords: Any) -> int | None:
    """How many threads the record of a picture tells."""
    with Engine(**model.engine_arguments(), backend="cpu", **keywords) as engine:
        result = engine.generate(**DRAW)
    assert result.origin is not None
    assert result.origin.context.n_threads == keywords.get("threads")
    return result.origin.resolved_context.n_threads


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "in-process"])
def test_the_record_tells_the_cores_of_the_process_that_computes(
    tiny_model: TinyModel, isolated: bool, one_processor: None
) -> None:
    assert threads(tiny_model, isolated=isolated) == usable_cores()


def test_without_limits_every_core_is_used(tiny_model: TinyModel) -> None:
    assert threads(tiny_model) == usable_cores()
    assert threads(tiny_model, threads=3) == 3


class Watched:
    """The native functions; what an upscaler is opened with is kept."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.threads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    def sdg_new_upscaler(self, *arguments: Any) -> int:
        self.threads.append(arguments[3])
        return int(self._lib.sdg_new_upscaler(*arguments))


def test_an_upscaler_has_as_many(tmp_path: Path, one_processor: None, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tmp_path / "network.safetensors"
    save_file(random_weights(2), network)
    watched = Watched(load().lib)
    monkeypatch.setattr(load(), "lib", watched)
    for threads in (None, 3):
        Upscaler(network, threads=threads, backend="cpu", isolated=False).close()
    assert watched.threads == [usable_cores(), 3]
