"""Python bindings for stable-diffusion.cpp.

Importing this package loads nothing native and nothing heavy: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__
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
    from ._arguments import read_arguments
    from ._devices import Device, Variant
    from ._records import FileRecord, PictureRecord
    from .capabilities import Capabilities
    from .conversion import convert
    from .demo import demo_model
    from .edges import canny
    from .engine import Engine
    from .events import Log, Preview, Progress
    from .inventory import BackendReport, Inventory, list_devices
    from .lora import Lora
    from .metadata import GenerationParameters
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
        VideoParams,
    )
    from .reproduction import Replay, replay
    from .result import LoraReport, Result
    from .tuning import Trial, Tuning, tune
    from .upscaler import Upscaler, UpscaleResult
    from .video import VideoResult

__all__ = [
    "BackendReport",
    "BackendUnavailableError",
    "BuildError",
    "Cache",
    "CancelledError",
    "Capabilities",
    "ContextParams",
    "Device",
    "Engine",
    "FileRecord",
    "GenerationError",
    "GenerationParameters",
    "GenerationTimeoutError",
    "Guidance",
    "Hires",
    "ImageParams",
    "Inventory",
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
    "PictureRecord",
    "Preview",
    "Progress",
    "Replay",
    "Result",
    "SDError",
    "SampleParams",
    "SkipLayerGuidance",
    "Tiling",
    "Trial",
    "Tuning",
    "UnsupportedParameterError",
    "UpscaleResult",
    "Upscaler",
    "Variant",
    "VideoParams",
    "VideoResult",
    "__version__",
    "canny",
    "convert",
    "demo_model",
    "list_devices",
    "read_arguments",
    "replay",
    "tune",
]

_HOMES = {
    "BackendReport": "inventory",
    "Cache": "params",
    "Capabilities": "capabilities",
    "ContextParams": "params",
    "Device": "_devices",
    "Engine": "engine",
    "FileRecord": "_records",
    "GenerationParameters": "metadata",
    "Guidance": "params",
    "Hires": "params",
    "ImageParams": "params",
    "Inventory": "inventory",
    "Log": "events",
    "Lora": "lora",
    "LoraReport": "result",
    "PhotoMaker": "params",
    "PictureRecord": "_records",
    "Preview": "events",
    "Progress": "events",
    "Replay": "reproduction",
    "Result": "result",
    "SampleParams": "params",
    "SkipLayerGuidance": "params",
    "Tiling": "params",
    "Trial": "tuning",
    "Tuning": "tuning",
    "UpscaleResult": "upscaler",
    "Upscaler": "upscaler",
    "Variant": "_devices",
    "VideoParams": "params",
    "VideoResult": "video",
    "canny": "edges",
    "convert": "conversion",
    "demo_model": "demo",
    "list_devices": "inventory",
    "read_arguments": "_arguments",
    "replay": "reproduction",
    "tune": "tuning",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
