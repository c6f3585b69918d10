"""Mutated files and random parameters through the isolated engine; what `fuzzing` counts is judged here.

The whole of it takes minutes; ``-s`` shows its summary. One case again::

    PYTHONPATH=tests/models python tests/support/fuzzing.py KIND --only CASE
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz_files
import fuzzing
import pytest
from tiny_model import TinyModel

from sdcffi._models.headers import HeaderError, read_header

SHORT = {"parameters": 30, "engines": 2, "loras": 30, "parts": 2, "conversions": 36}
FULL = {"parameters": 1800, "engines": 200, "loras": 800, "parts": 400, "conversions": 800}
FILES = ("loras", "parts", "conversions")
# Of `fuzzing`'s words; "native exception" is none of them: refused, if late.
FAULTS = {"crash", "hang", "defect", "silently accepted"}


def start(kind: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, fuzzing.__file__, kind, "--count", str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def finish(process: subprocess.Popen[str], count: int) -> dict[str, Any]:
    """The summary of one kind; a host that died names its last case."""
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, f"the host ended with {process.returncode}: {output[-3000:]}{errors[-3000:]}"
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert sum(summary["counts"].values()) == count
    return summary


def judge(summaries: dict[str, dict[str, Any]]) -> None:
    total: Counter[str] = Counter()
    for summary in summaries.values():
        total.update(summary["counts"])
    told = "\n".join(
        f"{kind}: {sum(summary['counts'].values())} cases in {summary['seconds']} s, {summary['counts']}"
        for kind, summary in summaries.items()
    )
    print(f"\n{told}\nall: {dict(total)}")
    faults = [line for summary in summaries.values() for line in summary["wrong"] if line.split(": ")[1] in FAULTS]
    assert not faults, f"{told}\n" + "\n".join(faults)
    left = {kind: summary["left"] for kind, summary in summaries.items() if any(summary["left"].values())}
    assert not left, f"left behind: {left}\n{told}"
    assert total["refused"] > total["accepted"] > 0, told


def run(counts: dict[str, int]) -> None:
    calls = start("parameters", counts["parameters"])  # the longest, beside the others
    summaries = {kind: finish(start(kind, count), count) for kind, count in counts.items() if kind != "parameters"}
    judge({"parameters": finish(calls, counts["parameters"]), **summaries})


def test_a_hundred_cases_do_no_harm() -> None:
    run(SHORT)


@pytest.mark.slow
def test_thousands_of_files_and_parameters_do_no_harm() -> None:
    run(FULL)
    assert sum(FULL[kind] for kind in FILES) >= 2000
    assert sum(count for kind, count in FULL.items() if kind not in FILES) >= 2000


def read_timed(path: Path) -> tuple[str, float]:
    """Read a header; give what came of it, and the seconds of processor time it took."""
    started = time.thread_time()
    try:
        read_header(path)
        outcome = "read"
    except HeaderError as error:
        outcome = "refused" if len(str(error)) < 10_000 else "refused at length"
    return outcome, time.thread_time() - started


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
@pytest.mark.parametrize("count", [250, pytest.param(2500, marks=pytest.mark.slow)])
def test_headers_are_read_or_refused_within_50_milliseconds(
    count: int, ending: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    content = {**fuzz_files.read_content(tiny_model.lora), **fuzz_files.read_content(tiny_model.diffusion_model)}
    path = tmp_path / f"a{ending}"
    outcomes: Counter[str] = Counter()
    for number in range(count):
        path.write_bytes(fuzz_files.broken(content, ending, random.Random(f"{ending}{number}")))
        outcome, seconds = read_timed(path)
        outcomes[outcome] += 1
        if seconds >= 0.05:  # on a busy machine a page fault can take as long: only what does so thrice is slow
            seconds = min(read_timed(path)[1] for _ in range(3))
        assert seconds < 0.05, f"case {number}"
    assert min(outcomes["read"], outcomes["refused"]) > count / 5, outcomes
    assert sum(outcomes.values()) == outcomes["read"] + outcomes["refused"], "a message holds what the file claims"
