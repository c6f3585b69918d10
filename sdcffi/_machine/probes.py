"""Quick checks whether a GPU backend has a device here, before a build. The finished library is asked itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_SECONDS = 30


def has_cuda() -> bool:
    """Return whether NVIDIA's driver lists a GPU."""
    return "GPU 0" in _output("nvidia-smi", "-L")


def cuda_architectures() -> str | None:
    """Return the compute capabilities of this machine's GPUs as CMake writes them, ``86;90``; None without one."""
    output = _output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    found = {match[0].replace(".", "") for match in re.finditer(r"^\d+\.\d+", output, flags=re.MULTILINE)}
    return ";".join(sorted(found, key=int)) or None


def has_vulkan() -> bool:
    """Return whether there is a Vulkan device that is not a software renderer, or at least a render node."""
    if shutil.which("vulkaninfo"):
        return bool(re.search(r"deviceType\s*=\s*\w*(DISCRETE|INTEGRATED|VIRTUAL)", _output("vulkaninfo", "--summary")))
    return any(Path("/dev/dri").glob("renderD*"))


def has_metal() -> bool:
    """Return whether this is a Mac: every one has a device."""
    return sys.platform == "darwin"


def has_hip() -> bool:
    """Return whether AMD's kernel driver lists a GPU."""
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return any(node.read_text().strip() not in ("", "0") for node in nodes)


def has_sycl() -> bool:
    """Return whether Intel's runtime lists a GPU."""
    return "gpu" in _output("sycl-ls").lower()


def has_opencl() -> bool:
    """Return whether the OpenCL loader lists a GPU."""
    return "CL_DEVICE_TYPE_GPU" in _output("clinfo", "--raw")


def has_musa() -> bool:
    """Return whether Moore Threads' driver lists a GPU."""
    return "GPU" in _output("mthreads-gmi", "-L")


DEVICES: dict[str, Callable[[], bool]] = {
    "cuda": has_cuda,
    "metal": has_metal,
    "vulkan": has_vulkan,
    "hip": has_hip,
    "sycl": has_sycl,
    "opencl": has_opencl,
    "musa": has_musa,
}
"""By GPU backend, the check whether it has a device here."""


def _output(program: str, *arguments: str) -> str:
    """Return what a program prints; empty if it isn't installed, hangs or fails."""
    found = shutil.which(program)
    if found is None:
        return ""
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
