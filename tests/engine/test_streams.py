"""Results as bytes, in open files and in notebooks, and input images from open files."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcffi import Engine, Record, Result, UpscaleResult, VideoParams, VideoResult
from sdcffi.images.convert import as_mask, as_rgb
from sdcffi.params.image import ImageParams

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7}
PIXELS = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)


@pytest.fixture(scope="module")
def result(shared: Engine) -> Result:
    return shared.generate("a cat", **DRAW)


@pytest.fixture(scope="module")
def two(shared: Engine) -> Result:
    return shared.generate("a cat", **DRAW, batch_count=2)


def video(count: int = 3) -> VideoResult:
    arrays = [np.full((16, 32, 3), 80 * index, np.uint8) for index in range(count)]
    return VideoResult(arrays, 8.0, 5, VideoParams(), (), 1.25)


def pixels_of(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# Out.


def test_bytes_are_those_of_the_saved_file(result: Result, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.jpg"):
        result.save(tmp_path / name)
        assert result.to_bytes(name[2:]) == (tmp_path / name).read_bytes()
    assert result.to_bytes() == result.to_bytes("PNG") == result.to_bytes(".png")
    assert np.array_equal(pixels_of(result.to_bytes()), result.arrays[0])


def test_an_open_file_takes_the_image_with_its_record(result: Result, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    assert result.save(buffer) == []
    assert buffer.getvalue() == result.to_bytes("PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert Record.from_file(tmp_path / "a.png") == result.record(0)
    buffer = io.BytesIO()
    result.save(buffer, format="webp", metadata=False)
    assert buffer.getvalue() == result.to_bytes("WEBP", metadata=False)
    with (tmp_path / "b.jpeg").open("wb", buffering=0) as file:  # its name says the format
        result.save(file)
    assert (tmp_path / "b.jpeg").read_bytes() == result.to_bytes("JPEG")
    with tempfile.TemporaryFile() as file:  # its name is a number
        result.save(file)
        file.seek(0)
        assert file.read() == result.to_bytes("PNG")


def test_each_image_of_a_batch_has_its_own_bytes(two: Result) -> None:
    first, second = (two.to_bytes(index=index) for index in (0, 1))
    assert np.array_equal(pixels_of(first), two.arrays[0])
    assert np.array_equal(pixels_of(second), two.arrays[1])
    assert Record.from_json(Image.open(io.BytesIO(second)).info["sdcffi"]).seed == 8


def test_images_have_the_record_in_their_info(two: Result) -> None:
    for index, image in enumerate(two.images):
        assert Record.from_json(image.info["sdcffi"]) == two.record(index, digests=False)
        assert image.info["parameters"] == two.record(index, digests=False).infotext()
    assert Result([PIXELS], [1], ImageParams(), (), 1.0).images[0].info == {}, "without an origin there is no record"


class Stingy(io.RawIOBase):
    """A file that takes few bytes at a time, as sockets do."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:1000])
        return min(1000, len(data))


def test_a_file_that_takes_few_bytes_at_a_time_gets_all(result: Result) -> None:
    file = Stingy()
    result.save(file)  # type: ignore[arg-type]
    assert file.taken == result.to_bytes()


@pytest.mark.parametrize(
    ("save", "kind", "said"),
    [
        (lambda one, two: two.save(io.BytesIO()), ValueError, "takes one image, and the result has 2"),
        (lambda one, two: one.save(io.StringIO()), TypeError, "open for bytes"),
        (lambda one, two: one.save(3), TypeError, "a path or a file that is open for bytes, not 3"),
        (lambda one, two: one.save("a.png", format="PNG"), ValueError, "the ending of a.png says the format"),
        (lambda one, two: one.to_bytes("tga2"), ValueError, "format must be one of .*PNG.*, not 'tga2'"),
        (lambda one, two: one.to_bytes(7), TypeError, "format must be a string such as 'PNG', not 7"),
        (lambda one, two: one.to_bytes(index=1), ValueError, "index must be from 0 to 0, not 1"),
        (lambda one, two: two.to_bytes(index=-1), ValueError, "index must be from 0 to 1, not -1"),
        (lambda one, two: video().to_bytes("png"), ValueError, "format must be one of gif, webp, mp4, not 'png'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    save: Callable[[Result, Result], object], kind: type[Exception], said: str, result: Result, two: Result
) -> None:
    with pytest.raises(kind, match=said):
        save(result, two)


@pytest.mark.parametrize("name", ["webp", "gif"])
def test_a_video_is_bytes_too(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    assert video().save(buffer, format=name) == []
    video().save(tmp_path / f"a.{name}")
    assert buffer.getvalue() == video().to_bytes(name.upper()) == (tmp_path / f"a.{name}").read_bytes()
    assert Image.open(buffer).n_frames == 3  # type: ignore[attr-defined]


def test_an_enlarged_image_is_bytes_too(tmp_path: Path) -> None:
    enlarged = UpscaleResult(PIXELS, 2.0, 0.5)
    buffer = io.BytesIO()
    enlarged.save(buffer)
    assert buffer.getvalue() == enlarged.to_bytes() == enlarged.save(tmp_path / "a.png").read_bytes()
    assert np.array_equal(pixels_of(enlarged.to_bytes()), PIXELS)


# In notebooks and in representations.


def test_a_representation_is_one_short_line(two: Result) -> None:
    assert repr(two).startswith("<Result: 2 images of 64x64, seeds 7 to 8, ")
    assert repr(Result([PIXELS], [4], ImageParams(), (), 1.0)) == "<Result: 1 image of 16x8, seed 4, 1.0 seconds>"
    assert repr(video()) == "<VideoResult: 3 frames of 32x16, 8 per second, seed 5, 1.2 seconds>"
    assert repr(UpscaleResult(PIXELS, 2.0, 0.5)) == "<UpscaleResult: 16x8, factor 2, 0.5 seconds>"


def test_results_are_compared_by_identity_and_can_be_keys(two: Result) -> None:
    assert two == two
    assert two != Result(two.arrays, two.seeds, two.parameters, two.loras, two.seconds)
    assert {two: 1}[two] == 1


def test_a_notebook_shows_one_image_as_png_and_several_as_html(two: Result) -> None:
    one = Result([PIXELS], [4], ImageParams(), (), 1.0)
    for shown in (one, UpscaleResult(PIXELS, 2.0, 0.5)):
        png = shown._repr_png_()
        assert png is not None
        assert np.array_equal(pixels_of(png), PIXELS)
        assert shown._repr_html_() is None
    assert two._repr_png_() is None
    html = two._repr_html_()
    assert html is not None
    assert html.count('<img src="data:image/png;base64,') == 2
    assert "&lt;Result: 2 images" in html
    assert (video()._repr_png_(), video()._repr_html_()[:32]) == (None, '<img src="data:image/webp;base64')


# In.


def test_images_are_read_from_open_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")  # and is at its end, as after a copy
    assert np.array_equal(as_rgb(buffer, "init_image"), PIXELS)
    assert not buffer.closed
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with (tmp_path / "a.png").open("rb") as file:
        assert np.array_equal(as_rgb(file, "init_image"), PIXELS)
    gray = io.BytesIO()
    Image.new("L", (4, 4), 200).save(gray, "PNG")
    assert as_mask(gray, "mask_image").max() == 200


class Pipe:
    """What can be read once, such as a response from the net."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def read(self, size: int = -1) -> Any:
        data, self.data = self.data, b""
        return data


class Upload:
    """What web frameworks give: it is read by await."""

    async def read(self, size: int = -1) -> bytes:
        await asyncio.sleep(0)
        return b""


def test_what_cannot_be_read_as_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    assert np.array_equal(as_rgb(Pipe(buffer.getvalue()), "init_image"), PIXELS)
    for file, kind, said in [
        (io.StringIO("text"), TypeError, "init_image must be open for bytes.* it reads str"),
        (Upload(), TypeError, r"init_image is read by await: pass `await init_image.read\(\)`, not Upload"),
        (Pipe(None), TypeError, "it reads NoneType"),
        (io.BytesIO(b"no image"), ValueError, "init_image cannot be read as an image"),
        (io.BytesIO(b""), ValueError, "init_image cannot be read as an image"),
    ]:
        with pytest.raises(kind, match=said):
            as_rgb(file, "init_image")  # type: ignore[arg-type]
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(ValueError, match=r"init_image cannot be read: .*closed"):
        as_rgb(closed, "init_image")
    monkeypatch.setattr("sdcffi.images.files._MOST_FILE", 10)
    with pytest.raises(ValueError, match="init_image is too large"):
        as_rgb(buffer, "init_image")
