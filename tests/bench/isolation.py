"""What the isolated engine costs beside the in-process one, on the tiny model.

    python -m tests.bench.isolation [--rounds N] [--size PIXELS] [--threads N] [--interrupts N]

outside    time of a call of one step that is spent before the engine's first log line and after its last one: what
           Python, pipe and shared memory take, without the noise of seconds of native work
overhead   time of a call with `isolated=True` less that with `isolated=False`, both taking turns; at 64 pixels a side,
           where native work is short enough to be taken away
start      from nothing to a child that is ready, without a model
interrupt  from SIGINT, sent at a random moment of a step, to control back; and what of it is beyond a whole step
copies     bytes that the child writes in a call, and that are read back here, for each byte of the image (Linux)

Medians with quartiles. Run it on an idle machine: ggml's threads spin while they wait.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tiny_model import write_model

from sdcffi import Engine, Progress
from sdcffi._bindings.requests import Opening
from sdcffi._machine.backends import CPU
from sdcffi._process.calls import run_alone

AIMS = {"overhead": 0.010, "start": 0.5, "interrupt": 0.1}  # seconds


def alternate(engines: dict[bool, Engine], rounds: int, **draw: Any) -> dict[bool, list[tuple[float, float]]]:
    """Seconds of each call and of what of them is outside of native code, by mode; the order changes."""
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for number in range(-1, rounds):
        for mode in (True, False) if number % 2 else (False, True):
            one = timed(engines[mode], **draw)
            if number >= 0:  # the first round warms up
                times[mode].append(one)
    return times


def timed(engine: Engine, **draw: Any) -> tuple[float, float]:
    """Seconds of a call, and before its first and after its last line of the native log."""
    heard: list[float] = []
    started = time.perf_counter()
    engine.generate("a cat", **draw, on_log=lambda _: heard.append(time.perf_counter()))
    seconds = time.perf_counter() - started
    return seconds, seconds - (heard[-1] - heard[0])


def report(name: str, times: dict[bool, list[tuple[float, float]]]) -> tuple[list[float], list[float]]:
    """Print what both modes took; their differences, of whole calls and of what is outside."""
    for mode, kind in {True: "isolated", False: "in-process"}.items():
        show(f"{name}, {kind}", [seconds for seconds, _ in times[mode]])
        show("  of it outside", [outside for _, outside in times[mode]])
    pairs = list(zip(times[True], times[False], strict=True))
    return [one[0] - other[0] for one, other in pairs], [one[1] - other[1] for one, other in pairs]


def start() -> float:
    """Seconds until a child without a model has reported what it is."""
    started = time.perf_counter()
    run_alone(Opening(backend=CPU), "describe")
    return time.perf_counter() - started


def interrupt(engine: Engine, draw: dict[str, Any], rng: random.Random) -> tuple[float, float]:
    """Seconds from SIGINT to control back, and of a step."""
    steps: list[float] = []
    sent: list[float] = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    def hear(progress: Progress) -> None:
        if progress.phase == "sample" and progress.step > 0:
            steps.append(progress.seconds)
            if len(steps) == 3:
                threading.Timer(rng.random() * steps[-1], send).start()

    try:
        engine.generate("a cat", **draw, steps=1000, on_progress=hear)
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0], statistics.median(steps)
    raise SystemExit("the call was not interrupted")


def copies(engine: Engine, draw: dict[str, Any]) -> str:
    """What became of the image's bytes, as the system counts them."""

    def counted(pid: int | str | None, name: str) -> int:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(name)))

    written, read = counted(engine.pid, "wchar"), counted("self", "rchar")
    picture = engine.generate("a cat", **draw, steps=1).arrays[0]
    written, read = counted(engine.pid, "wchar") - written, counted("self", "rchar") - read
    address = int(picture.ctypes.data)
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        if begin <= address < end:
            place = line.split(maxsplit=5)[5]
            break
    size = picture.nbytes
    return (
        f"image {size} bytes, written by the child {written} ({written / size:.2f}), read here {read}"
        f" ({read / size:.2f}), result in {place}"
    )


def show(name: str, values: list[float], aim: float | None = None) -> bool:
    """Print one row; whether its median meets the aim."""
    low, middle, high = statistics.quantiles(values, n=4)
    met = aim is None or middle < aim
    told = "" if aim is None else f"   aim {aim * 1000:.0f} ms{'' if met else '  missed'}"
    print(f"{name:<34}{middle * 1000:>10.3f} ms  ({low * 1000:.3f} to {high * 1000:.3f}){told}", flush=True)
    return met


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.isolation", description="what isolation costs")
    parser.add_argument("--rounds", type=int, default=5, help="calls in each mode (default 5)")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels (default 512)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--interrupts", type=int, default=9, help="interrupts in each mode (default 9)")
    options = parser.parse_args()
    draw = {"width": options.size, "height": options.size, "cfg_scale": 1.0, "seed": 1}
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        arguments = {**write_model(Path(name)).engine_arguments(), "threads": options.threads, "backend": "cpu"}
        engines = {mode: stack.enter_context(Engine(**arguments, isolated=mode)) for mode in (True, False)}
        large = report("call", alternate(engines, options.rounds, **draw, steps=1))
        met = [show("outside, isolated more by", large[1], AIMS["overhead"])]
        small = {**draw, "width": 64, "height": 64, "steps": 1}
        met.append(
            show("overhead of a call", report("small call", alternate(engines, 40, **small))[0], AIMS["overhead"])
        )
        start()
        met.append(show("start of a child", [start() for _ in range(10)], AIMS["start"]))
        for mode, engine in engines.items():
            pairs = [interrupt(engine, draw, rng) for _ in range(options.interrupts)]
            kind = "isolated" if mode else "in-process"
            show(f"a step, {kind}", [step for _, step in pairs])
            show(f"SIGINT to control, {kind}", [seconds for seconds, _ in pairs])
            late = [seconds - step for seconds, step in pairs]
            met.append(show(f"beyond a step, {kind}", late, AIMS["interrupt"]))
        same = [engine.generate("a cat", **draw, steps=1).arrays[0] for engine in engines.values()]
        if not np.array_equal(*same):
            raise SystemExit("the two modes generate different images")
        if Path("/proc/self/io").exists():
            print(f"copies: {copies(engines[True], draw)}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
