"""CUDA where there is no GPU: configured for real, and two of ggml's files compiled.

The whole takes most of an hour on two cores, so this is what can be had of it in passing: compiler, cuBLAS from its
Python package, architecture and every option of the plan meet CMake and nvcc.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sdcffi._build import toolkits
from sdcffi._build.commands import run_logged
from sdcffi._build.compilers import find_compiler
from sdcffi._build.declarations import write_declarations
from sdcffi._build.pipeline import prepare_tree
from sdcffi._build.plan import make_plan
from sdcffi._build.request import BuildRequest
from sdcffi._build.tools import NINJA
from sdcffi._files import cache_directory
from sdcffi._machine import install_hints

ARCHITECTURE = "86"
FILES = {"out-prod.cu": b"cublasSgemm", "scale.cu": b".nv_fatbin"}  # and what their objects have: cuBLAS, a kernel


def cublas() -> Path:
    """The Python package of cuBLAS for CUDA 13, 0.6 GB, kept in the cache."""
    target = cache_directory() / "tests" / "cublas"
    if not (target / "nvidia").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*command, "nvidia-cublas==13.*"], check=True)
    return target


@pytest.mark.slow
def test_cuda_is_configured_and_files_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = toolkits.cuda(find_compiler()).missing
    if missing and missing[0] != install_hints.CUBLAS:
        pytest.skip(f"{missing[0].what}: {missing[0].command}")
    if missing:
        monkeypatch.syspath_prepend(cublas())
    request = BuildRequest(backends=("cpu", "cuda"), cuda_arch=ARCHITECTURE, allow_missing_device=True)
    plan = replace(make_plan(request), cache=tmp_path)
    prepare_tree(plan)
    plan.build_directory.mkdir(parents=True)
    headers = (plan.tree / "include" / "stable-diffusion.h", plan.csrc / "guard" / "guard.h")
    write_declarations(headers, plan.compiler, plan.generated)
    run_logged(plan.configure_command(), plan.log, plan.environment())
    ninja = [str(NINJA.find()), "-C", str(plan.build_directory)]
    targets = subprocess.run([*ninja, "-t", "targets", "all"], capture_output=True, text=True, check=True).stdout
    for name, content in FILES.items():
        (target,) = [line.split(":")[0] for line in targets.splitlines() if f"/{name}.o: " in line]
        run_logged([*ninja, target], plan.log, plan.environment())
        assert content in (plan.build_directory / target).read_bytes()
        commands = subprocess.run([*ninja, "-t", "commands", target], capture_output=True, text=True, check=True).stdout
        assert f"compute_{ARCHITECTURE}" in commands
    link = subprocess.run([*ninja, "-t", "commands", "bin/libggml-cuda.so"], capture_output=True, text=True, check=True)
    searched = re.findall(r"-rpath,'([^']+)'", link.stdout.splitlines()[-1])
    assert searched[0] == "$ORIGIN/../../nvidia/cu13/lib"  # where NVIDIA's packages are, beside an installed add-on
