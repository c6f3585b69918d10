"""Load a server with many clients while its engines are killed, and count what was lost.

    python -m tests.bench.serve [--clients 200] [--minutes 10] [--kill-every 60] [--json FILE]

It starts ``sdcffi serve`` with the tiny model of the tests, and an API key for each client. Every client submits a job,
follows its events, fetches the image, and begins anew; each second one asks for another try after a crash. Meanwhile
one of the server's engines is killed at random, `/healthz` is asked twenty times a second by a process of its own, and
the server's memory is read. At the end each job must have been answered once: with its image, which is the same for
the same seed, or with a crash, where no other try was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

MODELS = Path(__file__).resolve().parents[1] / "models"
SEEDS = 10  # different images
PROBES = 20  # per second
SAMPLE_SECONDS = 5.0
_LAST_SECONDS = 900.0  # in which the last jobs must end
PARAMETERS = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0}


@dataclass
class Report:
    """What happened."""

    submitted: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    digests: dict[int, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    kills: int = 0
    elapsed: float = 0.0
    tried_again: int = 0


def main() -> int:
    options = _parse()
    if options.probe:
        return _probe(options.probe)
    with tempfile.TemporaryDirectory() as folder:
        summary = asyncio.run(_measure(options, Path(folder)))
    print(json.dumps(summary, indent=2))
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if summary["problems"] else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    return parser.parse_args()


async def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    keys = {f"client{number}": secrets.token_urlsafe(24) for number in range(options.clients)}
    server, url = _start(folder, keys)
    report = Report()
    started = time.monotonic()
    end = time.monotonic() + 60 * options.minutes
    probe = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.serve", "--probe", url], stdout=subprocess.PIPE, text=True
    )
    try:
        watching = asyncio.create_task(_watch(server.pid, report))
        killing = asyncio.create_task(_kill(server.pid, options.kill_every, report))
        clients = (_client(url, number, key, end, report) for number, key in enumerate(keys.values()))
        await asyncio.wait_for(asyncio.gather(*clients), 60 * options.minutes + _LAST_SECONDS)
        report.elapsed = time.monotonic() - started
        killing.cancel()
        watching.cancel()
        metrics = await _metrics(url, next(iter(keys.values())))
    finally:
        probe.terminate()
        probes = json.loads(probe.communicate()[0])
        server.terminate()
        server.wait(60)
    return _summary(options, report, probes, metrics, server.returncode)


def _start(folder: Path, keys: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    sys.path.insert(0, str(MODELS))
    from tiny_model import write_model

    model = write_model(folder / "model")
    (folder / "keys").write_text("".join(f"{name} {key}\n" for name, key in keys.items()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "sdcffi", "serve", "--port", str(port), "--store", str(folder / "store")]
    words += ["--keys", str(folder / "keys"), "--backend", "cpu", "--threads", "1"]
    for name, path in model.engine_arguments().items():
        words += [f"--{name.replace('_', '-')}", str(path)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(words, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return server, url
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError((folder / "log").read_text())


async def _client(url: str, number: int, key: str, end: float, report: Report) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as http:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            try:
                await _job(http, (number + turn) % SEEDS, number % 2, report)
            except Exception as error:
                report.problems.append(f"client {number}: {type(error).__name__}: {error}")
                return


async def _job(http: httpx.AsyncClient, seed: int, retry: int, report: Report) -> None:
    body = {"parameters": {**PARAMETERS, "seed": seed}, "retry": retry}
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    started = time.monotonic()
    while (answer := await http.post("/api/jobs", json=body, headers=headers)).status_code == 429:
        report.outcomes["busy"] += 1
        await asyncio.sleep(float(answer.headers["retry-after"]))
    job = answer.raise_for_status().json()
    report.submitted += 1
    report.ids[job["id"]] += 1
    job = await _ended(http, job["id"])
    report.seconds.append(time.monotonic() - started)
    report.tried_again += job["attempts"] > 1
    kind = job["error"]["type"] if job["error"] else job["state"]
    report.outcomes[kind] += 1
    if job["state"] == "finished":
        content = (await http.get(job["images"][0]["url"])).raise_for_status().content
        report.digests.setdefault(seed, Counter())[_pixels(content)] += 1
    elif kind != "NativeCrashError" or retry:
        report.problems.append(f"job {job['id']} with retry={retry}: {job['error'] or job['state']}")


async def _ended(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async with http.stream("GET", f"/api/jobs/{job_id}/events") as events:
        name = ""
        async for line in events.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name in ("finished", "failed", "cancelled"):
                return dict(json.loads(line.removeprefix("data: ")))
    raise RuntimeError(f"the events of {job_id} ended before the job")


def _pixels(content: bytes) -> str:
    from io import BytesIO

    from PIL import Image

    return hashlib.sha256(Image.open(BytesIO(content)).tobytes()).hexdigest()[:16]


async def _kill(server: int, every: float, report: Report) -> None:
    while True:
        await asyncio.sleep(every * random.uniform(0.5, 1.5))
        if children := _children(server):
            os.kill(random.choice(children), signal.SIGKILL)
            report.kills += 1


def _children(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


async def _watch(server: int, report: Report) -> None:
    while True:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
        report.memory.append((time.monotonic(), int(fields["VmRSS"].split()[0])))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _metrics(url: str, key: str) -> dict[str, float]:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def _probe(url: str) -> int:
    """Ask for the server's health until SIGTERM, and print the seconds of each answer."""
    seconds = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            while True:
                started = time.perf_counter()
                http.get("/healthz").raise_for_status()
                seconds.append(time.perf_counter() - started)
                time.sleep(max(0.0, 1 / PROBES - seconds[-1]))
    except KeyboardInterrupt:
        print(json.dumps(seconds))
    return 0


def _summary(
    options: argparse.Namespace, report: Report, probes: list[float], metrics: dict[str, float], status: int
) -> dict[str, Any]:
    ended = sum(value for name, value in metrics.items() if name.startswith("sdcffi_jobs_total"))
    problems = list(report.problems)
    if ended != report.submitted:
        problems.append(f"{report.submitted} jobs were submitted, and the server ended {ended:g}")
    if twice := [job_id for job_id, count in report.ids.items() if count > 1]:
        problems.append(f"{len(twice)} jobs were given out twice")
    if mixed := [seed for seed, digests in report.digests.items() if len(digests) > 1]:
        problems.append(f"seeds {mixed} gave several images")
    if status:
        problems.append(f"the server ended with status {status}")
    whole = len(report.memory)
    return {
        "clients": options.clients,
        "minutes": options.minutes,
        "jobs": report.submitted,
        "outcomes": dict(report.outcomes),
        "kills": report.kills,
        "tried_again": report.tried_again,
        "jobs_per_second": round(report.submitted / max(report.elapsed, 1), 2),
        "job_seconds": _quantiles(report.seconds),
        "healthz_seconds": _quantiles(probes),
        "healthz_asked": len(probes),
        "memory_mib": [round(report.memory[index * (whole - 1) // 8][1] / 1024, 1) for index in range(9)]
        if whole
        else [],
        "problems": problems,
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        name: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 4)
        for name, part in (("median", 0.5), ("p99", 0.99), ("most", 1.0))
        if ordered
    }


if __name__ == "__main__":
    sys.exit(main())
