"""What a call returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ._files import replacing
from .images import to_pillow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from .params import ImageParams, StrPath

__all__ = ["LoraReport", "Result", "check_picture_path"]


@dataclass(frozen=True)
class LoraReport:
    """What became of one adapter in a call, as the engine counted it.

    Attributes
    ----------
    path : str
        The adapter's file.
    multiplier : float
        Its strength.
    is_high_noise : bool
        Whether it was for the high-noise model of Wan 2.2.
    applied, total : int
        Tensors of the file that took part, and all of them.
    skipped : tuple of str
        Names of the others, as the engine calls them.
    mode : str
        ``"immediately"`` or ``"at_runtime"``.
    types : tuple of str
        Weight types that it met: ``"f16"``, ``"q8_0"``, ...
    seconds : float
        Time to read and attach or merge it; of the call that did so.
    misfits : tuple of str
        ``"model tensor: reason"`` for each tensor whose shape does not fit the model.
    """

    path: str
    multiplier: float
    is_high_noise: bool
    applied: int
    total: int
    skipped: tuple[str, ...]
    mode: str
    types: tuple[str, ...]
    seconds: float
    misfits: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: applied {self.applied} of {self.total} tensors, mode {self.mode}"


@dataclass(frozen=True)
class Result:
    """Pictures of one call, and what made them.

    Attributes
    ----------
    arrays : list of uint8 arrays (H, W, 3)
        Views on the engine's own memory, not copies; each picture's memory lives as long as a view on it, also after
        the engine was closed.
    seeds : list of int
        Seed of each picture.
    parameters : ImageParams
        What was asked for, the seed resolved.
    loras : tuple of LoraReport
        What became of each adapter.
    seconds : float
        Wall time of the call.
    """

    arrays: list[NDArray[np.uint8]]
    seeds: list[int]
    parameters: ImageParams
    loras: tuple[LoraReport, ...]
    seconds: float

    @cached_property
    def images(self) -> list[Image.Image]:
        """Pillow images, copied from `arrays` at the first access."""
        return [to_pillow(array) for array in self.arrays]

    def save(self, pattern: StrPath) -> list[Path]:
        """Write the pictures; the file's ending chooses the format (PNG, JPEG, WebP, ...).

        Parameters
        ----------
        pattern : path
            With several pictures, ``{index}`` and ``{seed}`` in it are replaced; without them, ``out.png`` becomes
            ``out_0.png``, ``out_1.png``, ... Files are written to a temporary name and moved, so that an existing
            file is replaced whole or not at all.

        Returns
        -------
        list of Path
            The files, in the order of the pictures.

        Raises
        ------
        ValueError
            If the ending is no picture format, or the directory does not exist.
        """
        paths = [self._path(Path(pattern).expanduser(), index) for index in range(len(self.arrays))]
        for path, image in zip(paths, self.images, strict=True):
            picture_format = check_picture_path(path)
            with replacing(path) as temporary:
                image.save(temporary, format=picture_format)
        return paths

    def _path(self, pattern: Path, index: int) -> Path:
        name = pattern.name.replace("{index}", str(index)).replace("{seed}", str(self.seeds[index]))
        if name == pattern.name and len(self.arrays) > 1:
            name = f"{pattern.stem}_{index}{pattern.suffix}"
        return pattern.with_name(name)


def check_picture_path(path: Path) -> str:
    """Give the picture format that a path's ending stands for.

    Raises
    ------
    ValueError
        If it stands for none that can be written, or the directory does not exist.
    """
    from PIL import Image

    formats = Image.registered_extensions()
    name = formats.get(path.suffix.lower(), "")
    if name not in Image.SAVE:
        legal = ", ".join(ending for ending, name in sorted(formats.items()) if name in Image.SAVE)
        raise ValueError(f"{path} does not end like a picture; legal endings: {legal}")
    if not path.parent.is_dir():
        raise ValueError(f"directory {path.parent} does not exist")
    return name
