"""Parts of a record: files, input images, and the origin of the images of a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import TYPE_CHECKING

from .._public import public
from .._references import reference_of
from .._warnings import warn
from ..params.context import ContextParams
from ..params.plain import detach
from ..params.struct import Struct
from .digests import FileState, file_state, sha256, tensors_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .._machine.devices import Device

__all__ = ["FileRecord", "ImageRecord", "Origin", "Upscaling", "file_record", "image_record", "is_plain"]


@dataclass(frozen=True)
class Upscaling:
    """How the images of a call were upscaled.

    Attributes
    ----------
    path : Path
        The upscaling network.
    factor : float
        Factor of width and height.
    tile_size : int
        Side of a tile, in pixels; 0 for no tiles.
    """

    path: Path
    factor: float
    tile_size: int


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the images of a call come from: what a record needs in addition to the call's parameters.

    Attributes
    ----------
    context, resolved_context : ContextParams
        As requested, and with the engine's defaults filled in.
    resolved_params : Struct
        The call, with the engine's defaults filled in.
    device : Device
        The device that computed it.
    commit, build : str
        The engine's commit, and the key of the native build, which depends on patches and compiler options.
    states : dict of Path to FileState
        The states of the files when they were loaded.
    upscaling : Upscaling, optional
        How the images were upscaled afterwards. None: they were not.
    defaults : dict of str to str
        Where the values come from that the call left open, by name.
    """

    context: ContextParams
    resolved_context: ContextParams
    resolved_params: Struct
    device: Device
    commit: str
    build: str
    states: dict[Path, FileState | None]
    upscaling: Upscaling | None = None
    defaults: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def look(params: Struct) -> dict[Path, FileState | None]:
        """Return the present states of the files that a struct names."""
        return {path: file_state(path) for path in detach(params)[1].values()}


@public
@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file that was used.

    Attributes
    ----------
    role : str
        The C field that named it: ``"diffusion_model_path"``, ``"loras[0].path"``.
    name : str
        Name of the file, without directories.
    size : int, optional
        In bytes; for a diffusers directory, the sum over its files. None: unknown.
    sha256 : str, optional
        Hexadecimal digest; for a directory, that of its files' digests and names. None: not requested, or the file
        had changed since it was loaded.
    tensors_sha256 : str, optional
        Digest of a LoRA in safetensors without its header, which web interfaces call its hash.
    path : str, optional
        Absolute path. None: not requested.
    reference : str, optional
        Where anybody can get the same file: ``"hf://OWNER/REPO/PATH@COMMIT"`` or ``"https://...#sha256=..."``. None: it
        was not downloaded by sdcffi, and is not in the Hub's cache.
    """

    role: str
    name: str
    size: int | None = None
    sha256: str | None = None
    tensors_sha256: str | None = None
    path: str | None = None
    reference: str | None = None


@public
@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """An input image of a call. Only its digest is kept, not its pixels.

    Attributes
    ----------
    role : str
        The C field that it was passed as: ``"init_image"``, ``"ref_images[0]"``.
    shape : tuple of int
        (H, W, C).
    sha256 : str
        Digest of the pixels as the engine got them: uint8, row by row.
    """

    role: str
    shape: tuple[int, ...]
    sha256: str


def is_plain(name: str) -> bool:
    """Return whether a name leads nowhere by itself: to no folder, drive or server."""
    return name not in ("", "..") and "\0" not in name and Path(name).name == name


def image_record(role: str, pixels: NDArray[np.uint8]) -> ImageRecord:
    """Describe an input image, a uint8 array (H, W, C)."""
    return ImageRecord(role=role, shape=tuple(pixels.shape), sha256=hash_of(pixels.tobytes()).hexdigest())


def file_record(role: str, path: Path, loaded: FileState | None, digests: bool, paths: bool) -> FileRecord:
    """Describe a file.

    Parameters
    ----------
    role, path
        See `FileRecord`.
    loaded : FileState or None
        State of the file when it was loaded.
    digests, paths : bool
        Whether to include digests and the absolute path.

    Warns
    -----
    UserWarning
        If the file has changed since it was loaded, or cannot be read again; the digest is then left out.
    """
    same = loaded is not None and file_state(path) == loaded
    if digests and not same:
        warn(f"{path} has changed since it was loaded, so the record lacks its digest; load the model again")
    try:
        digest = sha256(path) if digests and same else None
        tensors = tensors_sha256(path) if digest and role.startswith("loras[") else None
    except OSError as error:
        warn(f"{path} cannot be read again, so the record lacks its digest: {error}")
        digest = tensors = None
    reference = reference_of(path)
    return FileRecord(
        role=role,
        name=path.name,
        size=loaded.size if loaded else None,
        sha256=digest,
        tensors_sha256=tensors,
        path=str(path) if paths else None,
        reference=None if reference is None else str(reference),
    )
