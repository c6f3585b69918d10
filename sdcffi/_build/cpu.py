"""The instruction sets for which the CPU plug-in is compiled."""

from __future__ import annotations

from .compilers import Compiler

_X86 = {
    "GGML_SSE42": ("__SSE4_2__",),
    "GGML_AVX": ("__AVX__",),
    "GGML_AVX2": ("__AVX2__",),
    "GGML_BMI2": ("__BMI2__",),
    "GGML_FMA": ("__FMA__",),
    "GGML_F16C": ("__F16C__",),
    "GGML_AVX_VNNI": ("__AVXVNNI__",),
    "GGML_AVX512": ("__AVX512F__", "__AVX512CD__", "__AVX512VL__", "__AVX512DQ__", "__AVX512BW__"),
    "GGML_AVX512_VBMI": ("__AVX512VBMI__",),
    "GGML_AVX512_VNNI": ("__AVX512VNNI__",),
    "GGML_AVX512_BF16": ("__AVX512BF16__",),
    "GGML_AMX_TILE": ("__AMX_TILE__",),
    "GGML_AMX_INT8": ("__AMX_INT8__",),
    "GGML_AMX_BF16": ("__AMX_BF16__",),
}

_ARM = {
    "dotprod": "__ARM_FEATURE_DOTPROD",
    "fp16": "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC",
    "sve": "__ARM_FEATURE_SVE",
    "sve2": "__ARM_FEATURE_SVE2",
    "i8mm": "__ARM_FEATURE_MATMUL_INT8",
}


def cpu_definitions(cpu: str, compiler: Compiler) -> dict[str, str]:
    """Return the CMake definitions for ``native`` (for this machine) or ``portable`` (all variants).

    GGML_NATIVE doesn't work with loadable backends, so a native build lists every instruction set.
    """
    if cpu == "portable" or compiler.id == "msvc":  # MSVC can't list what this machine has: it is chosen at run time
        return {"GGML_NATIVE": "OFF", "GGML_CPU_ALL_VARIANTS": "ON"}
    definitions = {"GGML_NATIVE": "OFF", "GGML_CPU_ALL_VARIANTS": "OFF"}
    if compiler.architecture == "x86":
        macros = compiler.macros("-march=native")
        for option, needed in _X86.items():
            definitions[option] = "ON" if all(macro in macros for macro in needed) else "OFF"
    elif compiler.architecture == "arm" and compiler.id != "apple-clang":
        definitions["GGML_CPU_ARM_ARCH"] = _arm_architecture(compiler.macros("-mcpu=native"))
    # Apple's compiler already targets the M1 with dot product and half precision, which all its successors have.
    return definitions


def _arm_architecture(macros: dict[str, str]) -> str:
    extensions = [name for name, macro in _ARM.items() if macro in macros]
    return "+".join(["armv8.2-a" if extensions else "armv8-a", *extensions])
