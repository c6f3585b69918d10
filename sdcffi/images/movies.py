"""Write frames as a video file: GIF and WebP by Pillow, MP4 by PyAV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._numbers import check_number
from ..errors import SDError
from .convert import to_pillow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frames = Sequence[NDArray[np.uint8]]
    Options = Mapping[str, Any]  # of Pillow's WebP writer

__all__ = ["WRITERS", "check_mp4", "check_rate"]

_MOST_FPS = 1000
_MOST_GIF_FPS = 50  # players show a frame of less than 2 hundredths of a second for 10 of them
_WEBP_QUALITY = 90
_CRF = 17  # x264's quality, from 0 (lossless) to 51; at 17 losses are hardly visible
_MPEG4_QUANTISER = 2  # upper limit; 1 is best, 31 is worst
_BT709 = 1  # code of the matrix, primaries and transfer that players assume (ITU-T H.273)


def check_rate(fps: float, suffix: str = "") -> None:
    """Refuse a frame rate that is out of range, or that the kind of file cannot hold.

    Parameters
    ----------
    fps : float
        Frames per second, above 0, at most 1000; at most 50 for a GIF.
    suffix : str, optional
        Ending of the file, such as ``".gif"``.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is out of range.
    """
    if fps is None:
        raise TypeError("fps must be a number, not None")
    check_number("fps", fps, 0, _MOST_FPS)
    if fps == 0:
        raise ValueError("fps must be above 0, not 0")
    if suffix == ".gif":
        check_number("fps", fps, 0, _MOST_GIF_FPS, "a GIF counts time in hundredths of a second")


def check_mp4() -> None:
    """Refuse MP4 files where PyAV is missing.

    Raises
    ------
    SDError
        If it cannot be imported.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise SDError("PyAV, which writes MP4 files, is not installed; run: pip install 'sdcffi[video]'") from error


def _durations(count: int, fps: float, unit: int) -> list[int]:
    """Return the duration of each frame in milliseconds: multiples of `unit` that add up without drift."""
    ends = [round(index * 1000 / fps / unit) * unit for index in range(count + 1)]
    return [end - start for start, end in pairwise(ends)]


def _write_gif(frames: Frames, path: Path, fps: float, _options: Options) -> None:
    from PIL import Image

    # Each frame has a palette of its own; Pillow's default is one palette of 216 fixed colours.
    coloured = [to_pillow(frame).quantize(256, Image.Quantize.MEDIANCUT) for frame in frames]
    durations = _durations(len(frames), fps, 10)
    coloured[0].save(path, format="GIF", save_all=True, append_images=coloured[1:], duration=durations, loop=0)


def _write_webp(frames: Frames, path: Path, fps: float, options: Options) -> None:
    images = [to_pillow(frame) for frame in frames]
    how = {"quality": _WEBP_QUALITY, **options}
    durations = _durations(len(frames), fps, 1)
    images[0].save(path, format="WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, **how)


def _write_mp4(frames: Frames, path: Path, fps: float, _options: Options) -> None:
    check_mp4()
    import av

    height, width = frames[0].shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"an MP4 must have an even width and height, not {width}x{height}; save as .webp instead")
    has_x264 = "libx264" in av.codecs_available
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": str(_CRF)} if has_x264 else {"qmax": str(_MPEG4_QUANTISER)}
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264" if has_x264 else "mpeg4", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = stream.codec_context.color_primaries = _BT709
        stream.codec_context.color_trc = _BT709
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


WRITERS: dict[str, Callable[[Frames, Path, float, Options], None]] = {
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".mp4": _write_mp4,
}
