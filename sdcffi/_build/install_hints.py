"""What to install where, for every piece that a build may miss."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Missing:
    """Something that the build needs and did not find.

    Parameters
    ----------
    what : str
        The piece, and what was tried to find it.
    debian, fedora, macos, windows, pip : str or None
        The command that installs it there; None where none is known.
    """

    what: str
    debian: str | None = None
    fedora: str | None = None
    macos: str | None = None
    windows: str | None = None
    pip: str | None = None

    def __str__(self) -> str:
        places = {
            "Debian, Ubuntu": self.debian,
            "Fedora": self.fedora,
            "macOS": self.macos,
            "Windows": self.windows,
            "any, with pip": self.pip,
        }
        lines = [f"  {place}: {command}" for place, command in places.items() if command]
        return "\n".join([self.what, *lines])


CXX_COMPILER = Missing(
    "no C and C++ compiler found (tried CC and CXX, then cc/c++, gcc/g++, clang/clang++, cl)",
    debian="sudo apt install build-essential",
    fedora="sudo dnf install gcc-c++",
    macos="xcode-select --install",
    windows="winget install Microsoft.VisualStudio.2022.BuildTools --override "
    '"--add Microsoft.VisualStudio.Workload.VCTools --passive", then run this in its x64 Native Tools prompt',
)
NVCC = Missing(
    "no nvcc (tried CUDACXX, PATH, CUDA_PATH, /usr/local/cuda)",
    debian="sudo apt install nvidia-cuda-toolkit",
    fedora="sudo dnf install cuda-toolkit (from NVIDIA's repository, https://developer.nvidia.com/cuda-downloads)",
    windows="winget install Nvidia.CUDA",
)
CUBLAS = Missing(
    "CUDA without cuBLAS: no cublas_v2.h with its library (tried the toolkit, the system, Python packages)",
    debian="sudo apt install libcublas-dev (NVIDIA's repository: libcublas-dev-13-0)",
    fedora="sudo dnf install libcublas-devel-13-0",
    windows="winget install Nvidia.CUDA",
    pip="python -m pip install nvidia-cublas",
)
VULKAN_HEADERS = Missing(
    "no Vulkan headers and loader (tried to compile #include <vulkan/vulkan.hpp>, VULKAN_SDK)",
    debian="sudo apt install libvulkan-dev",
    fedora="sudo dnf install vulkan-headers vulkan-loader-devel",
    macos="brew install vulkan-headers vulkan-loader molten-vk",
    windows="winget install KhronosGroup.VulkanSDK",
)
GLSLC = Missing(
    "no glslc, the shader compiler (tried PATH, VULKAN_SDK)",
    debian="sudo apt install glslc",
    fedora="sudo dnf install glslc",
    macos="brew install shaderc",
    windows="winget install KhronosGroup.VulkanSDK",
)
METAL = Missing("no Metal: it exists on macOS only", macos="xcode-select --install")
HIP = Missing(
    "no ROCm with hipBLAS (tried ROCM_PATH, /opt/rocm, hipcc on PATH)",
    debian="sudo apt install hipcc libhipblas-dev librocblas-dev",
    fedora="sudo dnf install rocm-hip-devel hipblas-devel rocblas-devel",
    windows="winget install AMD.HIPSDK",
)
SYCL = Missing(
    "no icpx, the oneAPI compiler (tried PATH; `source /opt/intel/oneapi/setvars.sh` first)",
    debian="sudo apt install intel-oneapi-base-toolkit (from Intel's repository)",
    fedora="sudo dnf install intel-oneapi-base-toolkit (from Intel's repository)",
    windows="winget install Intel.oneAPI.BaseToolkit",
)
OPENCL = Missing(
    "no OpenCL headers (tried to compile #include <CL/cl.h>)",
    debian="sudo apt install opencl-headers ocl-icd-opencl-dev",
    fedora="sudo dnf install opencl-headers ocl-icd-devel",
    windows="winget install KhronosGroup.OpenCL-SDK",
)
MUSA = Missing("no mcc, the MUSA compiler (tried PATH, MUSA_PATH, /usr/local/musa): see https://developer.mthreads.com")
