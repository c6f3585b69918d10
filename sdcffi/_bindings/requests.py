"""Requests to a session and its answers other than images: plain data that can be sent to a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._machine.backends import AUTO, BackendChoice
from .._machine.devices import Device, Variant
from .._numbers import as_path
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.struct import StrPath, Struct
from ..params.video import VideoParams

__all__ = [
    *("Conversion", "Defaults", "Description", "Edges", "NativeTensor", "Offer", "Opened", "Opening", "Resolved"),
    "UpscalerParams",
]


@dataclass(frozen=True)
class UpscalerParams:
    """An upscaling network to load, see `Upscaler`.

    Attributes
    ----------
    path : Path
    threads : int or None
        None: as many as the process may use cores.
    tile_size : int
        Side of a tile, in pixels; 0 for no tiles.
    direct : bool
        Whether to compute convolutions directly.
    offload_to_cpu : bool
        Whether to keep the weights in the CPU's memory.
    precision : str or None
        How the CPU convolves, see `ContextParams`.
    """

    path: Path
    threads: int | None
    tile_size: int
    direct: bool
    offload_to_cpu: bool
    precision: str | None


@dataclass(frozen=True)
class NativeTensor:
    """A weight of the model.

    Attributes
    ----------
    type : str
        As ggml names it: ``"f16"``, ``"q8_0"``, ...
    shape : tuple of int
        Rows first. ggml knows no dimensions of one element before others.
    """

    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Opening:
    """How a session is opened, the first time and again after a crash.

    Attributes
    ----------
    library : path or None
        See `_machine.builds.locate`.
    backend : BackendChoice
        Backend and device.
    params : ContextParams, UpscalerParams or None
        The model or upscaling network to load. None: only the backend is opened.
    weights : bool
        Whether to load the weights. False: only the names of tensors are read, so that the session can check adapters
        but not generate images.
    lora_cache : int
        Size of the cache of adapters, in bytes.
    """

    library: StrPath | None = None
    backend: BackendChoice = AUTO
    params: ContextParams | UpscalerParams | None = None
    weights: bool = True
    lora_cache: int = 0

    def __post_init__(self) -> None:
        if self.library is not None:
            object.__setattr__(self, "library", as_path("library", self.library))


@dataclass(frozen=True)
class Defaults:
    """What the engine itself writes into the parameters of a call, reuse between steps and a second pass included."""

    image: ImageParams
    video: VideoParams


@dataclass(frozen=True)
class Opened:
    """Properties of an open session.

    Attributes
    ----------
    device : Device
    commit : str
        The engine's commit.
    build : str
        Key of the native build.
    defaults : Defaults
        The engine's own defaults for calls.
    left_out : dict of str to str
        Patches that this engine needs and was built without, with what each would do.
    names : dict of str to tuple of str
        Legal names of each C enumeration; empty if the built header lacks it.
    """

    device: Device
    commit: str
    build: str
    defaults: Defaults
    left_out: dict[str, str]
    names: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Resolved:
    """Context and call with the engine's defaults filled in, and what the engine has to say of the call.

    Attributes
    ----------
    context : ContextParams
    params : Struct
    notes : tuple of str
        What became of the prompts, where that is worth a warning.
    cached_steps : tuple of tuple of int
        Of each pass of the sampler, the steps that were reused from a step cache, counted from 1.
    """

    context: ContextParams
    params: Struct
    notes: tuple[str, ...] = ()
    cached_steps: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Conversion:
    """A model file to convert to other weight types, see `convert`."""

    input: Path
    output: Path
    type: str
    vae: Path | None
    tensor_type_rules: str
    convert_name: bool


@dataclass(frozen=True)
class Edges:
    """Parameters of edge detection, see `canny`."""

    high_threshold: float = 0.08
    low_threshold: float = 0.08
    weak: float = 0.8
    strong: float = 1.0
    inverse: bool = False


@dataclass(frozen=True)
class Description:
    """The native build and the devices that it finds on this machine.

    Attributes
    ----------
    directory : Path
        Directory of the native library.
    manifest : dict
        Manifest of the build.
    upstream_commit, ggml_version : str
        As the library reports them.
    device : Device
        The device that was chosen.
    devices : tuple of Device
        Devices of the loaded backends.
    variants : tuple of Variant
        Variants of the CPU backend, the best first.
    skipped : dict of str to str
        Backends that are not used, with the reason.
    """

    directory: Path
    manifest: dict[str, Any]
    upstream_commit: str
    ggml_version: str
    device: Device
    devices: tuple[Device, ...]
    variants: tuple[Variant, ...]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Offer:
    """What the build and the loaded model support, with the engine's names.

    Attributes
    ----------
    image, video : bool
        Whether the model generates images, and whether it generates videos.
    default_sampler, default_scheduler : str
        The engine's defaults for the model.
    commit : str
        The engine's commit.
    names : dict of str to tuple of str
        Legal names of each C enumeration; empty if the built header lacks it.
    """

    image: bool
    video: bool
    default_sampler: str
    default_scheduler: str
    commit: str
    names: dict[str, tuple[str, ...]]
