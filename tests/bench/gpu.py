"""Check sdcffi on a real GPU and measure it: speed, LoRA, memory, cancelling, options.

    python -m tests.bench.gpu [--backend cuda] [--only speed,memory] [--output STEM] [--tiny]

Every section stands alone: one that fails is reported with its error, and the others go on. The results are printed as
they come, and written to STEM.json after each section. `--tiny` takes the tests' tiny model for a trial on any device.
Stable Diffusion 1.5 has random weights: its speed is that of the real one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import full_size
import numpy as np
from engines import name_of
from full_size import write_zeros
from network_cases import NETWORKS
from networks import decibels, open_network, runs_on
from networks import generate as generate_case
from networks_page import read_values
from sdcli import SdCli

import sdcffi
from sdcffi import CancelledError, Engine, GenerationTimeoutError, list_devices
from sdcffi._machine.builds import locate
from sdcffi.images.compare import compare

from . import models
from .engine_log import read_parts
from .processes import run_measured

TYPES = ("f16", "q8_0", "q4_K")
STEPS = 20


@dataclass
class Check:
    """What is checked, and what was seen."""

    backend: str
    tiny: bool
    output: Path | None
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    section: str = ""

    def model(self, type: str = "f16") -> dict[str, Any]:
        if self.tiny:
            return {**models.tiny(), **({} if type == "f16" else {"type": type})}
        return {**models.sd15(type)}

    @property
    def sizes(self) -> tuple[int, ...]:
        return (64, 128) if self.tiny else (512, 1024)

    def engine(self, type: str = "f16", **keywords: Any) -> Engine:
        return Engine(**{"backend": self.backend, **self.model(type), **keywords})

    def note(self, what: str, value: Any) -> None:
        if isinstance(value, float):
            value = round(value, 4)
        self.seen.setdefault(self.section, {})[what] = value
        print(f"{self.section}: {what}: {value}", flush=True)
        if self.output:
            self.output.with_suffix(".json").write_text(json.dumps(self.seen, indent=1) + "\n", "utf-8")

    def attempt(self, what: str, work: Callable[[], Any]) -> None:
        """Note what `work` returns, or how it fails."""
        try:
            self.note(what, work())
        except Exception as error:
            self.note(what, f"{type(error).__name__}: {str(error)[:600]}")


def generate(engine: Engine, size: int, steps: int = STEPS, **more: Any) -> dict[str, Any]:
    """Seconds of the parts of a generation, by the engine's log, and its image."""
    log: list[str] = []
    keywords = {"width": size, "height": size, "steps": steps, "cfg_scale": 1.0, "seed": 1, **more}
    result = engine.generate("a cat", on_log=lambda line: log.append(line.text), **keywords)
    return {**read_parts("\n".join(log), steps), "image": result.arrays[0].copy(), "result": result}


def step(engine: Engine, size: int, rounds: int = 3, **more: Any) -> float:
    """Milliseconds of a step: the median of the rounds after one that warms up."""
    generate(engine, size, 2, **more)
    return 1000 * statistics.median(generate(engine, size, **more)["step"] for _ in range(rounds))


# --- sections ---


def speed(check: Check) -> None:
    """A step of sdcffi, of the same build's sd-cli, and of PyTorch, by weight type and size, in milliseconds."""
    build = locate()
    program = SdCli(build.directory / str(build.manifest["cli"])) if build.manifest.get("cli") else None
    for type in TYPES:
        with check.engine(type) as engine:
            check.note(f"{type} device", engine.device.id)
            for size in check.sizes:
                check.attempt(f"{type} {size} sdcffi ms", lambda e=engine, s=size: step(e, s))
                check.attempt(f"{type} {size} sdcffi call s", lambda e=engine, s=size: generate(e, s)["call"])
        for size in check.sizes if program else ():
            check.attempt(f"{type} {size} sd-cli ms", lambda t=type, s=size: _sd_cli_step(program, check.model(t), s))
    if not check.tiny:
        for size in check.sizes:
            for dtype in ("bfloat16", "float16"):
                check.attempt(f"{size} PyTorch {dtype} ms", lambda s=size, d=dtype: _torch_step(check, s, d))


def _sd_cli_step(program: SdCli, model: dict[str, Any], size: int) -> float:
    drawn = {"prompt": "a cat", "width": size, "height": size, "steps": STEPS, "cfg_scale": 1.0, "seed": 1}
    with tempfile.TemporaryDirectory() as directory:
        command = program.words({**model, **drawn, "threads": None}, Path(directory) / "image.png")
        return 1000 * read_parts(run_measured(command).said, STEPS)["step"]


def _torch_step(check: Check, size: int, dtype: str) -> float:
    import torch

    from .torch_networks import sd15_unet

    torch.set_default_device("cuda")
    with torch.inference_mode():
        forward = sd15_unet(check.model()["model"], size, getattr(torch, dtype))
        for _ in range(3):
            forward()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(STEPS):
            forward()
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started) / STEPS


def lora(check: Check) -> None:
    """LoRA in both modes on each weight type: how much it changes, how alike the modes are, what it costs."""
    size = check.sizes[0]
    with tempfile.TemporaryDirectory() as directory:
        path = str(models.loras()[0]) if check.tiny else str(write_lora(Path(directory) / "lora.safetensors"))
        for type in TYPES:
            images: dict[str, Any] = {}
            for mode in ("at_runtime", "immediately"):
                check.attempt(f"{type} {mode}", lambda t=type, m=mode, i=images: _lora(check, t, m, path, size, i))
            if len(images) == 2:
                check.note(f"{type} at_runtime against immediately, dB", compare(*images.values()).psnr)


def _lora(check: Check, type: str, mode: str, path: str, size: int, images: dict[str, Any]) -> dict[str, Any]:
    with check.engine(type, lora_apply_mode=mode) as engine:
        without = generate(engine, size)
        with_it = generate(engine, size, loras=[path])
        images[mode] = with_it["image"]
        report = with_it["result"].loras[0]
        again = generate(engine, size)
        return {
            "applied": f"{report.applied} of {report.total}",
            "change, dB": round(compare(without["image"], with_it["image"]).psnr, 1),
            "afterwards, dB from before": round(compare(without["image"], again["image"]).psnr, 1),
            "step with it": round(1000 * generate(engine, size, loras=[path])["step"], 2),
            "step without": round(1000 * again["step"], 2),
        }


def write_lora(path: Path, rank: int = 16) -> Path:
    """A LoRA in PEFT's names on every attention projection of Stable Diffusion 1.5's U-Net."""
    rng = np.random.default_rng(5)
    values: dict[str, Any] = {}
    for module in full_size.sd1().select("unet", "to_q", "to_k", "to_v", "to_out.0"):
        rows, columns = module.shape
        name = f"unet.{module.name}"
        values[f"{name}.lora_A.weight"] = rng.standard_normal((rank, columns)) * columns**-0.5
        values[f"{name}.lora_B.weight"] = rng.standard_normal((rows, rank)) * 0.5 * rank**-0.5
    return write_zeros({name: value.shape for name, value in values.items()}, path, values)


def memory(check: Check) -> None:
    """MiB that are taken on the device: before, loaded, after a generation, closed, after ten opens, after a kill."""

    def free() -> float:
        device = list_devices(backend=check.backend).device
        assert device is not None
        return device.memory_free / 2**20

    time.sleep(1)
    before = free()
    check.note("free before, MiB", before)
    with check.engine() as engine:
        check.note("loaded", before - free())
        generate(engine, check.sizes[0], 2)
        check.note("after a generation", before - free())
        pid = engine.pid
    check.note("closed", before - free())
    for _ in range(10):
        with check.engine() as engine:
            generate(engine, check.sizes[0], 1)
    check.note("after ten opens", before - free())
    with check.engine() as engine:
        generate(engine, check.sizes[0], 1)
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        try:
            generate(engine, check.sizes[0], 1)
        except sdcffi.SDError as error:
            check.note("killed", f"{type(error).__name__}: {str(error)[:200]}")
        check.note("generates again", generate(engine, check.sizes[0], 1)["image"].shape)
        held = before - free()
    check.note("held by the new child", held)
    check.note("after the kill and close", before - free())


def together(check: Check, rounds: int = 5) -> None:
    """Two engines at once: seconds of a call alone, and of two at the same time; the same images."""
    size = check.sizes[0]
    with check.engine() as one, check.engine() as other, ThreadPoolExecutor() as pool:
        alone = [generate(engine, size) for engine in (one, other) for _ in range(2)]
        started = time.perf_counter()
        both = [pair for _ in range(rounds) for pair in pool.map(lambda engine: generate(engine, size), (one, other))]
        check.note("two at once, s", (time.perf_counter() - started) / rounds)
        check.note("one alone, s", alone[-1]["call"])
        first = alone[0]["image"]
        check.note("alone, dB from the first", [compare(first, image["image"]).psnr for image in alone[1:]])
        check.note("at once, dB from the first", [compare(first, image["image"]).psnr for image in both])


NETWORK_OPTIONS: dict[str, dict[str, Any]] = {"": {}, " diffusion_fa": {"diffusion_fa": True}}


def networks(check: Check) -> None:
    """Each family's images against other implementations, in dB: this device, and the CPU as it was measured."""
    revision, measured = name_of(locate()), read_values()
    wanted = [family for family, network in NETWORKS.items() if runs_on(network, revision)]
    worst: dict[str, float] = {}

    def measure(family: str, options: str) -> None:
        network = NETWORKS[family]
        keywords = {"backend": check.backend, **NETWORK_OPTIONS[options]}
        with (
            tempfile.TemporaryDirectory() as directory,
            open_network(network, network.write(Path(directory)), **keywords) as engine,
        ):
            for name, case in network.cases.items():
                found = decibels(family, name, generate_case(engine, network, case))
                on_cpu = measured[family][name].get(revision)
                worst[options] = min(worst.get(options, 99.0), found - on_cpu if on_cpu else 0.0)
                check.note(f"{family} {name}{options}", {"dB": round(found, 1), "cpu": on_cpu})

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 3)) as pool:
        for family in wanted:
            for options in NETWORK_OPTIONS:
                pool.submit(check.attempt, f"{family}{options}", lambda f=family, o=options: measure(f, o))
    check.note(
        "the most below the CPU, dB", {name.strip() or "plain": round(found, 1) for name, found in worst.items()}
    )


def stop(check: Check) -> None:
    """Seconds from cancel, Ctrl-C and a time limit in sampling until control is back, and the next call's state."""
    size = check.sizes[-1]
    with check.engine() as engine:
        expected = generate(engine, size, 2)["image"]

        def stopped(blow: Callable[[], None], kind: type[BaseException], **more: Any) -> float:
            called: list[float] = []

            def deliver() -> None:
                called.append(time.perf_counter())
                blow()

            timer = threading.Timer(0.7, deliver)
            timer.start()
            try:
                generate(engine, size, 400, **more)
            except kind:
                return time.perf_counter() - called[0]
            finally:
                timer.join()
            raise AssertionError("it was not stopped")

        check.attempt("cancel, s", lambda: stopped(engine.cancel, CancelledError))
        check.attempt("Ctrl-C, s", lambda: stopped(lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt))
        check.attempt("timeout of 0.7, s over", lambda: stopped(lambda: None, GenerationTimeoutError, timeout=0.7))
        check.note("afterwards, dB", compare(expected, generate(engine, size, 2)["image"]).psnr)


def messages(check: Check) -> None:
    """What is said of a device that is not there."""
    name = check.backend.partition(":")[0]
    check.attempt(f"{name}:7", lambda: check.engine(backend=f"{name}:7").device.id)


def options(check: Check) -> None:
    """Parts on the CPU and flash attention: a step in milliseconds, and how like the plain image, in dB."""
    plains = {}
    with check.engine() as engine:
        for size in check.sizes:
            plains[size] = generate(engine, size)["image"]
            check.note(f"plain {size}", step(engine, size))
    for type in TYPES:
        for size in check.sizes:
            keywords = {"type": type, "diffusion_fa": True}
            check.attempt(f"{keywords} {size}", lambda k=keywords, s=size: _option(check, k, plains[s], s))
    size = check.sizes[0]
    plain = plains[size]
    for keywords in (
        {"fa": True},
        {"diffusion_conv_direct": True},
        {"offload_to_cpu": True},
        {"offload_to_cpu": True, "max_vram": 1.0},
        {"vae_on_cpu": True},
        {"clip_on_cpu": True},
    ):
        check.attempt(str(keywords), lambda k=keywords: _option(check, k, plain, size))
    with environment(GGML_CUDA_DISABLE_GRAPHS="1"):
        check.attempt("without CUDA graphs", lambda: _option(check, {}, plain, size))


def _option(check: Check, keywords: dict[str, Any], plain: Any, size: int) -> dict[str, float]:
    with check.engine(**{"type": "f16", **keywords}) as engine:
        image = generate(engine, size)["image"]
        return {"ms": round(step(engine, size), 2), "dB": round(compare(plain, image).psnr, 1)}


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables, which new children inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


SECTIONS: dict[str, Callable[[Check], None]] = {
    section.__name__: section for section in (networks, lora, options, together, speed, memory, stop, messages)
}


def main() -> int:
    """Run the sections."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description="check and measure a GPU")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json")
    parser.add_argument("--tiny", action="store_true", help="take the tests' tiny model")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    check = Check(arguments.backend, arguments.tiny, arguments.output)
    failed = False
    for name in arguments.only.split(","):
        check.section = name
        started = time.perf_counter()
        try:
            SECTIONS[name](check)
        except Exception as error:
            failed = True
            traceback.print_exc()
            check.note("FAILED", f"{type(error).__name__}: {error}")
        check.note("seconds", time.perf_counter() - started)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
