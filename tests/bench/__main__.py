"""Measure sdcffi beside upstream's sd-cli, stable-diffusion-cpp-python, PyTorch and OpenVINO.

    pip install -r tests/bench/requirements.txt
    python -m tests.bench [--quick] [--only NAME,...] [--json FILE] [--plot FILE] [--docs] [--resume]

Tables go to standard output, what is going on to standard error. Every work is kept in a JSON file as soon as it is
measured, and `--resume` takes from it what was measured with the same build and options, so an interrupted run goes
on. The first run writes the models (25 GB), compiles upstream's sd-cli without our patches (10 minutes on two cores),
and converts networks for OpenVINO (15 GB); all of it is kept in the user's cache directory.

Run it on an idle machine: ggml's threads spin while they wait, so a neighbour costs every contender much. It waits for
one before each work, up to `--wait` seconds, says where it waited in vain, and `--resume` measures those again.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from sdcffi._files import cache_directory
from sdcffi._machine.builds import locate

from .compiling import CompilerError
from .contenders import CONTENDERS
from .growth import AXES, measure_growth
from .idleness import TOLERABLE, busy_share, wait_until_idle
from .models import MODELS
from .report import PLOT, Results, markdown, write_page
from .roofline import measure_roofline
from .rounds import FAILURES, Runs, compare
from .works import WORKS

_PACKAGES = {"torch": "PyTorch", "openvino": "OpenVINO"}  # and what they are called
_PACKAGES |= dict.fromkeys(("nncf", "diffusers", "transformers", "stable-diffusion-cpp-python", "numpy"), "")


def main() -> int:
    """Measure what was asked for, and show everything that is known then."""
    options = _parse()
    results = Results(options.json or _kept(options.quick), _about(options))
    if options.resume or options.only:
        results.resume()
    if not results.roofline:
        results.disturbed["roofline"] = wait_until_idle(options.wait)
        try:
            results.roofline = measure_roofline()
        except CompilerError as error:
            print(f"the machine's rates are not measured: {error}", file=sys.stderr)
    for name in options.only or _names(options.quick):
        if options.resume and (name in results.works or name in results.growth):
            continue
        before = wait_until_idle(options.wait)
        started = time.perf_counter()
        if name in AXES:
            _measure_growth(name, results, options)
        else:
            _compare(name, results, options)
        told = f"{name}: {time.perf_counter() - started:.0f} s"
        results.disturbed[name] = disturbed = max(before, busy_share())
        results.save()
        if disturbed > TOLERABLE:
            told += f", while others took {100 * disturbed:.0f} % of the cores: worth nothing"
        print(told, file=sys.stderr, flush=True)
    _show(results, options)
    return 0


def _names(quick: bool) -> list[str]:
    """Everything that a run measures."""
    works = [name for name, work in WORKS.items() if not quick or work.quick is not None]
    return [*works, *(name for name, axis in AXES.items() if not quick or axis.quick)]


def _compare(name: str, results: Results, options: argparse.Namespace) -> None:
    work = WORKS[name]
    rounds = options.rounds or (min(2, work.rounds) if options.quick else work.rounds)
    patience = options.patience or (4.0 if options.quick else 30.0)
    lanes = work.chosen(options.quick)
    wanted = tuple(lane for lane in lanes if lane.contender not in options.without)
    runs = compare(work, wanted, rounds, patience, options.threads)
    results.works[name] = {lane.label: runs.get(lane.label, Runs("left out")) for lane in lanes}


def _measure_growth(name: str, results: Results, options: argparse.Namespace) -> None:
    rounds = options.rounds or (1 if options.quick else 3)
    try:
        results.growth[name] = measure_growth(AXES[name], options.quick, rounds, options.threads)
    except FAILURES as error:
        print(f"{name}: {error}", file=sys.stderr)


def _parse() -> argparse.Namespace:
    names = [*WORKS, *AXES]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="sdcffi beside upstream's sd-cli, stable-diffusion-cpp-python, PyTorch and OpenVINO",
        epilog=f"Works: {', '.join(names)}. Contenders: {', '.join(CONTENDERS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="the most telling works, few calls: two minutes")
    parser.add_argument("--only", type=_list, metavar="NAME,...", help="measure these works anew, show only them")
    parser.add_argument("--without", type=_list, default=[], metavar="NAME,...", help="leave these contenders out")
    parser.add_argument("--rounds", type=int, help="calls of each contender at most (default: by work)")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="after which a contender is left out")
    parser.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="for an idle machine before each work (default 60)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of everybody (default: everybody's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results go (default: in the cache directory)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a PNG")
    parser.add_argument("--docs", action="store_true", help="write the page of the documentation and its plot")
    parser.add_argument("--resume", action="store_true", help="measure only what the results lack")
    parser.add_argument("--prepare", action="store_true", help="write models, compile sd-cli, and measure nothing")
    options = parser.parse_args()
    for given, legal in ((options.only or [], names), (options.without, CONTENDERS)):
        if unknown := set(given) - set(legal):
            parser.error(f"unknown {', '.join(sorted(unknown))} (legal: {', '.join(legal)})")
    if options.prepare:
        _prepare()
        parser.exit()
    return options


def _list(text: str) -> list[str]:
    return text.split(",")


def _prepare() -> None:
    from . import unpatched

    for name, write in MODELS.items():
        print(f"{name}: {write()}", file=sys.stderr, flush=True)
    print(unpatched.sd_cli(), file=sys.stderr)


def _show(results: Results, options: argparse.Namespace) -> None:
    print(markdown(results.only(options.only) if options.only else results))
    if options.plot or options.docs:
        from .plot import draw_plot

        for path in filter(None, (options.plot, PLOT if options.docs else None)):
            draw_plot(results, path)
    if options.docs:
        write_page(results)


def _kept(quick: bool) -> Path:
    return cache_directory() / "bench" / ("quick.json" if quick else "full.json")


def _about(options: argparse.Namespace) -> dict[str, Any]:
    build = locate()
    flags = [flag for flag, given in {"--quick": options.quick, "--docs": options.docs}.items() if given]
    versions = {"sdcffi": importlib.metadata.version("sdcffi") if _has("sdcffi") else build.manifest["sdcffi"]}
    versions |= {"stable-diffusion.cpp": str(build.manifest["upstream"]["commit"]), "Python": platform.python_version()}
    versions |= {title or name: importlib.metadata.version(name) for name, title in _PACKAGES.items() if _has(name)}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory():.0f} GiB, {platform.system()}",
        "versions": versions,
        "command": " ".join(["python -m tests.bench", *flags]),
        "same": {"build": build.manifest["key"], "threads": options.threads, "quick": options.quick},
    }


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


if __name__ == "__main__":
    sys.exit(main())
