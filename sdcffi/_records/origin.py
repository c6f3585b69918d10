"""What a record holds besides parameters: files, pictures given, and where the pictures of a call come from."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import TYPE_CHECKING

from .._public import public
from .._warnings import warn
from ..params.context import ContextParams
from ..params.plain import detach
from ..params.struct import Struct
from .digests import FileState, file_state, sha256, tensors_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .._machine.devices import Device

__all__ = ["FileRecord", "ImageRecord", "Origin", "Upscaling", "file_record", "image_record"]


@dataclass(frozen=True)
class Upscaling:
    """A network that enlarged the pictures of a call, by which factor, and in tiles of how many pixels a side."""

    path: Path
    factor: float
    tile_size: int


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the pictures of a call come from: what `Record` needs beside the call's own parameters.

    Attributes
    ----------
    context, resolved_context : ContextParams
        As asked for, and with what the engine took for the rest.
    resolved_params : Struct
        The same of the call.
    device : Device
        What it was drawn on.
    commit, build : str
        The engine's commit, and the key of the native build, which patches and compiler options are part of.
    states : dict of Path to FileState
        The files as they were when they were loaded.
    upscaling : Upscaling, optional
        What enlarged them afterwards.
    """

    context: ContextParams
    resolved_context: ContextParams
    resolved_params: Struct
    device: Device
    commit: str
    build: str
    states: dict[Path, FileState | None]
    upscaling: Upscaling | None = None

    @staticmethod
    def look(params: Struct) -> dict[Path, FileState | None]:
        """Give the states of the files that a struct names, as they are now."""
        return {path: file_state(path) for path in detach(params)[1].values()}


@public
@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file that took part.

    Attributes
    ----------
    role : str
        The C field that named it: ``"diffusion_model_path"``, ``"loras[0].path"``.
    name : str
        Its name without directories.
    size : int, optional
        Bytes; of a diffusers directory, of all files in it. None where it is not known.
    sha256 : str, optional
        Hexadecimal digest; of a directory, that of its files' digests and names. None where it was not asked for, or
        the file was no longer the one that had been loaded.
    tensors_sha256 : str, optional
        Of a LoRA in safetensors, without its header: what web interfaces call its hash.
    path : str, optional
        Absolute path, where it was asked for.
    """

    role: str
    name: str
    size: int | None = None
    sha256: str | None = None
    tensors_sha256: str | None = None
    path: str | None = None


@public
@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """A picture that was given to a call; it is not kept, only told.

    Attributes
    ----------
    role : str
        The C field: ``"init_image"``, ``"ref_images[0]"``.
    shape : tuple of int
        (H, W, C).
    sha256 : str
        Of its pixels as the engine got them: uint8, row by row.
    """

    role: str
    shape: tuple[int, ...]
    sha256: str


def image_record(role: str, pixels: NDArray[np.uint8]) -> ImageRecord:
    """Describe a picture."""
    return ImageRecord(role=role, shape=tuple(pixels.shape), sha256=hash_of(pixels.tobytes()).hexdigest())


def file_record(role: str, path: Path, loaded: FileState | None, digests: bool, paths: bool) -> FileRecord:
    """Describe a file that was in the state `loaded` when it was read; see `Result.record`."""
    same = loaded is not None and file_state(path) == loaded
    if digests and not same:
        warn(f"{path} is not as it was when it was loaded: its digest is left out")
    try:
        digest = sha256(path) if digests and same else None
        tensors = tensors_sha256(path) if digest and role.startswith("loras[") else None
    except OSError as error:
        warn(f"{path} cannot be read again ({error}): its digest is left out")
        digest = tensors = None
    return FileRecord(
        role=role,
        name=path.name,
        size=loaded.size if loaded else None,
        sha256=digest,
        tensors_sha256=tensors,
        path=str(path) if paths else None,
    )
