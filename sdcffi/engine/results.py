"""What calls return: images or frames, with the parameters, model and engine that made them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .._files import check_output, expanded, replacing
from .._numbers import check_integer
from .._public import public
from .._quoting import shown
from ..images.convert import to_pillow
from ..images.movies import WRITERS, check_mp4, check_rate
from ..params.lora import LoraReport
from .streams import (
    ShownInNotebooks,
    encoded,
    format_of,
    image_format,
    image_tag,
    refuse_format,
    writable_formats,
    write,
)

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


__all__ = ["Recorded", "Result", "VideoResult", "check_image_path", "check_video_path", "image_paths", "save_sheet"]

# Endings of files that are much smaller than their pixels: as a rule an eighth, or less.
_LOSSY = frozenset({".avif", ".gif", ".jpeg", ".jpg", ".mp4", ".webp"})


class Recorded(ShownInNotebooks):
    """The part of `Result` and `VideoResult` that records how they were made."""

    arrays: list[NDArray[np.uint8]]
    parameters: ImageParams | VideoParams
    loras: tuple[LoraReport, ...]
    origin: Origin | None

    def _seed_of(self, index: int) -> int:
        """Return the seed of one image or frame; subclasses implement it."""
        raise NotImplementedError

    def record(self, index: int = 0, *, digests: bool = True, paths: bool = False) -> Record:
        """Return the record of an image: everything needed to generate it again.

        Parameters
        ----------
        index : int
            Number of the image in the batch, or of the frame in the video, from 0.
        digests : bool
            True includes the sha256 of the model's files. The first time this reads each file, which takes seconds for
            gigabytes; digests are kept in the user's cache directory. A file that has changed since it was loaded gets
            none, with a warning.
        paths : bool
            True includes the absolute paths of files. False includes only their names.

        Returns
        -------
        Record
            Plain data, without the pixels.

        Raises
        ------
        ValueError
            If there is no image with this index, or the result has no `origin`.
        """
        from .._records.record import record_of  # imported late: the child imports this module and must start fast

        if not 0 <= index < len(self.arrays):
            raise ValueError(f"index must be from 0 to {len(self.arrays) - 1}, not {shown(index)}")
        if self.origin is None:
            raise ValueError(
                "this result has no record, because its origin is None; use the result that an Engine returned"
            )
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

    def _pillow_images(self) -> list[Image.Image]:
        """Copy the arrays into Pillow images; their `info` has the texts that files get, without digests."""
        images = [to_pillow(array) for array in self.arrays]
        if self.origin is not None and images:
            record = self.record(0, digests=False)
            for index, image in enumerate(images):
                its = replace(record, index=index, seed=self._seed_of(index))
                image.info.update(parameters=its.infotext(), sdcffi=its.to_json())
        return images

    def _texts(self, index: int, image_format: str, digests: bool, paths: bool) -> dict[str, Any]:
        """Return the keyword arguments with which Pillow writes the record into a file of this format."""
        from ..images.texts import KEEPS_TEXTS, save_arguments

        if self.origin is None or image_format not in KEEPS_TEXTS:
            return {}
        record = self.record(index, digests=digests, paths=paths)
        return save_arguments(image_format, record.infotext(), record.to_json())


@public
@dataclass(frozen=True, eq=False, repr=False)
class Result(Recorded):
    """Images of one call, and how they were made. A notebook shows the images.

    Attributes
    ----------
    arrays : list of uint8 arrays (H, W, 3)
        The images: views of native memory, not copies. The memory of an image lives as long as a view of it, also after
        the engine was closed.
    seeds : list of int
        Seed of each image.
    parameters : ImageParams
        Parameters of the call, with the seed that was used.
    loras : tuple of LoraReport
        How each adapter was applied.
    seconds : float
        Wall time of the call, in seconds.
    origin : Origin, optional
        Model, engine and device, for `record`. None: the result has no record.
    cached_steps : tuple of tuple of int
        Steps that were not computed, counted from 1, because a step cache (`Cache`) reused earlier results: one tuple
        for each pass of the sampler, in the order of the images, and with `Hires` all images again.
    """

    arrays: list[NDArray[np.uint8]]
    seeds: list[int]
    parameters: ImageParams
    loras: tuple[LoraReport, ...]
    seconds: float
    origin: Origin | None = field(default=None, repr=False)
    cached_steps: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def images(self) -> list[Image.Image]:
        """Pillow images, copied from `arrays` at the first access.

        Their `info` has ``"parameters"`` and ``"sdcffi"``, the texts that `save` writes, without digests of the model's
        files. Pillow does not write them by itself: save with `save` or `to_bytes`.
        """
        return self._pillow_images()

    def _seed_of(self, index: int) -> int:
        return self.seeds[index]

    def _shown(self) -> list[Image.Image]:
        return self.images

    def __repr__(self) -> str:
        count, (height, width) = len(self.arrays), self.arrays[0].shape[:2]
        seeds = f"seed {self.seeds[0]}" if count == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        return f"<Result: {count} image{'s'[: count > 1]} of {width}x{height}, {seeds}, {self.seconds:.1f} seconds>"

    def to_bytes(
        self,
        format: str = "PNG",
        index: int = 0,
        *,
        metadata: bool = True,
        digests: bool = True,
        paths: bool = False,
    ) -> bytes:
        """Return one image as the bytes of a file, with what `save` writes.

        Parameters
        ----------
        format : str
            Pillow's name of the format, or an ending: ``"PNG"``, ``"JPEG"``, ``"webp"``, ...
        index : int
            Number of the image in the batch, from 0.
        metadata, digests, paths : bool
            As in `save`.

        Returns
        -------
        bytes

        Raises
        ------
        TypeError, ValueError
            If there is no image with this index, or no such format.
        """
        name = image_format(format)
        if index is None:
            raise TypeError("index must be an integer, not None")
        check_integer("index", index, 0, len(self.arrays) - 1)
        texts = self._texts(index, name, digests, paths) if metadata else {}
        return encoded(to_pillow(self.arrays[index]), name, texts)

    def save(
        self,
        pattern: StrPath | IO[bytes],
        *,
        format: str | None = None,
        metadata: bool = True,
        digests: bool = True,
        paths: bool = False,
    ) -> list[Path]:
        """Save the images. The file's ending selects the format (PNG, JPEG, WebP, ...).

        Each file is written under a temporary name and then moved, so an existing file is replaced completely or not at
        all.

        Parameters
        ----------
        pattern : path or open file
            File to write. ``{index}`` and ``{seed}`` in its name are replaced. Without them, several images named
            ``out.png`` become ``out_0.png``, ``out_1.png``, ... A file that is open for bytes, or an `io.BytesIO`,
            takes one image; `to_bytes` returns any of several.
        format : str, optional
            Format for an open file, as in `to_bytes`. None: by the ending of its name, or PNG if it has none.
        metadata : bool
            True writes metadata into PNG, JPEG and WebP files: parameters as AUTOMATIC1111 writes them, which image
            viewers show, and the record, which `Record.from_file` reads. Other formats hold neither. False writes only
            pixels.
        digests, paths : bool
            What the record includes, see `record`.

        Returns
        -------
        list of Path
            The files, in the order of the images; empty for an open file.

        Raises
        ------
        ValueError
            If the ending is not that of an image format, the directory does not exist, the path is a directory, or an
            open file should take several images.
        OutputError
            If a file cannot be written. The result still has its images: save it to another place.
        """
        if not isinstance(pattern, (str, os.PathLike)):
            name = format_of(pattern, format, "PNG")
            if len(self.arrays) > 1:
                raise ValueError(
                    f"an open file takes one image, and the result has {len(self.arrays)}: write to_bytes(index=...)"
                    " of each, or pass a path"
                )
            write(pattern, self.to_bytes(name, metadata=metadata, digests=digests, paths=paths))
            return []
        refuse_format(format, pattern)
        targets = image_paths(expanded(pattern), len(self.arrays), self.seeds)
        for index, target in enumerate(targets):
            self.save_one(index, target, metadata=metadata, digests=digests, paths=paths)
        return targets

    def save_one(
        self, index: int, path: StrPath, *, metadata: bool = True, digests: bool = True, paths: bool = False
    ) -> Path:
        """Save one image of the batch under exactly this path.

        Parameters
        ----------
        index : int
            Number of the image in the batch, from 0.
        path : path
            File to write.
        metadata, digests, paths : bool
            As in `save`.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError, OutputError
            As in `save`.
        """
        target = expanded(path)
        image_format = check_image_path(target)
        texts = self._texts(index, image_format, digests, paths) if metadata else {}
        with replacing(target) as temporary:
            to_pillow(self.arrays[index]).save(temporary, format=image_format, **texts)
        return target


def image_paths(pattern: Path, count: int, seeds: Sequence[int] | None = None) -> list[Path]:
    """Return the files that the images of a call are saved to; see `Result.save`.

    Parameters
    ----------
    pattern : Path
    count : int
        Number of images.
    seeds : sequence of int, optional
        The seed of each. None: not known yet, and ``{seed}`` stays.
    """
    paths = []
    for index in range(count):
        name = pattern.name.replace("{index}", str(index))
        if seeds is not None:
            name = name.replace("{seed}", str(seeds[index]))
        if name == pattern.name and count > 1 and "{seed}" not in name:
            name = f"{pattern.stem}_{index}{pattern.suffix}"
        paths.append(pattern.with_name(name))
    return paths


def check_image_path(path: Path, pixels: int = 0) -> str:
    """Return the image format that a path's ending selects, by Pillow's name.

    Parameters
    ----------
    path : Path
    pixels : int
        Number of pixels for which there must be space.

    Raises
    ------
    ValueError
        If the ending selects no format that can be written, the directory does not exist, or the path is that of
        something other than a regular file.
    OutputError
        If the file cannot be written, or there is too little space.
    """
    name = _image_format(path)
    check_output(path, _size(path, pixels))
    return name


def save_sheet(sheet: Image.Image, path: Path, **_changes: bool) -> list[Path]:
    """Write a contact sheet, which has no record, in the format that the path's ending selects; return the file."""
    image_format = check_image_path(path)
    with replacing(path) as temporary:
        sheet.save(temporary, format=image_format)
    return [path]


def _image_format(path: Path) -> str:
    formats = writable_formats()
    name = formats.get(path.suffix.lower())
    if name is None and not path.is_dir():
        raise ValueError(f"{path} does not have the ending of an image file; use one of {', '.join(sorted(formats))}")
    return name or ""


def _size(path: Path, pixels: int) -> int:
    return pixels * 3 // (8 if path.suffix.lower() in _LOSSY else 1)


@public
@dataclass(frozen=True, eq=False, repr=False)
class VideoResult(Recorded):
    """Frames of one call, and how they were made. A notebook shows the video.

    Attributes
    ----------
    arrays : list of uint8 arrays (H, W, 3)
        The frames: views of native memory, not copies. The memory of a frame lives as long as a view of it, also after
        the engine was closed.
    fps : float
        Frame rate of the saved file, in frames per second.
    seed : int
        Seed of the whole video.
    parameters : VideoParams
        Parameters of the call, with the seed that was used.
    loras : tuple of LoraReport
        How each adapter was applied.
    seconds : float
        Wall time of the call, in seconds.
    origin : Origin, optional
        Model, engine and device, for `record`. None: the result has no record.
    cached_steps : tuple of tuple of int
        Steps that were not computed, counted from 1, because a step cache (`Cache`) reused earlier results: one tuple
        for each pass of the sampler, in the order of the models: for Wan 2.2 high noise, then low.
    """

    arrays: list[NDArray[np.uint8]]
    fps: float
    seed: int
    parameters: VideoParams
    loras: tuple[LoraReport, ...]
    seconds: float
    origin: Origin | None = field(default=None, repr=False)
    cached_steps: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def frames(self) -> list[Image.Image]:
        """Pillow images, copied from `arrays` at the first access. Their `info` is as in `Result.images`."""
        return self._pillow_images()

    def _seed_of(self, index: int) -> int:
        return self.seed

    def __repr__(self) -> str:
        count, (height, width) = len(self.arrays), self.arrays[0].shape[:2]
        return (
            f"<VideoResult: {count} frame{'s'[: count > 1]} of {width}x{height}, {self.fps:g} per second,"
            f" seed {self.seed}, {self.seconds:.1f} seconds>"
        )

    def _repr_png_(self) -> None:
        return None

    def _repr_html_(self) -> str:
        return image_tag(self.to_bytes("webp", metadata=False), "webp", repr(self))

    def to_bytes(
        self,
        format: str = "WEBP",
        *,
        fps: float | None = None,
        lossless: bool = False,
        metadata: bool = True,
        digests: bool = True,
        paths: bool = False,
    ) -> bytes:
        """Return the video as the bytes of one file, with what `save` writes.

        Parameters
        ----------
        format : str
            ``"WEBP"``, ``"GIF"`` or ``"MP4"``.
        fps, lossless, metadata, digests, paths
            As in `save`.

        Returns
        -------
        bytes

        Raises
        ------
        TypeError, ValueError, SDError
            If there is no such format, or as in `save`.
        """
        suffix = f".{format.lower().removeprefix('.')}" if isinstance(format, str) else ""
        if suffix not in WRITERS:
            legal = ", ".join(ending.removeprefix(".") for ending in WRITERS)
            raise ValueError(f"format must be one of {legal}, not {format!r}; single images are in frames")
        with tempfile.TemporaryDirectory() as folder:
            written = self.save(
                Path(folder) / f"video{suffix}",
                fps=fps,
                lossless=lossless,
                metadata=metadata,
                digests=digests,
                paths=paths,
            )
            return written[0].read_bytes()

    def save(
        self,
        path: StrPath | IO[bytes],
        *,
        format: str | None = None,
        fps: float | None = None,
        lossless: bool = False,
        metadata: bool = True,
        digests: bool = True,
        paths: bool = False,
    ) -> list[Path]:
        """Save the video as one file, or each frame as a numbered file.

        Each file is written under a temporary name and then moved, so an existing file is replaced completely or not at
        all.

        Parameters
        ----------
        path : path or open file
            ``.gif``, ``.webp`` (both written by Pillow) or ``.mp4`` (H.264, or MPEG-4 if PyAV lacks that encoder) for
            one file. The ending of another image format, or ``{index}`` in the name, for one file per frame:
            ``out_{index}.png`` and ``out.png`` become ``out_000.png``, ``out_001.png``, ... All numbers have as many
            digits as the last one, so the names sort. A file that is open for bytes, or an `io.BytesIO`, takes the
            video as one file.
        format : str, optional
            Format for an open file, as in `to_bytes`. None: by the ending of its name, or WebP if it has none.
        fps : float, optional
            Frame rate, in frames per second, above 0; at most 50 for a GIF, which counts hundredths of a second. None:
            the result's own.
        lossless : bool
            For WebP: True keeps every pixel, False compresses with quality 90 of 100.
        metadata, digests, paths : bool
            Metadata in the files, as in `Result.save`: in WebP, and in frames as PNG, JPEG or WebP. GIF and MP4 have
            none.

        Returns
        -------
        list of Path
            The file, or the files in the order of the frames; empty for an open file.

        Raises
        ------
        ValueError
            If the ending is not that of a format that can be written, the directory does not exist, a number is outside
            its range, or width or height of an MP4 is odd.
        OutputError
            If a file cannot be written. The result still has its frames: save it to another place.
        SDError
            If the file is an MP4 and PyAV is not installed.
        """
        if not isinstance(path, (str, os.PathLike)):
            name = format_of(path, format, "WEBP")
            keywords = {"metadata": metadata, "digests": digests, "paths": paths}
            write(path, self.to_bytes(name, fps=fps, lossless=lossless, **keywords))
            return []
        refuse_format(format, path)
        target = expanded(path)
        suffix = target.suffix.lower()
        if suffix not in WRITERS or "{index}" in target.name:
            kept = {"digests": digests, "paths": paths} if metadata else None
            return self._save_frames(target, lossless, kept)
        rate = self.fps if fps is None else fps
        check_video_path(target, rate, lossless=lossless)
        texts = self._texts(0, "WEBP", digests, paths) if metadata and suffix == ".webp" else {}
        with replacing(target) as temporary:
            WRITERS[suffix](self.arrays, temporary, rate, {**texts, **({"lossless": True} if lossless else {})})
        return [target]

    def _save_frames(self, pattern: Path, lossless: bool, kept: dict[str, bool] | None) -> list[Path]:
        digits = len(str(len(self.arrays) - 1))
        name = pattern.name if "{index}" in pattern.name else f"{pattern.stem}_{{index}}{pattern.suffix}"
        paths = [pattern.with_name(name.replace("{index}", f"{index:0{digits}}")) for index in range(len(self.arrays))]
        for index, path in enumerate(paths):
            image_format = check_image_path(path)
            options = {} if kept is None else self._texts(index, image_format, **kept)
            with replacing(path) as temporary:
                self.frames[index].save(
                    temporary, format=image_format, **options, **({"lossless": True} if lossless else {})
                )
        return paths


def check_video_path(path: Path, fps: float, *, lossless: bool = False, pixels: int = 0) -> None:
    """Refuse a path that `VideoResult.save` could not write to.

    Parameters
    ----------
    path : Path
    fps : float
    lossless : bool
        See `VideoResult.save`.
    pixels : int
        Number of pixels of all frames, for which there must be space.

    Raises
    ------
    TypeError, ValueError
        As `VideoResult.save` raises.
    OutputError
        If the file cannot be written, or there is too little space.
    SDError
        If the file is an MP4 and PyAV is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS or "{index}" in path.name:
        check_image_path(path, pixels)
        return
    if lossless and suffix != ".webp":
        raise ValueError(f"lossless=True is for .webp, not for {suffix}; leave it out, or save as .webp")
    check_rate(fps, suffix)
    if suffix == ".mp4":
        check_mp4()
    check_output(path, _size(path, 0 if lossless else pixels))
