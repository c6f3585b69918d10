"""What a session is asked for, and what it tells besides pictures: plain data, which goes to the child and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._machine.backends import AUTO, BackendChoice
from .._machine.devices import Device, Variant
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.struct import StrPath, Struct
from ..params.video import VideoParams

__all__ = [
    *("Conversion", "Defaults", "Description", "Edges", "Offer", "Opened", "Opening", "Resolved", "UpscalerParams"),
]


@dataclass(frozen=True)
class UpscalerParams:
    """An upscaling network to be loaded, see `upscaler.Upscaler`; without threads, as many as cores can be used."""

    path: Path
    threads: int | None
    tile_size: int
    direct: bool
    offload_to_cpu: bool


@dataclass(frozen=True)
class Opening:
    """What a session is opened with, at first and again after a crash.

    Attributes
    ----------
    library : path or None
        See `_machine.builds.locate`.
    backend : BackendChoice
        What it is to compute on.
    params : ContextParams, UpscalerParams or None
        The model, or upscaling network; None opens the backend only.
    weights : bool
        False reads only which tensors the model has: the session can then check adapters, not draw.
    lora_cache : int
        Bytes of adapters to keep between calls.
    """

    library: StrPath | None = None
    backend: BackendChoice = AUTO
    params: ContextParams | UpscalerParams | None = None
    weights: bool = True
    lora_cache: int = 0


@dataclass(frozen=True)
class Defaults:
    """What the engine itself writes into the parameters of a call, reuse between steps and a second pass included."""

    image: ImageParams
    video: VideoParams


@dataclass(frozen=True)
class Opened:
    """What a session has found: the device, the engine's commit, the key of the native build, and the defaults."""

    device: Device
    commit: str
    build: str
    defaults: Defaults


@dataclass(frozen=True)
class Resolved:
    """Context and call as the engine read them: its own defaults where nothing was asked for."""

    context: ContextParams
    params: Struct


@dataclass(frozen=True)
class Conversion:
    """A model file to be written with other weight types, see `conversion.convert`."""

    input: Path
    output: Path
    type: str
    vae: Path | None
    tensor_type_rules: str
    convert_name: bool


@dataclass(frozen=True)
class Edges:
    """How edges are found, see `edges.canny`."""

    high_threshold: float = 0.08
    low_threshold: float = 0.08
    weak: float = 0.8
    strong: float = 1.0
    inverse: bool = False


@dataclass(frozen=True)
class Description:
    """What was built, and what it finds on this machine.

    Attributes
    ----------
    directory : Path
        Where the native library lies.
    manifest : dict
        What the build wrote about itself.
    upstream_commit, ggml_version : str
        As the library tells them.
    device : Device
        The one that is computed on.
    devices : tuple of Device
        Of the backends that are loaded.
    variants : tuple of Variant
        Of the CPU's backend, the best first.
    skipped : dict of str to str
        The other backends, with the reason.
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
    """What the build and the loaded model offer, in the engine's own words.

    Attributes
    ----------
    image, video : bool
        What the model makes.
    default_sampler, default_scheduler : str
        What the engine takes for it.
    commit : str
        Of the engine that was built.
    names : dict of str to tuple of str
        Legal names by their C enumeration; none where the built header lacks it.
    """

    image: bool
    video: bool
    default_sampler: str
    default_scheduler: str
    commit: str
    names: dict[str, tuple[str, ...]]
