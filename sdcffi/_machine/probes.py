"""Is a device of a GPU backend here? A quick look before the build; the build's end asks the library itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_SECONDS = 30


def has_cuda() -> bool:
    """NVIDIA's driver lists a GPU."""
    return "GPU 0" in _output("nvidia-smi", "-L")


def cuda_architectures() -> str | None:
    """Return the compute capabilities of this machine's GPUs as CMake writes them, ``86;90``; None without one."""
    said = _output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    found = {match[0].replace(".", "") for match in re.finditer(r"^\d+\.\d+", said, flags=re.MULTILINE)}
    return ";".join(sorted(found, key=int)) or None


def has_vulkan() -> bool:
    """A Vulkan device that is no software renderer, or at least a render node of the kernel."""
    if shutil.which("vulkaninfo"):
        return bool(re.search(r"deviceType\s*=\s*\w*(DISCRETE|INTEGRATED|VIRTUAL)", _output("vulkaninfo", "--summary")))
    return any(Path("/dev/dri").glob("renderD*"))


def has_metal() -> bool:
    """Every Mac has one."""
    return sys.platform == "darwin"


def has_hip() -> bool:
    """AMD's kernel driver lists a GPU."""
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return any(node.read_text().strip() not in ("", "0") for node in nodes)


def has_sycl() -> bool:
    """Intel's runtime lists a GPU."""
    return "gpu" in _output("sycl-ls").lower()


def has_opencl() -> bool:
    """The OpenCL loader lists a GPU."""
    return "CL_DEVICE_TYPE_GPU" in _output("clinfo", "--raw")


def has_musa() -> bool:
    """Moore Threads' driver lists a GPU."""
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
"""By GPU backend, whether there is a device of it here."""


def _output(program: str, *arguments: str) -> str:
    """Return what a program prints, or nothing where it isn't installed, hangs or fails."""
    found = shutil.which(program)
    if found is None:
        return ""
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
