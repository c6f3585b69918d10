"""Look for the toolkit of each GPU backend: return what is missing, or the definitions for CMake."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .._machine import install_hints
from .._machine.install_hints import Missing
from .bootstrap import ORIGINAL_PATH
from .compilers import Compiler

_CUDA_HOME = Path("/usr/local/cuda")
PACKAGED_CUDA = {
    "13": {"nvidia-cublas": "cu13", "nvidia-cuda-runtime": "cu13"},
    "12": {"nvidia-cublas-cu12": "cublas", "nvidia-cuda-runtime-cu12": "cuda_runtime"},
}
"""By CUDA release, NVIDIA's Python packages that a plug-in needs besides the driver, and the directory of each in
``site-packages/nvidia``."""


@dataclass(frozen=True)
class Toolkit:
    """The result of a search for a toolkit.

    Parameters
    ----------
    missing : tuple of Missing
        What is missing; empty if the backend can be built.
    definitions : dict
        CMake definitions that the backend needs on this machine.
    """

    missing: tuple[Missing, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)


def cuda(compiler: Compiler) -> Toolkit:
    """Look for nvcc and cuBLAS; the latter may come from the Python package nvidia-cublas."""
    nvcc = _find_nvcc()
    if nvcc is None:
        return Toolkit((install_hints.NVCC,))
    roots = _cuda_roots(nvcc)
    places = {path.resolve() for root in roots for path in _libraries(root) if any(path.glob("libcudart.so*"))}
    libraries = sorted(map(str, places))
    definitions = {
        "CMAKE_CUDA_COMPILER": str(nvcc),
        "GGML_CUDA_NO_VMM": "OFF" if _links_driver(roots) else "ON",
        "GGML_CUDA_NCCL": "OFF",  # else the plug-in needs NCCL wherever it runs, if this machine has it
    }
    if not _has_cublas(roots, compiler):
        package = next(_packaged_cublas(), None)
        if package is None:
            return Toolkit((install_hints.CUBLAS,))
        definitions |= _cublas_definitions(package)
        libraries.append(str(package / "lib"))
    if os.name != "nt":
        names = dict.fromkeys(name for packages in PACKAGED_CUDA.values() for name in packages.values())
        beside = [
            f"$ORIGIN/../../nvidia/{name}/lib" for name in names
        ]  # first, because in a wheel the others do not exist
        definitions["CMAKE_MODULE_LINKER_FLAGS"] = " ".join(f"-Wl,-rpath,'{path}'" for path in [*beside, *libraries])
    return Toolkit(definitions=definitions)


def vulkan(compiler: Compiler) -> Toolkit:
    """Look for the Vulkan headers, the loader to link to and the shader compiler glslc."""
    sdk = _vulkan_sdk()
    headers = compiler.can_include("vulkan/vulkan.hpp", *_vulkan_directories("include", "Include"))
    loader = "vulkan-1" if os.name == "nt" else "vulkan"
    headers = headers and compiler.can_link(loader, *_vulkan_directories("lib", "Lib"))
    glslc = shutil.which("glslc") or any(shutil.which("glslc", path=str(root / "bin")) for root in sdk)
    missing = [] if headers else [install_hints.VULKAN_HEADERS]
    return Toolkit((*missing, *(() if glslc else (install_hints.GLSLC,))))


def missing_for(tree: Path, backends: Collection[str], compiler: Compiler) -> tuple[Missing, ...]:
    """Return what an upstream tree needs for `backends` that other revisions don't, and that is missing here."""
    cmake = tree / "ggml" / "src" / "ggml-vulkan" / "CMakeLists.txt"
    if "vulkan" not in backends or "find_package(SPIRV-Headers" not in cmake.read_text("utf-8"):
        return ()
    found = compiler.can_include("spirv/unified1/spirv.hpp", *_vulkan_directories("include", "Include"))
    return () if found else (install_hints.SPIRV_HEADERS,)


def _vulkan_sdk() -> list[Path]:
    return [Path(os.environ["VULKAN_SDK"])] if "VULKAN_SDK" in os.environ else []


def _vulkan_directories(*names: str) -> list[Path]:
    homebrew = [Path("/opt/homebrew")] if sys.platform == "darwin" else []
    return [root / name for root in (*_vulkan_sdk(), *homebrew) for name in names]


def metal(compiler: Compiler) -> Toolkit:
    """Metal comes with macOS; its kernels are embedded in the plug-in and compiled on first use."""
    if sys.platform != "darwin":
        return Toolkit((install_hints.METAL,))
    return Toolkit(definitions={"GGML_METAL_EMBED_LIBRARY": "ON"})


def hip(compiler: Compiler) -> Toolkit:
    """Look for ROCm with hipBLAS."""
    roots = [Path(os.environ.get("ROCM_PATH", "/opt/rocm")), Path("/usr")]
    complete = any((root / "include/hipblas/hipblas.h").is_file() for root in roots)
    hipcc = shutil.which("hipcc") or any((root / "bin/hipcc").is_file() for root in roots)
    return Toolkit(() if complete and hipcc else (install_hints.HIP,))


def sycl(compiler: Compiler) -> Toolkit:
    """Look for Intel's compiler, which then compiles everything."""
    icx, icpx = shutil.which("icx"), shutil.which("icpx")
    if not icx or not icpx:
        return Toolkit((install_hints.SYCL,))
    return Toolkit(definitions={"CMAKE_C_COMPILER": icx, "CMAKE_CXX_COMPILER": icpx})


def opencl(compiler: Compiler) -> Toolkit:
    """Look for the OpenCL headers; the kernels are embedded in the plug-in."""
    headers = ("OpenCL/cl.h",) if sys.platform == "darwin" else ("CL/cl.h",)
    if not any(compiler.can_include(header) for header in headers):
        return Toolkit((install_hints.OPENCL,))
    return Toolkit(definitions={"GGML_OPENCL_EMBED_KERNELS": "ON", "Python3_EXECUTABLE": sys.executable})


def musa(compiler: Compiler) -> Toolkit:
    """Look for the MUSA compiler."""
    root = Path(os.environ.get("MUSA_PATH", "/usr/local/musa"))
    return Toolkit(() if shutil.which("mcc") or (root / "bin/mcc").is_file() else (install_hints.MUSA,))


def _find_nvcc() -> Path | None:
    roots = [os.environ.get("CUDA_PATH"), _CUDA_HOME]
    directories = [str(Path(root, "bin")) for root in roots if root]
    found = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(directories))
    return Path(found) if found else None


def _cuda_roots(nvcc: Path) -> list[Path]:
    # Both, because nvcc may be a wrapper script of the distribution.
    named = [Path(os.environ["CUDA_PATH"])] if "CUDA_PATH" in os.environ else []
    return [*named, nvcc.resolve().parents[1], _CUDA_HOME]


def _libraries(root: Path) -> list[Path]:
    return [root / "lib64", root / "lib", *root.glob("targets/*/lib")]


def _has_cublas(roots: list[Path], compiler: Compiler) -> bool:
    includes = [path for root in roots for path in (root / "include", *root.glob("targets/*/include"))]
    return compiler.can_include("cublas_v2.h", *includes)


def _links_driver(roots: list[Path]) -> bool:
    """Return whether there is a libcuda.so to link to: the toolkit's stub or the driver's own.

    Slim toolkits have none. Only ggml's virtual memory pool is linked to it, so it is left out with these.
    """
    if os.name == "nt":
        return True
    stubs = [path / "stubs/libcuda.so" for root in roots for path in _libraries(root)]
    system = [Path("/usr/lib64/libcuda.so"), *Path("/usr/lib").glob("*-linux-gnu/libcuda.so")]
    return any(library.exists() for library in (*stubs, *system))


def _packaged_cublas() -> Iterator[Path]:
    """Yield the folders of nvidia-cublas (CUDA 13) and nvidia-cublas-cu12 among the installed Python packages."""
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    packages += [Path(entry, "nvidia") for entry in os.environ.get(ORIGINAL_PATH, "").split(os.pathsep) if entry]
    packages += [Path(entry, "nvidia") for entry in _site_packages()]
    for package in packages:
        for root in (*sorted(package.glob("cu*"), reverse=True), package / "cublas"):
            if (root / "include/cublas_v2.h").is_file():
                yield root


def _site_packages() -> list[str]:
    # In pip's build isolation these are not in sys.path, but the interpreter still knows them.
    import site

    return [*site.getsitepackages(), site.getusersitepackages()]


def _cublas_definitions(package: Path) -> dict[str, str]:
    """Return definitions with the libraries of the wheel, which CMake doesn't find: their names end in versions."""
    definitions = {"CMAKE_CUDA_FLAGS": f"-I{package / 'include'}"}
    for name in ("cublas", "cublasLt"):
        for library in (*package.glob(f"lib/lib{name}.so*"), *package.glob(f"lib/x64/{name}.lib")):
            definitions[f"CUDA_{name}_LIBRARY"] = str(library)
    return definitions
