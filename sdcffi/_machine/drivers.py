"""Find out from this machine's drivers why a built backend cannot be used, and what to run."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import install_hints
from .install_hints import Missing

__all__ = [
    "nvidia_driver",
    "vulkan_drivers",
    "vulkan_loader",
    "why_no_device",
    "why_not_loaded",
    "why_not_this_processor",
]

# Environment variables that hide devices from a backend.
_VISIBLE = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "hip": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "musa": ("MUSA_VISIBLE_DEVICES",),
    "vulkan": ("GGML_VK_VISIBLE_DEVICES",),
    "sycl": ("ONEAPI_DEVICE_SELECTOR",),
}
_PROVIDERS = (  # by the name of a library, what to install
    (r"cuda\.so|nvcuda", install_hints.NVIDIA_DRIVER),
    (r"cublas|cudart|curand", install_hints.CUDA_LIBRARIES),
    (r"vulkan", install_hints.VULKAN_LOADER),
    (r"OpenCL", install_hints.OPENCL_LOADER),
    (r"amdhip|hipblas|rocblas|hsa-runtime", install_hints.HIP),
    (r"sycl|mkl|dnnl|ze_loader|iomp", install_hints.SYCL),
    (r"musa|mublas", install_hints.MUSA),
)
_ABSENT = re.compile(r"(\S+): cannot open shared object file|Library not loaded: (\S+)")
_SETS = re.compile(r"GGML_((?:SSE|AVX|BMI|FMA|F16C|AMX)\w*)")  # options that turn an instruction set on
_ICD_PLACES = (
    "/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/opt/homebrew/etc/vulkan/icd.d",
)


def nvidia_driver() -> str | None:
    """Return the highest CUDA version that NVIDIA's driver supports, ``"12.4"``; None without a driver."""
    driver = _opened("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    version = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def vulkan_loader() -> bool:
    """Return whether the Vulkan loader, which finds the drivers, is installed."""
    names = {"win32": ("vulkan-1.dll",), "darwin": ("libvulkan.1.dylib", "libMoltenVK.dylib")}
    return any(_opened(name) for name in names.get(sys.platform, ("libvulkan.so.1",)))


def vulkan_drivers() -> list[str]:
    """Return the names of the installed Vulkan drivers, from their ICD files; on Windows none are found."""
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


def why_not_loaded(message: str) -> str:
    """Return what to install for the library that a plug-in lacks, from the system's message; empty if unknown."""
    absent = _ABSENT.search(message)
    library = (absent[1] or absent[2]) if absent else ""
    for pattern, missing in _PROVIDERS:
        if library and re.search(pattern, library):
            return f"{missing.what}. Run: {missing.command}"
    return ""


def why_not_this_processor(options: Mapping[str, str]) -> str:
    """Return why a CPU backend that was compiled for one machine does not run on this one, and what to run.

    Parameters
    ----------
    options : mapping of str to str
        The options of the build, from its manifest.
    """
    sets = (_SETS.fullmatch(name) for name, value in options.items() if value == "ON")
    needed = options.get("GGML_CPU_ARM_ARCH") or ", ".join(found[1] for found in sets if found)
    return (
        f"it was compiled for one machine, and this processor lacks instructions that it needs ({needed}). Run, here:"
        " python -m sdcffi build. A build for every processor: python -m sdcffi build --cpu portable; such a wheel: pip"
        " wheel . --config-settings=cpu=portable"
    )


def why_no_device(backend: str, log: Iterable[str]) -> str:
    """Return why a loaded backend has no device, and what to run.

    Parameters
    ----------
    backend : str
        Name of the backend.
    log : iterable of str
        Its log lines while it was loaded.
    """
    reason = {"cuda": _why_no_cuda, "vulkan": _why_no_vulkan}.get(backend, _why_none)(tuple(log))
    hidden = [f"{name}={value!r}" for name in _VISIBLE.get(backend, ()) if (value := os.environ.get(name)) is not None]
    return reason + (f" (with {', '.join(hidden)})" if hidden else "")


def _why_none(log: tuple[str, ...]) -> str:
    return "no device found; check that the driver is installed"


def _why_no_cuda(log: tuple[str, ...]) -> str:
    driver = nvidia_driver()
    if driver is None:
        return _advice(install_hints.NVIDIA_DRIVER)
    reason = next(_after("failed to initialize CUDA: ", log), "")
    if "insufficient" in reason:
        update = install_hints.NVIDIA_DRIVER.command
        return f"NVIDIA's driver is too old: it supports CUDA up to {driver} ({reason}). Run: {update}"
    return f"NVIDIA's driver, which supports CUDA {driver}, lists no device" + (f": {reason}" if reason else "")


def _why_no_vulkan(log: tuple[str, ...]) -> str:
    if not vulkan_loader():
        return _advice(install_hints.VULKAN_LOADER)
    drivers = vulkan_drivers()
    if not drivers:
        return _advice(install_hints.VULKAN_DRIVER)
    return (
        f"the installed Vulkan drivers ({', '.join(drivers)}) have no GPU. To use a software device, set"
        " GGML_VK_VISIBLE_DEVICES=0"
    )


def _after(words: str, log: Iterable[str]) -> Iterator[str]:
    return (line.partition(words)[2].strip() for line in log if words in line)


def _advice(missing: Missing) -> str:
    return f"{missing.what}. Run: {missing.command}"
