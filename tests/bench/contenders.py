"""Who does the work: sdcffi, upstream's program, another binding, PyTorch, OpenVINO.

Each is opened with a `Job` and then called again and again. Those that are libraries work in a process of their own
(`worker`), where the model stays loaded; `sd-cli` is a new process for each call, as it is for its users.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from places import ROOT
from sdcli import SdCli

from . import unpatched
from .engine_log import read_parts
from .processes import ENVIRONMENT, ContenderError, run_measured
from .worker import Sample


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Parameters
    ----------
    model : dict
        Keyword arguments of `Engine`; for upscaling, `upscale_model`.
    draw : dict
        Keyword arguments of `Engine.generate`; for upscaling, `init_image`.
    networks : dict
        For PyTorch and OpenVINO: which network does which part, from which file, at which size.
    threads : int, optional
        None leaves everybody to their own default.
    """

    model: dict[str, Any]
    draw: dict[str, Any]
    networks: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    threads: int | None = None


class Session(Protocol):
    """A contender that has loaded its model."""

    def call(self, **changes: Any) -> Sample:
        """Do the job, with other arguments where some are given; its parts, in seconds, and `memory` in bytes."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True)
class Contender:
    """How to open a contender, and what it needs.

    Parameters
    ----------
    open : callable
        Opens it.
    needs : tuple of str
        Packages.
    computes : str
        In which type it multiplies, whose rate is the most that it can reach.
    cannot : callable
        Why it does not run on this machine, with its packages installed; None if it does.
    """

    open: Callable[[Job], Session]
    needs: tuple[str, ...] = ()
    computes: str = "float32"
    cannot: Callable[[], str | None] = lambda: None

    def missing(self) -> str | None:
        """What has to be installed, or why it does not run here."""
        lacking = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed ({', '.join(lacking)})" if lacking else self.cannot()


class Worker:
    """A contender that is a library, in a child process."""

    def __init__(self, kind: str, option: Any, job: Job) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.worker", kind, json.dumps({**asdict(job), "option": option})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
        )
        try:
            self.load = self._answer()["load"]
        except BaseException:
            self.close()
            raise

    def call(self, **changes: Any) -> Sample:
        assert self._process.stdin is not None
        print(json.dumps(changes), file=self._process.stdin, flush=True)
        return {"load": self.load, **self._answer()}

    def close(self) -> None:
        try:
            self._process.communicate(timeout=10)  # it ends with its standard input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def _answer(self) -> Sample:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise ContenderError(f"it ended with {self._process.wait()}:\n{self._errors.read()[-2000:]}")
        sample: Sample = json.loads(line)
        return sample


class Program:
    """`sd-cli`; `load` is its whole time but for the call: start, loading, and writing the image."""

    def __init__(self, path: Path, job: Job) -> None:
        self._program, self._job = SdCli(path), job

    def call(self, **changes: Any) -> Sample:
        with tempfile.TemporaryDirectory() as directory:
            finished = run_measured(self._command({**self._job.draw, **changes}, Path(directory)))
        sample = read_parts(finished.said, self._job.draw.get("steps", 1))
        sample["call"] = sample["call"] if "call" in sample else sample["upscale"]
        return {**sample, "load": finished.seconds - sample["call"], "memory": finished.memory}

    def close(self) -> None:
        pass

    def _command(self, draw: dict[str, Any], directory: Path) -> list[str]:
        more: dict[str, Any] = {"threads": self._job.threads}
        if "upscale_model" in self._job.model:
            more["mode"] = "upscale"
        for lora in draw.pop("loras", []):
            draw["prompt"] += f"<lora:{Path(lora).stem}:1>"
            more["lora_model_dir"] = Path(lora).parent
        return self._program.words({**self._job.model, **draw, **more}, directory / "picture.png")


@cache
def physical_cores() -> int:
    """How many threads the engine takes by default."""
    from sdcffi._bindings.library import load

    return int(load().lib.sd_get_num_physical_cores())


@cache
def _lacks_bfloat16(imported: str, expression: str) -> str | None:
    """Ask a library, in a process of its own, whether it computes in bfloat16 on this processor."""
    asked = [sys.executable, "-c", f"import {imported}; print({expression})"]
    answer = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return None if answer.split()[-1:] == ["True"] else "no bfloat16 on this processor"


def _pytorch(type: str) -> Contender:
    """Without instructions for it, PyTorch's convolutions in bfloat16 take minutes."""
    ask = "torch", "torch.ops.mkldnn._is_mkldnn_bf16_supported()"
    packages = "torch", "diffusers", "transformers"
    return Contender(lambda job: Worker("pytorch", type, job), packages, type, _unless(type, *ask))


def _openvino(type: str, *needs: str) -> Contender:
    """Bfloat16 is but a hint to OpenVINO, which computes in float32 where the processor lacks it."""
    ask = "openvino", "'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')"
    packages = "openvino", "torch", "diffusers", *needs
    return Contender(lambda job: Worker("openvino", type, job), packages, type, _unless(type, *ask))


def _unless(type: str, *ask: str) -> Callable[[], str | None]:
    return (lambda: _lacks_bfloat16(*ask)) if type == "bfloat16" else (lambda: None)


CONTENDERS: dict[str, Contender] = {
    "sdcffi": Contender(lambda job: Worker("sdcffi", False, job)),
    "sdcffi isolated": Contender(lambda job: Worker("sdcffi", True, job)),
    "sd-cli": Contender(lambda job: Program(unpatched.sd_cli(), job)),
    "sd-cpp-python": Contender(lambda job: Worker("bindings", job.threads, job), ("stable_diffusion_cpp",)),
    "sd-cpp-python same threads": Contender(
        lambda job: Worker("bindings", job.threads or physical_cores(), job), ("stable_diffusion_cpp",)
    ),
    "PyTorch float32": _pytorch("float32"),
    "PyTorch bfloat16": _pytorch("bfloat16"),
    "OpenVINO float32": _openvino("float32"),
    "OpenVINO bfloat16": _openvino("bfloat16"),
    "OpenVINO int8": _openvino("int8", "nncf"),
}
"""By the name that tables give them; `sd-cpp-python` is the package stable-diffusion-cpp-python."""
