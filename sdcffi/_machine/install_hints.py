"""What to install on each system, for everything that a build or a backend may need."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Missing:
    """Something that is needed and was not found.

    Parameters
    ----------
    what : str
        What is missing, and where it was looked for.
    debian, fedora, macos, windows, pip : str or None
        The command that installs it. None: no command is known.
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

    @property
    def command(self) -> str:
        """The command for this system, or that of another system after its name; empty if none is known."""
        system = {"darwin": self.macos, "win32": self.windows}
        here = system[sys.platform] if sys.platform in system else self.fedora if _is_fedora() else self.debian
        return here or self.pip or next(iter(str(self).splitlines()[1:]), "").strip()


def _is_fedora() -> bool:
    try:
        text = Path("/etc/os-release").read_text("utf-8", "replace")
    except OSError:
        return False
    names = [line.partition("=")[2] for line in text.splitlines() if line.startswith(("ID=", "ID_LIKE="))]
    return any(word in name for name in names for word in ("fedora", "rhel"))


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
    "no Vulkan headers with a loader to link to (tried #include <vulkan/vulkan.hpp>, libvulkan, VULKAN_SDK)",
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
SPIRV_HEADERS = Missing(
    "no SPIR-V headers, which this revision of the engine needs for Vulkan (tried #include <spirv/unified1/spirv.hpp>)",
    debian="sudo apt install spirv-headers",
    fedora="sudo dnf install spirv-headers-devel",
    macos="brew install spirv-headers",
    windows="winget install KhronosGroup.VulkanSDK",
)
NVIDIA_DRIVER = Missing(
    "no NVIDIA driver (tried to load libcuda)",
    debian="sudo apt install nvidia-driver (on Ubuntu: sudo ubuntu-drivers install)",
    fedora="sudo dnf install akmod-nvidia (from RPM Fusion)",
    windows="the installer from https://www.nvidia.com/drivers",
)
CUDA_LIBRARIES = Missing(
    "no libraries of CUDA beside the plug-in (cuBLAS, the CUDA runtime)",
    debian="sudo apt install libcublas-13-0 (from NVIDIA's repository)",
    fedora="sudo dnf install libcublas-13-0 (from NVIDIA's repository)",
    windows="winget install Nvidia.CUDA",
    pip="python -m pip install nvidia-cublas",
)
VULKAN_LOADER = Missing(
    "no Vulkan loader (tried to load libvulkan)",
    debian="sudo apt install libvulkan1",
    fedora="sudo dnf install vulkan-loader",
    macos="brew install vulkan-loader molten-vk",
    windows="install the GPU's driver, which includes it",
)
VULKAN_DRIVER = Missing(
    "no Vulkan driver (no ICD file in /usr/share/vulkan/icd.d, /etc/vulkan/icd.d, VK_DRIVER_FILES)",
    debian="sudo apt install mesa-vulkan-drivers (AMD, Intel; NVIDIA's driver includes its own)",
    fedora="sudo dnf install mesa-vulkan-drivers (AMD, Intel; NVIDIA's driver includes its own)",
    macos="brew install molten-vk",
    windows="install the GPU's driver, which includes it",
)
OPENCL_LOADER = Missing(
    "no OpenCL loader (tried to load libOpenCL)",
    debian="sudo apt install ocl-icd-libopencl1",
    fedora="sudo dnf install ocl-icd",
    windows="install the GPU's driver, which includes it",
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
