"""Python bindings for stable-diffusion.cpp.

Importing this package loads nothing native and nothing heavy: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    BackendUnavailableError,
    BuildError,
    CancelledError,
    GenerationError,
    GenerationTimeoutError,
    LayoutMismatchError,
    LibraryNotFoundError,
    LoraError,
    LoraQualityWarning,
    LoraWarning,
    ModelLoadError,
    NativeAssertError,
    NativeCrashError,
    NativeError,
    OutOfMemoryError,
    SDError,
    UnsupportedParameterError,
)

if TYPE_CHECKING:
    from .conversion import convert
    from .engine import Engine
    from .events import Log, Preview, Progress
    from .lora import Lora
    from .params import (
        Cache,
        ContextParams,
        Guidance,
        Hires,
        ImageParams,
        PhotoMaker,
        SampleParams,
        SkipLayerGuidance,
        Tiling,
    )
    from .result import LoraReport, Result

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailableError",
    "BuildError",
    "Cache",
    "CancelledError",
    "ContextParams",
    "Engine",
    "GenerationError",
    "GenerationTimeoutError",
    "Guidance",
    "Hires",
    "ImageParams",
    "LayoutMismatchError",
    "LibraryNotFoundError",
    "Log",
    "Lora",
    "LoraError",
    "LoraQualityWarning",
    "LoraReport",
    "LoraWarning",
    "ModelLoadError",
    "NativeAssertError",
    "NativeCrashError",
    "NativeError",
    "OutOfMemoryError",
    "PhotoMaker",
    "Preview",
    "Progress",
    "Result",
    "SDError",
    "SampleParams",
    "SkipLayerGuidance",
    "Tiling",
    "UnsupportedParameterError",
    "__version__",
    "convert",
]

_HOMES = {
    "Cache": "params",
    "ContextParams": "params",
    "Engine": "engine",
    "Guidance": "params",
    "Hires": "params",
    "ImageParams": "params",
    "Log": "events",
    "Lora": "lora",
    "LoraReport": "result",
    "PhotoMaker": "params",
    "Preview": "events",
    "Progress": "events",
    "Result": "result",
    "SampleParams": "params",
    "SkipLayerGuidance": "params",
    "Tiling": "params",
    "convert": "conversion",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
