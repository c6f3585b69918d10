"""A video's files, read back: Pillow for GIF and WebP, PyAV for MP4."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sdcffi import SDError, VideoParams, VideoResult
from sdcffi.images import movies as _video_file
from sdcffi.images.compare import compare

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def result() -> VideoResult:
    """Eight frames in which a square moves over a gradient."""
    frames = []
    for index in range(8):
        frame = np.dstack(np.broadcast_arrays(*np.ogrid[0:96:2, 40:168:2], 90)).astype(np.uint8)
        frame[8:24, 4 * index : 4 * index + 16] = (220, 60, 30)
        frames.append(frame)
    return VideoResult(frames, 12, 1, VideoParams(), (), 0.5)


def least_psnr(frames: list[Pixels], result: VideoResult) -> float:
    return min(compare(one, other).psnr for one, other in zip(frames, result.arrays, strict=True))


def read_animation(path: Path) -> tuple[list[Pixels], list[int]]:
    """Give frames and how long each stands in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as animation:
        for index in range(animation.n_frames):  # type: ignore[attr-defined]
            animation.seek(index)
            frames.append(np.asarray(animation.convert("RGB")))
            durations.append(int(animation.info["duration"]))
    return frames, durations


def test_a_webp_has_the_frames_and_the_rate(result: VideoResult, tmp_path: Path) -> None:
    assert result.save(tmp_path / "a.webp") == [tmp_path / "a.webp"]
    frames, durations = read_animation(tmp_path / "a.webp")
    assert (len(frames), sum(durations)) == (8, round(8 * 1000 / 12))
    assert least_psnr(frames, result) > 28


def test_a_lossless_webp_has_every_pixel(result: VideoResult, tmp_path: Path) -> None:
    result.save(tmp_path / "a.webp", lossless=True)
    assert all(map(np.array_equal, read_animation(tmp_path / "a.webp")[0], result.arrays))


def test_a_gif_has_the_frames_their_colours_and_the_rate(result: VideoResult, tmp_path: Path) -> None:
    result.save(tmp_path / "a.gif")
    frames, durations = read_animation(tmp_path / "a.gif")
    assert (len(frames), durations) == (8, [80, 90, 80, 80, 90, 80, 80, 90])
    assert least_psnr(frames, result) > 30


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_an_mp4_has_the_frames_their_colours_and_the_rate(
    encoder: str, result: VideoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", {encoder})
    result.save(tmp_path / "a.mp4", fps=23.976)
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        assert stream.codec_context.name == {"libx264": "h264"}.get(encoder, encoder)
        assert (stream.frames, stream.pix_fmt, float(stream.average_rate)) == (
            8,
            "yuv420p",
            pytest.approx(23.976, 1e-4),
        )
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 8
    assert least_psnr(frames, result) > 26
    colours = [
        np.mean(frame, (0, 1)) - np.mean(array, (0, 1)) for frame, array in zip(frames, result.arrays, strict=True)
    ]
    assert np.abs(colours).max() < 2


def test_an_mp4_without_pyav_says_what_to_install(
    result: VideoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def absent(name: str, *rest: Any, **keywords: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return found(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SDError, match=r"pip install 'sdcffi\[video\]'"):
        result.save(tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out_{index}.png", "out.png"])
def test_frames_are_written_to_numbered_files_that_sort(name: str, result: VideoResult, tmp_path: Path) -> None:
    many = VideoResult([*result.arrays, *result.arrays], 12, 1, VideoParams(), (), 0)
    paths = many.save(tmp_path / name)
    assert (
        [path.name for path in paths]
        == [f"out_{index:02}.png" for index in range(16)]
        == sorted(path.name for path in tmp_path.iterdir())
    )
    assert all(map(np.array_equal, map(np.asarray, map(Image.open, paths)), many.arrays))


def test_an_index_in_the_name_of_a_webp_means_a_file_for_each_frame(result: VideoResult, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "{index}.webp", lossless=True)
    assert [path.name for path in paths] == [f"{index}.webp" for index in range(8)]
    assert np.array_equal(np.asarray(Image.open(paths[3])), result.arrays[3])


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("a.avi", {}, "does not have the ending of an image file"),
        ("a", {}, "does not have the ending of an image file"),
        ("no/a.gif", {}, "no does not exist"),
        ("a.gif", {"fps": 60}, r"fps must be from 0 to 50 \(a GIF counts"),
        ("a.mp4", {"fps": 0}, "fps must be above 0"),
        ("a.gif", {"lossless": True}, r"lossless=True is for \.webp, not for \.gif"),
    ],
)
def test_a_file_that_cannot_be_is_refused(
    name: str, keywords: dict[str, Any], message: str, result: VideoResult, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        result.save(tmp_path / name, **keywords)
    assert not list(tmp_path.iterdir())


def test_an_mp4_of_odd_size_is_refused(tmp_path: Path) -> None:
    odd = VideoResult([np.zeros((5, 4, 3), np.uint8)], 12, 1, VideoParams(), (), 0)
    with pytest.raises(ValueError, match="even width and height, not 4x5"):
        odd.save(tmp_path / "a.mp4")


def test_a_file_that_fails_leaves_the_old_one(
    result: VideoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_frames: Any, path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    (tmp_path / "a.gif").write_bytes(b"old")
    monkeypatch.setitem(_video_file.WRITERS, ".gif", fail)
    with pytest.raises(OSError, match="the disk is full"):
        result.save(tmp_path / "a.gif")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
