"""A contender in a process of its own, so that no thread pool, allocator or library of another one is in its way.

::

    python -m tests.bench.worker KIND JOB        JOB is JSON, see `contenders.Job`
    stdout  {"load": seconds}                    once it is loaded
    stdin   {"width": 512, ...}                  a call, and what is other in it than in JOB's `draw`
    stdout  {"call": seconds, "step": ...}       its parts

It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .engine_log import read_parts
from .processes import peak_memory

Sample = dict[str, float]
Call = Callable[[dict[str, Any]], Sample]
Loaded = tuple[float, Call]  # seconds that loading took, imports left out


@contextmanager
def sdcffi(job: dict[str, Any], isolated: bool) -> Iterator[Loaded]:
    """This package. `outside` is what of a call is neither encoding, nor denoising, nor decoding."""
    from sdcffi import Engine, Progress, Upscaler

    def upscale(draw: dict[str, Any]) -> Sample:
        log: list[str] = []
        started = time.perf_counter()
        handle.upscale(draw["init_image"], on_log=lambda line: log.append(line.text))
        return {"call": time.perf_counter() - started, **read_parts("\n".join(log))}

    def generate(draw: dict[str, Any]) -> Sample:
        log: list[str] = []
        inside = [0.0]

        def hear(progress: Progress) -> None:
            if progress.phase in ("encode", "sample", "decode"):
                if progress.step == 0:
                    inside[0] -= time.perf_counter()
                elif progress.step == progress.steps:
                    inside[0] += time.perf_counter()

        started = time.perf_counter()
        handle.generate(**draw, on_log=lambda line: log.append(line.text), on_progress=hear)
        seconds = time.perf_counter() - started
        parts = read_parts("\n".join(log), draw["steps"])
        return {**parts, "call": seconds, "outside": seconds - inside[0]}

    def call(draw: dict[str, Any]) -> Sample:
        sample = upscale(draw) if isinstance(handle, Upscaler) else generate(draw)
        children = [handle.pid] if isolated and handle.pid else []
        return {**sample, "memory": sum(peak_memory(pid) for pid in ["self", *children])}

    keywords = {"threads": job["threads"], "backend": "cpu", "isolated": isolated}
    model = dict(job["model"])
    upscaler = model.pop("upscale_model", None)
    started = time.perf_counter()
    with Upscaler(upscaler, **keywords) if upscaler else Engine(**model, **keywords) as handle:
        yield time.perf_counter() - started, call


@contextmanager
def bindings(job: dict[str, Any], threads: int | None) -> Iterator[Loaded]:
    """The package stable-diffusion-cpp-python."""
    from stable_diffusion_cpp import StableDiffusion

    names = {"model": "model_path", "diffusion_model": "diffusion_model_path", "llm": "llm_path"}
    names |= {"vae": "vae_path", "taesd": "taesd_path", "steps": "sample_steps"}

    def renamed(parameters: dict[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in parameters.items()}

    more = {} if threads is None else {"n_threads": threads}
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        model = StableDiffusion(**renamed(job["model"]), **more)
    loading = time.perf_counter() - started

    def call(draw: dict[str, Any]) -> Sample:
        log = io.StringIO()
        started = time.perf_counter()
        with contextlib.redirect_stderr(log):
            model.generate_image(**renamed(draw))
        seconds = time.perf_counter() - started
        return {**read_parts(log.getvalue(), draw["steps"]), "call": seconds, "memory": peak_memory()}

    yield loading, call


@contextmanager
def pytorch(job: dict[str, Any], type: str) -> Iterator[Loaded]:
    """The parts of the work that are written for PyTorch, one after the other; the first call counts operations too."""
    import torch

    from .torch_networks import NETWORKS, count_operations

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    dtype = getattr(torch, type)
    started = time.perf_counter()
    forwards = {part: NETWORKS[name](path, size, dtype) for part, (name, path, size) in job["networks"].items()}
    loading = time.perf_counter() - started
    counted: Sample = {}

    @torch.inference_mode()
    def call(draw: dict[str, Any]) -> Sample:
        sample = {}
        for part, forward in forwards.items():
            started = time.perf_counter()
            if part in counted:
                forward()
            else:
                counted[part] = count_operations(forward)
            sample[part] = time.perf_counter() - started
        return {**sample, "memory": peak_memory(), **{f"{part} operations": n for part, n in counted.items()}}

    yield loading, call


@contextmanager
def openvino(job: dict[str, Any], type: str) -> Iterator[Loaded]:
    """The same parts in OpenVINO."""
    from .openvino_networks import compile_network

    started = time.perf_counter()
    forwards = {
        part: compile_network(name, path, size, type, job["threads"])
        for part, (name, path, size) in job["networks"].items()
    }
    loading = time.perf_counter() - started

    def call(draw: dict[str, Any]) -> Sample:
        sample = {}
        for part, forward in forwards.items():
            started = time.perf_counter()
            forward()
            sample[part] = time.perf_counter() - started
        return {**sample, "memory": peak_memory()}

    yield loading, call


KINDS: dict[str, Callable[[dict[str, Any], Any], AbstractContextManager[Loaded]]] = {
    "sdcffi": sdcffi,
    "bindings": bindings,
    "pytorch": pytorch,
    "openvino": openvino,
}


def main() -> None:
    """Serve calls until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not get between
    os.dup2(2, 1)
    kind, job = sys.argv[1], json.loads(sys.argv[2])

    def answer(sample: Sample) -> None:
        print(json.dumps(sample), file=answers, flush=True)

    with KINDS[kind](job, job["option"]) as (loading, call):
        answer({"load": loading})
        for line in sys.stdin:
            answer(call({**job["draw"], **json.loads(line)}))


if __name__ == "__main__":
    main()
