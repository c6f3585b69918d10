"""What a call that makes a video returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ._files import replacing
from .images.convert import to_pillow
from .images.movies import WRITERS, check_rate
from .params.lora import LoraReport
from .result import Recorded, check_picture_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ._records.origin import Origin
    from .params.struct import StrPath
    from .params.video import VideoParams

__all__ = ["VideoResult", "check_video_path"]


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
            picture_format = check_picture_path(path)
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
        check_picture_path(path)
        return
    check_rate(fps, suffix)
    if not path.parent.is_dir():
        raise ValueError(f"directory {path.parent} does not exist")
