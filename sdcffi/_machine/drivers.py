"""What this machine's drivers tell: why a backend that was built is not to be had here, and what to run."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import install_hints
from .install_hints import Missing

__all__ = ["nvidia_driver", "vulkan_drivers", "vulkan_loader", "why_no_device", "why_not_loaded"]

# Variables that hide devices from a backend.
_VISIBLE = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "hip": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "musa": ("MUSA_VISIBLE_DEVICES",),
    "vulkan": ("GGML_VK_VISIBLE_DEVICES",),
    "sycl": ("ONEAPI_DEVICE_SELECTOR",),
}
_PROVIDERS = (  # what brings a library, by its name
    (r"cuda\.so|nvcuda", install_hints.NVIDIA_DRIVER),
    (r"cublas|cudart|curand", install_hints.CUDA_LIBRARIES),
    (r"vulkan", install_hints.VULKAN_LOADER),
    (r"OpenCL", install_hints.OPENCL_LOADER),
    (r"amdhip|hipblas|rocblas|hsa-runtime", install_hints.HIP),
    (r"sycl|mkl|dnnl|ze_loader|iomp", install_hints.SYCL),
    (r"musa|mublas", install_hints.MUSA),
)
_ABSENT = re.compile(r"(\S+): cannot open shared object file|Library not loaded: (\S+)")
_ICD_PLACES = (
    "/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/opt/homebrew/etc/vulkan/icd.d",
)


def nvidia_driver() -> str | None:
    """Give the highest CUDA version that NVIDIA's driver supports, ``"12.4"``; None without a driver."""
    driver = _opened("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    version = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def vulkan_loader() -> bool:
    """Tell whether Vulkan's loader, which finds the drivers, is here."""
    names = {"win32": ("vulkan-1.dll",), "darwin": ("libvulkan.1.dylib", "libMoltenVK.dylib")}
    return any(_opened(name) for name in names.get(sys.platform, ("libvulkan.so.1",)))


def vulkan_drivers() -> list[str]:
    """Name the Vulkan drivers that are installed here, by their descriptions (ICD files); on Windows none is seen."""
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    if named:
        return [Path(name).stem for name in named.split(os.pathsep) if Path(name).is_file()]
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    places = [*map(Path, _ICD_PLACES), Path(data, "vulkan", "icd.d")]
    return sorted({path.stem for place in places for path in place.glob("*.json")})


def _opened(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def why_not_loaded(said: str) -> str:
    """Tell what brings the library that a plug-in lacks, by the system's message; empty where it is another matter."""
    absent = _ABSENT.search(said)
    library = (absent[1] or absent[2]) if absent else ""
    for pattern, missing in _PROVIDERS:
        if library and re.search(pattern, library):
            return f"{missing.what}. Run: {missing.command}"
    return ""


def why_no_device(backend: str, log: Iterable[str]) -> str:
    """Tell why a loaded backend has no device, and what to run.

    Parameters
    ----------
    backend : str
        Its name.
    log : iterable of str
        What it logged when it was loaded.
    """
    reason = {"cuda": _why_no_cuda, "vulkan": _why_no_vulkan}.get(backend, _why_none)(tuple(log))
    hidden = [f"{name}={value!r}" for name in _VISIBLE.get(backend, ()) if (value := os.environ.get(name)) is not None]
    return reason + (f" (with {', '.join(hidden)})" if hidden else "")


def _why_none(log: tuple[str, ...]) -> str:
    return "no device found; is the driver installed?"


def _why_no_cuda(log: tuple[str, ...]) -> str:
    driver = nvidia_driver()
    if driver is None:
        return _advice(install_hints.NVIDIA_DRIVER)
    said = next(_after("failed to initialize CUDA: ", log), "")
    if "insufficient" in said:
        update = install_hints.NVIDIA_DRIVER.command
        return f"NVIDIA's driver is too old: it supports CUDA up to {driver} ({said}). Run: {update}"
    return f"NVIDIA's driver, which supports CUDA {driver}, lists no device" + (f": {said}" if said else "")


def _why_no_vulkan(log: tuple[str, ...]) -> str:
    if not vulkan_loader():
        return _advice(install_hints.VULKAN_LOADER)
    drivers = vulkan_drivers()
    if not drivers:
        return _advice(install_hints.VULKAN_DRIVER)
    return (
        f"the Vulkan drivers that are installed ({', '.join(drivers)}) offer no GPU; a software device is used only"
        " where GGML_VK_VISIBLE_DEVICES=0 names it"
    )


def _after(words: str, log: Iterable[str]) -> Iterator[str]:
    return (line.partition(words)[2].strip() for line in log if words in line)


def _advice(missing: Missing) -> str:
    return f"{missing.what}. Run: {missing.command}"
