"""What calls return: images or frames, and what made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import check_directory, replacing
from .._public import public
from ..images.convert import to_pillow
from ..images.movies import WRITERS, check_rate
from ..params.lora import LoraReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from .._records.origin import Origin
    from .._records.record import Record
    from ..params.image import ImageParams
    from ..params.lora import LoraReport
    from ..params.struct import StrPath
    from ..params.video import VideoParams


__all__ = ["Recorded", "Result", "VideoResult", "check_image_path", "check_video_path"]


class Recorded:
    """The part of `Result` and `VideoResult` that tells what made them."""

    arrays: list[NDArray[np.uint8]]
    parameters: ImageParams | VideoParams
    loras: tuple[LoraReport, ...]
    origin: Origin | None

    def _seed_of(self, index: int) -> int:
        """Give the seed of one picture or frame; each kind of result has its own."""
        raise NotImplementedError

    def record(self, index: int = 0, *, digests: bool = True, paths: bool = False) -> Record:
        """Tell everything that made a picture.

        Parameters
        ----------
        index : int
            Which one of the batch, or frame of the video.
        digests : bool
            Whether to take the sha256 of the model's files, which reads them once: seconds for gigabytes. Digests are
            kept in the user's cache directory. A file that has changed since it was loaded gets none, with a warning.
        paths : bool
            Whether to tell the absolute paths of files too, not only their names.

        Raises
        ------
        ValueError
            If there is no such picture, or this result was not drawn by an `Engine`.
        """
        from .._records.record import record_of  # not in the child, which knows results too and must start soon

        if not 0 <= index < len(self.arrays):
            raise ValueError(f"index must be from 0 to {len(self.arrays) - 1}, not {index!r}")
        if self.origin is None:
            raise ValueError("this result does not know the engine that drew it")
        return record_of(
            self.origin,
            self.parameters,
            seed=self._seed_of(index),
            index=index,
            shape=self.arrays[index].shape,
            lora_modes=[report.mode for report in self.loras],
            digests=digests,
            paths=paths,
        )

    def _texts(self, index: int, picture_format: str, digests: bool, paths: bool) -> dict[str, Any]:
        """Give the keyword arguments with which Pillow writes the record into a file of this format."""
        from ..images.texts import KEEPS_TEXTS, save_arguments

        if self.origin is None or picture_format not in KEEPS_TEXTS:
            return {}
        record = self.record(index, digests=digests, paths=paths)
        return save_arguments(picture_format, record.infotext(), record.to_json())


@public
@dataclass(frozen=True)
class Result(Recorded):
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
    origin : Origin, optional
        Model, engine and device, for `record`.
    """

    arrays: list[NDArray[np.uint8]]
    seeds: list[int]
    parameters: ImageParams
    loras: tuple[LoraReport, ...]
    seconds: float
    origin: Origin | None = field(default=None, repr=False)

    @cached_property
    def images(self) -> list[Image.Image]:
        """Pillow images, copied from `arrays` at the first access."""
        return [to_pillow(array) for array in self.arrays]

    def _seed_of(self, index: int) -> int:
        return self.seeds[index]

    def save(self, pattern: StrPath, *, metadata: bool = True, digests: bool = True, paths: bool = False) -> list[Path]:
        """Write the pictures; the file's ending chooses the format (PNG, JPEG, WebP, ...).

        Parameters
        ----------
        pattern : path
            With several pictures, ``{index}`` and ``{seed}`` in it are replaced; without them, ``out.png`` becomes
            ``out_0.png``, ``out_1.png``, ... Files are written to a temporary name and moved, so that an existing
            file is replaced whole or not at all.
        metadata : bool
            Whether PNG, JPEG and WebP files tell what made them: AUTOMATIC1111's parameters, which viewers show, and
            the record that `Record.from_file` reads. Other formats hold neither. False writes pixels only.
        digests, paths : bool
            See `record`.

        Returns
        -------
        list of Path
            The files, in the order of the pictures.

        Raises
        ------
        ValueError
            If the ending is no picture format, or the directory does not exist.
        """
        targets = [self._path(Path(pattern).expanduser(), index) for index in range(len(self.arrays))]
        for index, target in enumerate(targets):
            self.save_one(index, target, metadata=metadata, digests=digests, paths=paths)
        return targets

    def save_one(
        self, index: int, path: StrPath, *, metadata: bool = True, digests: bool = True, paths: bool = False
    ) -> Path:
        """Write one picture of the batch, from 0, under exactly this path; else as `save`."""
        target = Path(path).expanduser()
        picture_format = check_image_path(target)
        texts = self._texts(index, picture_format, digests, paths) if metadata else {}
        with replacing(target) as temporary:
            self.images[index].save(temporary, format=picture_format, **texts)
        return target

    def _path(self, pattern: Path, index: int) -> Path:
        name = pattern.name.replace("{index}", str(index)).replace("{seed}", str(self.seeds[index]))
        if name == pattern.name and len(self.arrays) > 1:
            name = f"{pattern.stem}_{index}{pattern.suffix}"
        return pattern.with_name(name)


def check_image_path(path: Path) -> str:
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
    check_directory(path)
    return name


@public
@dataclass(frozen=True)
class VideoResult(Recorded):
    """Frames of one call, and what made them.

    Attributes
    ----------
    arrays : list of uint8 arrays (H, W, 3)
        The frames: views on the engine's own memory, not copies; each frame's memory lives as long as a view on it,
        also after the engine was closed.
    fps : float
        Frames a second at which it is saved.
    seed : int
        Seed of the whole video.
    parameters : VideoParams
        What was asked for, the seed resolved.
    loras : tuple of LoraReport
        What became of each adapter.
    seconds : float
        Wall time of the call.
    origin : Origin, optional
        Model, engine and device, for `record`.
    """

    arrays: list[NDArray[np.uint8]]
    fps: float
    seed: int
    parameters: VideoParams
    loras: tuple[LoraReport, ...]
    seconds: float
    origin: Origin | None = field(default=None, repr=False)

    @cached_property
    def frames(self) -> list[Image.Image]:
        """Pillow images, copied from `arrays` at the first access."""
        return [to_pillow(array) for array in self.arrays]

    def _seed_of(self, index: int) -> int:
        return self.seed

    def save(
        self,
        path: StrPath,
        *,
        fps: float | None = None,
        lossless: bool = False,
        metadata: bool = True,
        digests: bool = True,
        paths: bool = False,
    ) -> list[Path]:
        """Write a moving picture, or a numbered file for each frame.

        Parameters
        ----------
        path : path
            ``.gif``, ``.webp`` (both by Pillow) or ``.mp4`` (H.264, or MPEG-4 where PyAV lacks its encoder) for one
            file; any other ending of pictures, or a name with ``{index}``, for one a frame: ``out_{index}.png`` and
            ``out.png`` become ``out_000.png``, ``out_001.png``, ..., with as many digits as the last one has, so that
            they sort. Files are written to a temporary name and moved.
        fps : float, optional
            Frames a second, in place of the result's own: above 0, in a GIF, which counts hundredths of a second, at
            most 50.
        lossless : bool
            Of a WebP: every pixel as it is, in place of a quality of 90 in 100.
        metadata, digests, paths : bool
            Whether files tell what made them, as of `Result.save`: WebP, and frames as PNG, JPEG or WebP. GIF and MP4
            do not.

        Returns
        -------
        list of Path
            The file, or the files in the order of the frames.

        Raises
        ------
        ValueError
            If the ending is no format that can be written, the directory does not exist, a number is outside its
            range, or the size of an MP4 is odd.
        SDError
            If an MP4 is asked for and PyAV is not installed.
        """
        target = Path(path).expanduser()
        suffix = target.suffix.lower()
        if suffix not in WRITERS or "{index}" in target.name:
            kept = {"digests": digests, "paths": paths} if metadata else None
            return self._save_frames(target, lossless, kept)
        if lossless and suffix != ".webp":
            raise ValueError(f"lossless=True is for .webp, not for {suffix}")
        rate = self.fps if fps is None else fps
        check_video_path(target, rate)
        texts = self._texts(0, "WEBP", digests, paths) if metadata and suffix == ".webp" else {}
        with replacing(target) as temporary:
            WRITERS[suffix](self.arrays, temporary, rate, {**texts, **({"lossless": True} if lossless else {})})
        return [target]

    def _save_frames(self, pattern: Path, lossless: bool, kept: dict[str, bool] | None) -> list[Path]:
        digits = len(str(len(self.arrays) - 1))
        name = pattern.name if "{index}" in pattern.name else f"{pattern.stem}_{{index}}{pattern.suffix}"
        paths = [pattern.with_name(name.replace("{index}", f"{index:0{digits}}")) for index in range(len(self.arrays))]
        for index, path in enumerate(paths):
            picture_format = check_image_path(path)
            options = {} if kept is None else self._texts(index, picture_format, **kept)
            with replacing(path) as temporary:
                self.frames[index].save(
                    temporary, format=picture_format, **options, **({"lossless": True} if lossless else {})
                )
        return paths


def check_video_path(path: Path, fps: float) -> None:
    """Refuse a path that `VideoResult.save` could not write to.

    Raises
    ------
    TypeError, ValueError
        If the ending is no format that can be written, the directory does not exist, or the rate is none for it.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS or "{index}" in path.name:
        check_image_path(path)
        return
    check_rate(fps, suffix)
    check_directory(path)
