"""Saving results: legal formats, the names of several files, and errors after which the result can be saved again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdcffi import ImageParams, OutputError, Result, SDError, UpscaleResult, VideoParams, VideoResult
from sdcffi.engine.results import check_image_path, check_video_path, image_paths

PIXELS = np.random.default_rng(1).integers(0, 256, (24, 520, 3), np.uint8)
IMAGE = Result([PIXELS], [5], ImageParams(), (), 0.0)
VIDEO = VideoResult([PIXELS, PIXELS], 16, 5, VideoParams(), (), 0.0)
ENLARGED = UpscaleResult(PIXELS, 2, 0.0)


@pytest.mark.parametrize("ending", ["png", "JPG", "webp", "bmp", "tiff", "tga", "ppm", "gif"])
def test_a_legal_format_keeps_the_size(ending: str, tmp_path: Path) -> None:
    (path,) = IMAGE.save(tmp_path / f"a.{ending}")
    with Image.open(path) as image:
        assert image.size == (520, 24)


@pytest.mark.parametrize("ending", ["ico", "icns", "pdf", "eps", "xbm", "palm", "h5", "wmf", "mpo", "im", "", "txt"])
def test_other_formats_are_refused(ending: str, tmp_path: Path) -> None:
    """Icons are made small, pages and stubs of Pillow are no images that anybody could read again."""
    for save in (IMAGE.save, VIDEO.save, ENLARGED.save):
        with pytest.raises(ValueError, match=r"does not have the ending of an image file; use one of .*\.png"):
            save(tmp_path / f"a.{ending}")  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_could_not_be_saved_can_be_saved_elsewhere(tmp_path: Path) -> None:
    for save in (IMAGE.save, VIDEO.save, ENLARGED.save):
        with pytest.raises(OutputError, match=r"/sys/a.* cannot be written"):
            save("/sys/a.png")  # type: ignore[operator]
        save(tmp_path / "a.png")  # type: ignore[operator]
    with pytest.raises(OutputError, match=r"/sys/a\.webp cannot be written"):
        VIDEO.save("/sys/a.webp")


def test_space_is_reserved_for_all_pixels_or_an_eighth_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr("sdcffi.engine.results.check_output", lambda _, size: sizes.append(size))
    check_image_path(tmp_path / "a.png", 1000)
    check_image_path(tmp_path / "a.jpeg", 1000)
    check_video_path(tmp_path / "a.png", 16, pixels=1000)
    check_video_path(tmp_path / "a.webp", 16, pixels=1000)
    assert sizes == [3000, 375, 3000, 375]


def test_what_a_video_file_lacks_is_found_before_it_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"lossless=True is for \.webp, not for \.gif"):
        check_video_path(tmp_path / "a.gif", 16, lossless=True)
    with pytest.raises(ValueError, match="is a directory"):
        check_video_path(tmp_path, 16)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SDError, match="PyAV, which writes MP4 files, is not installed"):
        check_video_path(tmp_path / "a.mp4", 16)


def test_files_of_several_images_are_numbered() -> None:
    out = Path("x/a.png")
    assert image_paths(out, 1) == [out]
    assert image_paths(out, 2) == [Path("x/a_0.png"), Path("x/a_1.png")]
    assert image_paths(Path("x/{index}-{seed}.png"), 2, [7, 8]) == [Path("x/0-7.png"), Path("x/1-8.png")]
    assert image_paths(Path("{seed}.png"), 2, [7, 8]) == [Path("7.png"), Path("8.png")]
    assert image_paths(Path("{seed}.png"), 2) == [Path("{seed}.png")] * 2
