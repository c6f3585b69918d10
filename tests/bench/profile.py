"""How the time of one phase of a work divides among the engine's operations, by kind and by shape.

    python -m tests.bench.profile unet-256-f16 [--phase sample] [--rounds 3] [--threads N] [--shapes 25] [--json FILE]

The phases are those of `Progress`: encode (the text), sample, decode. The engine is the one that the package finds, as
it was built: a library that is compiled for this notes when each thread begins each operation (`node_times.cpp`).

wall     from the beginning of an operation to that of the next on the first thread: waiting for the others is in it
cpu      what all threads computed in that time, a neighbour's share left out; on a busy machine, trust this one
GFLOP/s  multiplications and additions of products and convolutions, by wall time; `a core`: by cpu time
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engines
import numpy as np
import numpy.typing as npt
from tables import table

from sdcffi import Engine, Progress
from sdcffi._machine.builds import locate

from .compiling import compiled
from .works import WORKS

PHASES = ("encode", "sample", "decode")
PROFILED = [name for name, work in WORKS.items() if work.model != "upscaler"]  # whose calls have phases
THREADS = 256
_NODE = np.dtype(
    [("wall", "i8"), ("sizes", "i8", (4, 4)), ("op", "i4"), ("unary", "i4"), ("types", "i4", 4)], align=True
)


@dataclass
class Spent:
    """What operations of one kind took in all, in seconds; `operations` are multiplications and additions."""

    wall: float = 0.0
    cpu: float = 0.0
    count: int = 0
    operations: float = 0.0

    def add(self, other: Spent) -> None:
        self.wall += other.wall
        self.cpu += other.cpu
        self.count += other.count
        self.operations += other.operations


@dataclass(frozen=True)
class Node:
    """One operation that was computed."""

    kind: str
    shapes: str
    spent: Spent


class Watch:
    """Notes the operations of the CPU backend of this process, whose libraries have been loaded."""

    def __init__(self) -> None:
        directory = locate().directory
        self._base, self._ggml = (
            ctypes.CDLL(str(directory / f"libsdcffi-{name}.so")) for name in ("ggml-base", "ggml")
        )
        self._library = ctypes.CDLL(str(_library()))
        for name in ("ggml_op_name", "ggml_unary_op_name", "ggml_glu_op_name", "ggml_type_name"):
            getattr(self._base, name).restype = ctypes.c_char_p
        self._library.noted.restype = self._library.cpu_times.restype = ctypes.c_void_p
        self._library.end.restype = ctypes.c_int64
        self._library.watch(self._first_type())

    def _first_type(self) -> ctypes.c_void_p:
        """The first extra buffer type of the CPU backend."""
        device_type_cpu = 0
        device = self._pointer(self._ggml.ggml_backend_dev_by_type, device_type_cpu)
        registry = self._pointer(self._base.ggml_backend_dev_backend_reg, device)
        address = self._pointer(
            self._base.ggml_backend_reg_get_proc_address, registry, b"ggml_backend_dev_get_extra_bufts"
        )
        types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address.value)(device)
        return ctypes.c_void_p(types[0])

    @staticmethod
    def _pointer(function: Any, *arguments: Any) -> ctypes.c_void_p:
        function.restype = ctypes.c_void_p
        return ctypes.c_void_p(function(*arguments))

    def begin(self) -> None:
        """Note from here on, and forget what was noted."""
        self._library.begin()

    def end(self) -> list[Node]:
        """What was noted since `begin`."""
        ended = int(self._library.end())
        nodes = self._noted(self._library.noted, _NODE)
        wall = np.diff(nodes["wall"], append=ended) / 1e9
        cpu = np.zeros(len(nodes))
        for thread in range(THREADS):
            cpu += self._cpu(thread, len(nodes))
        return [
            Node(*self._described(node), Spent(float(wall[i]), float(cpu[i]), 1, _operations(node, self._kind(node))))
            for i, node in enumerate(nodes)
        ]

    def _cpu(self, thread: int, count: int) -> npt.NDArray[np.float64]:
        """Seconds that a thread computed in each operation. A graph's last is cut off: then its threads may end."""
        times = self._noted(lambda size: self._library.cpu_times(thread, size), np.dtype("i8"))
        if len(times) != count:  # fewer threads computed
            return np.zeros(count)
        spent = np.diff(times, append=times[-1:]) / 1e9
        spent[spent < 0] = 0
        return spent

    @staticmethod
    def _noted(function: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        count = ctypes.c_size_t()
        address = function(ctypes.byref(count))
        if not count.value:
            return np.empty(0, dtype)
        return np.frombuffer(ctypes.string_at(address, count.value * dtype.itemsize), dtype)

    def _kind(self, node: Any) -> str:
        name = self._name("op", node["op"])
        if node["unary"] >= 0:
            name += " " + self._name("unary_op" if name == "UNARY" else "glu_op", node["unary"])
        if name == "CONV_2D":
            name += " {}x{}".format(*node["sizes"][1][:2])
        if name == "MUL_MAT":
            name += " of attention" if node["sizes"][1][2] > 1 else ""
        return name

    def _described(self, node: Any) -> tuple[str, str]:
        sources = [self._tensor(node, i) for i in range(1, 4) if node["types"][i] >= 0]
        return self._kind(node), f"{', '.join(sources)} → {self._tensor(node, 0)}"

    def _tensor(self, node: Any, index: int) -> str:
        sizes = [int(size) for size in node["sizes"][index]]
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        return f"{self._name('type', node['types'][index])} {'x'.join(map(str, sizes))}"

    def _name(self, what: str, number: int) -> str:
        return str(getattr(self._base, f"ggml_{what}_name")(int(number)).decode())


def _library() -> Path:
    """Compile what notes, against the headers of the engine under test."""
    ggml, directory = engines.source_tree() / "ggml", locate().directory
    includes = [f"-I{ggml / place}" for place in ("include", "src", "src/ggml-cpu")]
    base = directory / "libsdcffi-ggml-base.so"
    return compiled("node_times.cpp", "-shared", "-fPIC", *includes, str(base))


def _operations(node: Any, kind: str) -> float:
    """Multiplications and additions of a product, a convolution or an attention."""
    sizes = node["sizes"].astype(float)
    result = float(np.prod(sizes[0]))
    if kind.startswith("MUL_MAT"):
        return 2 * result * float(sizes[1][0])
    if kind.startswith("CONV_2D"):
        return 2 * result * float(np.prod(sizes[1][:3]))
    if kind.startswith("FLASH_ATTN"):
        return 4 * result * float(sizes[2][1])
    return 0.0


def profile(name: str, phase: str, rounds: int, threads: int | None) -> Iterator[tuple[list[Node], float]]:
    """Of each round the operations, and the seconds of the whole phase."""
    job = WORKS[name].job(threads)
    seen: list[tuple[list[Node], float]] = []
    watch: Watch | None = None
    started = 0.0

    def hear(progress: Progress) -> None:
        nonlocal started
        if progress.phase != phase or watch is None:
            return
        if progress.step == 0:
            started = time.perf_counter()
            watch.begin()
        elif progress.step == progress.steps:
            seconds = time.perf_counter() - started
            seen.append((watch.end(), seconds))

    with Engine(**job.model, threads=threads, backend="cpu", isolated=False) as engine:
        engine.generate(**job.draw)  # warms up, and loads the backend
        watch = Watch()
        for _ in range(rounds):
            engine.generate(**job.draw, on_progress=hear)
    yield from seen


def summed(nodes: list[Node], by_shape: bool) -> dict[str, Spent]:
    """What each kind took, or each kind with its shapes; the longest first."""
    groups: dict[str, Spent] = defaultdict(Spent)
    for node in nodes:
        groups[f"{node.kind}: {node.shapes}" if by_shape else node.kind].add(node.spent)
    return dict(sorted(groups.items(), key=lambda item: -item[1].wall))


def shown(groups: dict[str, Spent], rounds: int, most: int) -> str:
    """A table of the first `most`."""
    wall, cpu = (sum(getattr(spent, name) for spent in groups.values()) for name in ("wall", "cpu"))
    rows = [
        [
            name,
            f"{100 * spent.wall / wall:.1f} %",
            f"{100 * spent.cpu / cpu:.1f} %",
            f"{1000 * spent.wall / rounds:.1f}",
            f"{1000 * spent.cpu / rounds:.1f}",
            str(spent.count // rounds),
            *(
                f"{spent.operations / max(time, 1e-9) / 1e9:.0f}" if spent.operations else ""
                for time in (spent.wall, spent.cpu)
            ),
        ]
        for name, spent in list(groups.items())[:most]
    ]
    return table(["operation", "wall", "cpu", "wall ms", "cpu ms", "count", "GFLOP/s", "a core"], rows)


def main() -> int:
    """Profile a work."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", choices=PROFILED, metavar="WORK", help=", ".join(PROFILED))
    parser.add_argument("--phase", choices=PHASES, default="sample", help="default: sample")
    parser.add_argument("--rounds", type=int, default=3, help="calls after the one that warms up (default 3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the engine's own)")
    parser.add_argument("--shapes", type=int, default=25, help="lines of the table by shape (default 25)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every kind with its shapes")
    options = parser.parse_args()
    seen = list(profile(options.work, options.phase, options.rounds, options.threads))
    nodes = [node for found, _ in seen for node in found]
    if not nodes:
        print(f"{options.work} computes nothing on the CPU in the phase {options.phase}", file=sys.stderr)
        return 1
    rounds = len(seen)
    wall = sum(node.spent.wall for node in nodes) / rounds
    print(
        f"{WORKS[options.work].title}, {options.phase}: {len(nodes) // rounds} operations in {wall:.3f} s of ", end=""
    )
    print(f"{sum(seconds for _, seconds in seen) / rounds:.3f} s, {rounds} rounds\n")
    print(shown(summed(nodes, by_shape=False), rounds, 100), end="\n\n")
    print(shown(summed(nodes, by_shape=True), rounds, options.shapes))
    if options.json:
        groups = summed(nodes, by_shape=True)
        options.json.write_text(json.dumps({name: vars(spent) for name, spent in groups.items()}, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
