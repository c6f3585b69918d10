"""The compute backends: the options that build each, and those that this machine can build and use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._machine import probes
from .._machine.backends import BACKENDS
from ..errors import BuildError
from . import toolkits
from .compilers import Compiler
from .toolkits import Toolkit


@dataclass(frozen=True)
class Gpu:
    """A GPU backend.

    Parameters
    ----------
    option : str
        Upstream's CMake option.
    toolkit : callable
        Function that looks for what the build needs.
    has_device : callable
        Function that looks for a device.
    """

    option: str
    toolkit: Callable[[Compiler], Toolkit]
    has_device: Callable[[], bool]


GPUS = {
    "cuda": Gpu("SD_CUDA", toolkits.cuda, probes.DEVICES["cuda"]),
    "metal": Gpu("SD_METAL", toolkits.metal, probes.DEVICES["metal"]),
    "vulkan": Gpu("SD_VULKAN", toolkits.vulkan, probes.DEVICES["vulkan"]),
    "hip": Gpu("SD_HIPBLAS", toolkits.hip, probes.DEVICES["hip"]),
    "sycl": Gpu("SD_SYCL", toolkits.sycl, probes.DEVICES["sycl"]),
    "opencl": Gpu("SD_OPENCL", toolkits.opencl, probes.DEVICES["opencl"]),
    "musa": Gpu("SD_MUSA", toolkits.musa, probes.DEVICES["musa"]),
}
NAMES = tuple(BACKENDS)


@dataclass(frozen=True)
class Selection:
    """The backends of a build.

    Parameters
    ----------
    names : tuple of str
        Names; ``cpu`` is always the first.
    definitions : dict
        CMake definitions that enable them, with the places of their toolkits.
    remarks : tuple of str
        Why other backends are left out, or what may go wrong.
    """

    names: tuple[str, ...]
    definitions: dict[str, str]
    remarks: tuple[str, ...]


def select(
    asked: tuple[str, ...] | None,
    compiler: Compiler,
    cuda_arch: str | None,
    allow_missing_device: bool = True,
    *,
    lenient: bool = False,
) -> Selection:
    """Choose the backends: those in `asked`, or if it is None, all whose toolkit and device are here.

    Parameters
    ----------
    asked : tuple of str or None
    compiler : Compiler
    cuda_arch : str or None
    allow_missing_device : bool
        False refuses a backend in `asked` without a device here, which would be refused once it is compiled.
    lenient : bool
        True says in a remark what would be refused.

    Raises
    ------
    BuildError
        If the toolkit of a backend in `asked` is missing, with how to install it, or its device.
    """
    if asked is None:
        chosen, remarks = _automatic(compiler)
    else:
        chosen, remarks = _explicit(asked, compiler, allow_missing_device, lenient)
    definitions = {gpu.option: "ON" if name in chosen else "OFF" for name, gpu in GPUS.items()}
    for toolkit in chosen.values():
        definitions |= toolkit.definitions
    if "cuda" in chosen and (architectures := cuda_arch or probes.cuda_architectures()):
        definitions["CMAKE_CUDA_ARCHITECTURES"] = architectures.replace(",", ";")
    return Selection(("cpu", *chosen), definitions, tuple(remarks))


def _automatic(compiler: Compiler) -> tuple[dict[str, Toolkit], list[str]]:
    chosen, remarks = {}, []
    for name, gpu in GPUS.items():
        toolkit = gpu.toolkit(compiler)
        if toolkit.missing:
            remarks.append(f"without {name}: toolkit missing: {toolkit.missing[0].what}")
        elif not gpu.has_device():
            remarks.append(f"without {name}: device missing: the toolkit is here, but no {BACKENDS[name]} device")
        else:
            chosen[name] = toolkit
    return chosen, remarks


def _explicit(
    asked: tuple[str, ...], compiler: Compiler, allow_missing_device: bool, lenient: bool
) -> tuple[dict[str, Toolkit], list[str]]:
    chosen, remarks = {}, []
    for name in GPUS:
        if name not in asked:
            continue
        toolkit = GPUS[name].toolkit(compiler)
        if toolkit.missing:
            refusal = f"backend {name} cannot be built here:\n" + "\n".join(map(str, toolkit.missing))
            if not lenient:
                raise BuildError(refusal)
            remarks.append(refusal)
        if not GPUS[name].has_device():
            if not allow_missing_device:
                raise BuildError(
                    f"{name}: no device found here, and the finished build needs one; to build for another machine, add"
                    " --allow-missing-device"
                )
            remarks.append(f"{name}: no device found here; the finished build needs one, or --allow-missing-device")
        chosen[name] = toolkit
    return chosen, remarks
