"""Compare sdcffi with upstream's sd-cli, built from the same source: overhead, whole process, peak memory.

    python -m tests.bench.overhead [--rounds N] [--size PIXELS] [--steps N] [--threads N] [--json]

Each round runs every program once, in alternating order, on the tiny model; each run is a process of its own that
loads the model, generates one image and writes it. A ratio is the median of the rounds' own ratios.

binding   time of `Engine.generate` against what the engine logs in the same process for the same call (by 10 ms)
call      time of `Engine.generate` against what sd-cli logs for the same call (by 10 ms)
process   wall time of the whole process against sd-cli's
memory    peak resident memory of the whole process against sd-cli's
as sd-cli the same, with sd-cli's settings: free each model after its use, and load no image encoder. Engine keeps
          them, so that a second call and image input work; with the tiny model that is a visible part of the memory.

The engine works in the process that is measured (isolated=False); ``tests.bench.isolation`` reports what a child adds.
Run it on an idle machine with free cores: ggml's threads spin while they wait, so a neighbour costs every program much.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_model import TinyModel, write_model

from sdcffi._machine.builds import locate

from .processes import run_measured

# What a user would write, plus two lines that report how long the call took, by our clock and by the engine's.
PROGRAM = """
import sys
from sdcffi import ContextParams, Engine
diffusion_model, llm, taesd, size, steps, threads, output, as_sd_cli = sys.argv[1:]
once = as_sd_cli == "True"
context = ContextParams(vae_decode_only=once, free_params_immediately=once)
log = []
files = {"diffusion_model": diffusion_model, "llm": llm, "taesd": taesd}
how = {"threads": int(threads), "backend": "cpu", "context": context, "isolated": False}
with Engine(**files, **how, on_log=log.append) as engine:
    result = engine.generate("a cat", width=int(size), height=int(size), steps=int(steps), cfg_scale=1.0, seed=42)
    result.save(output)
print(next(line.text for line in log if "generate_image completed" in line.text))
print(f"generate_image completed in {result.seconds:.4f}s")
"""
CALL = re.compile(r"generate_image completed in ([\d.]+)s")


@dataclass(frozen=True)
class Run:
    """One process: seconds of the call by the engine's clock and by the caller's, of the whole, and peak bytes."""

    native: float
    call: float
    process: float
    memory: float


@dataclass(frozen=True)
class Ratio:
    """Medians of both sides, and the median of their quotient over the rounds."""

    name: str
    sdcffi: float
    reference: float
    ratio: float
    aim: float
    unit: str


def measure(command: list[str]) -> Run:
    """Run a command and read its call time from what it prints."""
    process = run_measured(command)
    calls = [float(number) for number in CALL.findall(process.said)]
    return Run(calls[0], calls[-1], process.seconds, process.memory)


def commands(options: argparse.Namespace, model: TinyModel, output: Path) -> dict[str, list[str]]:
    """The programs, with the same parameters."""
    build = locate()
    if not build.manifest.get("cli"):
        raise SystemExit(f"{build.directory} has no sd-cli. Run: python build_native.py --with-cli")
    files = [str(path) for path in (model.diffusion_model, model.llm, model.taesd)]
    values = [str(value) for value in (options.size, options.steps, options.threads)]
    names = ["--diffusion-model", "--llm", "--taesd", "--width", "--steps", "--threads"]
    flags = [word for pair in zip(names, files + values, strict=True) for word in pair]
    sd_cli = [str(build.directory / build.manifest["cli"]), *flags, "--height", values[0], "--prompt", "a cat"]
    ours = [sys.executable, "-c", PROGRAM, *files, *values, str(output / "sdcffi.png")]
    return {
        "sdcffi": [*ours, "False"],
        "sd-cli": [*sd_cli, "--cfg-scale", "1", "--seed", "42", "--output", str(output / "sd-cli.png")],
        "as sd-cli": [*ours, "True"],
    }


def run_rounds(programs: dict[str, list[str]], rounds: int) -> dict[str, list[Run]]:
    """Run the programs in turn, after one run each that warms the file cache."""
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for index in range(rounds + 1):
        for name in sorted(programs, reverse=index % 2 == 1):
            run = measure(programs[name])
            if index > 0:
                runs[name].append(run)
    return runs


def ratios(runs: dict[str, list[Run]]) -> list[Ratio]:
    """Every row of the table."""
    ours, theirs, once = runs["sdcffi"], runs["sd-cli"], runs["as sd-cli"]

    def ratio(
        name: str, field: str, aim: float, one: list[Run], other: list[Run], of: str = "", unit: str = "s"
    ) -> Ratio:
        tops, bottoms = [getattr(run, field) for run in one], [getattr(run, of or field) for run in other]
        quotient = statistics.median(top / bottom for top, bottom in zip(tops, bottoms, strict=True))
        return Ratio(name, statistics.median(tops), statistics.median(bottoms), quotient, aim, unit)

    return [
        ratio("binding", "call", 1.02, ours, ours, of="native"),
        ratio("call", "call", 1.02, ours, theirs),
        ratio("process", "process", 1.15, ours, theirs),
        ratio("memory", "memory", 1.10, ours, theirs, unit="MiB"),
        ratio("process, as sd-cli", "process", 1.15, once, theirs),
        ratio("memory, as sd-cli", "memory", 1.10, once, theirs, unit="MiB"),
    ]


def table(rows: list[Ratio]) -> str:
    """The ratios for people."""
    lines = [f"{'':<20}{'sdcffi':>12}{'reference':>12}{'ratio':>8}{'aim':>7}"]
    for row in rows:
        scale = 2**20 if row.unit == "MiB" else 1
        ours, theirs = (f"{value / scale:.3f} {row.unit}" for value in (row.sdcffi, row.reference))
        mark = "" if row.ratio <= row.aim else "  missed"
        lines.append(f"{row.name:<20}{ours:>12}{theirs:>12}{row.ratio:>8.3f}{row.aim:>7.2f}{mark}")
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description="sdcffi against sd-cli")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each program (default 9)")
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels (default 256)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both programs (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(Path(directory) / "model")
        rows = ratios(run_rounds(commands(options, model, Path(directory)), options.rounds))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))
    return 0 if all(row.ratio <= row.aim for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
