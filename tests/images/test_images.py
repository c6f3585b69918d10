"""Pictures in: what is taken and with which values, what is refused, what is copied."""

from __future__ import annotations

import array
import base64
import io
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcffi.images.convert import as_mask, as_rgb, box_mask, to_pillow

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 4, 3), np.uint8)
GRAY = PIXELS[..., 0].copy()
GRAY_RGB = np.dstack([GRAY, GRAY, GRAY])
OPACITY = np.array([0, 1, 127, 255] * 6, np.uint8).reshape(6, 4)
TRANSPARENT = np.dstack([PIXELS, OPACITY])
DEEP = (np.arange(24, dtype=np.uint16).reshape(6, 4) * 2849) + 5  # to nearly 65535


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Tensor:
    """As torch's on the CPU: numpy's protocol is all that it has."""

    def __init__(self, pixels: np.ndarray[Any, Any]) -> None:
        self._pixels = pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self._pixels


class OnGpu:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        raise RuntimeError("can't convert cuda:0 device type tensor to numpy")


class Interface:
    """The older protocol."""

    def __init__(self, pixels: np.ndarray[Any, Any]) -> None:
        self.__array_interface__ = pixels.__array_interface__
        self._kept = pixels


# What is not copied.


def read_only(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    pixels = pixels.copy()
    pixels.flags.writeable = False
    return pixels


@pytest.mark.parametrize(
    "wrapped",
    [lambda pixels: pixels, read_only, Tensor, Interface, lambda pixels: memoryview(np.ascontiguousarray(pixels))],
    ids=["array", "read-only", "__array__", "__array_interface__", "buffer"],
)
@pytest.mark.parametrize(("take", "pixels"), [(as_rgb, PIXELS), (as_mask, GRAY)], ids=["picture", "mask"])
def test_contiguous_uint8_is_not_copied(take: Any, pixels: np.ndarray[Any, Any], wrapped: Any) -> None:
    source = wrapped(pixels)
    taken = take(source, "init_image")
    assert np.shares_memory(taken, np.asarray(source))
    assert taken.flags.c_contiguous
    assert np.array_equal(np.squeeze(taken), pixels)


@pytest.mark.parametrize(
    "source",
    [PIXELS[:, ::-1], np.asfortranarray(PIXELS), TRANSPARENT, Image.fromarray(PIXELS), PIXELS / 255, GRAY],
    ids=["strided", "fortran", "alpha", "pillow", "float", "gray"],
)
def test_anything_else_is_copied_and_contiguous(source: Any) -> None:
    taken = as_rgb(source, "init_image", alpha="ignore")
    assert taken.flags.c_contiguous
    assert not np.shares_memory(taken, np.asarray(source))


def test_a_strided_array_keeps_its_values() -> None:
    assert np.array_equal(as_rgb(PIXELS[:, ::-1], "init_image"), PIXELS[:, ::-1])
    assert np.array_equal(as_rgb(np.asfortranarray(PIXELS), "init_image"), PIXELS)


# Values.


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
def test_floats_are_scaled_to_255_and_rounded(kind: Any) -> None:
    every = np.arange(256).reshape(16, 16)
    assert np.array_equal(as_rgb((every / 255).astype(kind), "init_image")[..., 1], every)
    assert as_rgb(np.full((1, 1, 3), 0.999, kind), "init_image").max() == 255  # rounded, not cut


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1)])
def test_gray_becomes_three_channels(shape: tuple[int, ...]) -> None:
    assert np.array_equal(as_rgb(GRAY.reshape(shape), "init_image"), GRAY_RGB)


def test_a_pillow_image_a_file_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    path = tmp_path / "größe.png"
    content = encoded(image)
    path.write_bytes(content)
    lazy = Image.open(path)
    buffers = (bytearray(content), memoryview(content), array.array("B", content))
    for source in (image, lazy, path, str(path), content, *buffers):
        assert np.array_equal(as_rgb(source, "init_image"), PIXELS)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_other_modes_become_rgb_as_pillow_makes_them(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    assert np.array_equal(as_rgb(image, "init_image"), np.asarray(image.convert("RGB")))


def test_cmyk_is_mixed_not_cut() -> None:
    assert (as_rgb(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "init_image") == [0, 255, 255]).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bits_are_scaled_not_clipped(mode: str) -> None:
    image = Image.frombytes(mode, (4, 6), DEEP.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    expected = np.rint(DEEP / 257).astype(np.uint8)
    assert expected.std() > 50
    assert np.array_equal(as_rgb(image, "init_image")[..., 2], expected)
    assert np.array_equal(as_mask(image, "mask_image")[..., 0], expected)


def test_a_16_bit_file_is_scaled_whatever_mode_pillow_gives_it(tmp_path: Path) -> None:
    expected = np.rint(DEEP / 257).astype(np.uint8)
    content = encoded(Image.fromarray(DEEP))
    assert np.array_equal(as_rgb(content, "init_image")[..., 0], expected)
    with Image.open(io.BytesIO(content)) as image:
        wide = image.convert("I")
        wide.format = image.format  # how Pillow 10 opens such a file
    assert np.array_equal(as_rgb(wide, "init_image")[..., 0], expected)
    portable = b"P5 4 6 65535\n" + DEEP.astype(">u2").tobytes()
    assert np.array_equal(as_rgb(portable, "init_image")[..., 0], expected)


def test_mode_f_is_from_0_to_1() -> None:
    assert np.array_equal(as_rgb(Image.fromarray((GRAY / 255).astype(np.float32)), "init_image"), GRAY_RGB)
    with pytest.raises(ValueError, match=r"init_image has floats from .* to 2\d\d\S*; they must be from 0 to 1"):
        as_rgb(Image.fromarray(GRAY.astype(np.float32)), "init_image")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: np.rot90(PIXELS, 2),
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, 3),
        7: np.rot90(PIXELS, 2).transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }[orientation]
    turned = as_rgb(encoded(Image.fromarray(PIXELS), exif=exif), "init_image")
    assert np.array_equal(turned, upright)
    assert turned.flags.c_contiguous


def test_a_turned_16_bit_file_is_scaled() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = as_rgb(encoded(Image.fromarray(DEEP), exif=exif), "init_image")[..., 0]
    assert np.array_equal(turned, np.rot90(np.rint(DEEP / 257).astype(np.uint8), 3))


def test_the_callers_image_stays_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.open(io.BytesIO(encoded(Image.fromarray(TRANSPARENT), exif=exif)))
    as_rgb(image, "init_image", alpha="white")
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image), TRANSPARENT)


# Transparency.


def laid_on(colour: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    share = OPACITY[..., None] / 255
    return np.rint(PIXELS * share + np.array(colour) * (1 - share)).astype(np.uint8)


def in_palette() -> Image.Image:
    image = Image.fromarray(GRAY).convert("P")
    image.info["transparency"] = int(GRAY[0, 0])
    return image


GRAY_ALPHA = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(OPACITY)])
TRANSPARENT_ONES = {
    "array": TRANSPARENT,
    "float array": TRANSPARENT / 255,
    "RGBA": Image.fromarray(TRANSPARENT),
    "LA": GRAY_ALPHA,
    "La": GRAY_ALPHA.convert("La"),
    "palette": in_palette(),
    "gif": encoded(in_palette(), "GIF", transparency=int(GRAY[0, 0])),
    "one colour of RGB": encoded(Image.fromarray(PIXELS), transparency=tuple(int(part) for part in PIXELS[0, 0])),
    "one gray": encoded(Image.fromarray(GRAY), transparency=int(GRAY[0, 0])),
    "webp": encoded(Image.fromarray(TRANSPARENT), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("kind", TRANSPARENT_ONES)
def test_transparency_is_refused_unless_it_is_said_what_becomes_of_it(kind: str) -> None:
    source: Any = TRANSPARENT_ONES[kind]
    with pytest.raises(ValueError, match=r"init_image has transparent pixels: pass alpha='white' .* alpha='ignore'"):
        as_rgb(source, "init_image")
    on_black, on_white = (as_rgb(source, "init_image", alpha=colour)[0, 0] for colour in ("black", (255, 255, 255)))
    assert (on_black == 0).all()
    assert (on_white == 255).all()
    assert as_rgb(source, "init_image", alpha="ignore").shape == (6, 4, 3)


@pytest.mark.parametrize(("alpha", "colour"), [("white", (255,) * 3), ("#ff8000", (255, 128, 0)), ((1, 2, 3),) * 2])
def test_a_transparent_picture_is_laid_on_a_colour(alpha: Any, colour: tuple[int, int, int]) -> None:
    for source in (TRANSPARENT, Image.fromarray(TRANSPARENT)):
        assert np.array_equal(as_rgb(source, "init_image", alpha=alpha), laid_on(colour))


def test_transparency_that_is_ignored_shows_the_colours_below() -> None:
    for source in (TRANSPARENT, Image.fromarray(TRANSPARENT), encoded(Image.fromarray(TRANSPARENT))):
        assert np.array_equal(as_rgb(source, "init_image", alpha="ignore"), PIXELS)


def test_an_alpha_channel_without_transparency_is_left_out() -> None:
    opaque = np.dstack([PIXELS, np.full_like(GRAY, 255)])
    for source in (opaque, Image.fromarray(opaque), Image.fromarray(PIXELS).convert("RGBA")):
        assert np.array_equal(as_rgb(source, "init_image"), PIXELS)


@pytest.mark.parametrize(
    ("alpha", "error"),
    [
        *((value, ValueError) for value in ("drop", (1, 2), (1, 2, 256), (1.0, 2, 3))),
        *((value, TypeError) for value in (None, 7, True)),
    ],
)
def test_an_unknown_alpha_is_refused_with_the_legal_ones(alpha: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"alpha must be 'refuse', 'ignore', a colour's name .* not "):
        as_rgb(TRANSPARENT, "init_image", alpha=alpha)


# What is refused.


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (PIXELS.astype(np.uint16), ValueError, r"uint8 or float \(0 to 1\) array .*uint16 \(6, 4, 3\); divide it by"),
        (PIXELS.astype(np.int64), ValueError, r"not int64 \(6, 4, 3\); divide"),
        (PIXELS.astype(np.int8), ValueError, r"not int8 \(6, 4, 3\)$"),
        (PIXELS > 9, ValueError, r"not bool \(6, 4, 3\)"),
        (PIXELS.astype(complex), ValueError, r"not complex128"),
        (PIXELS.astype(object), ValueError, r"not object"),
        (PIXELS.astype(np.float32), ValueError, r"init_image has floats from .* to 2\d\d\S*; they must be from 0 to 1"),
        (np.array([[0.5, -0.25]]), ValueError, r"floats from -0\.25 to 0\.5"),
        (np.array([[0.5, np.nan]]), ValueError, r"floats from nan to nan"),
        (np.array([[0.5, np.inf]], np.float16), ValueError, r"floats from 0\.5 to inf"),
        (PIXELS[..., :2], ValueError, r"not uint8 \(6, 4, 2\)"),
        (np.zeros((3, 6, 5), np.uint8), ValueError, r"not uint8 \(3, 6, 5\); move the channels last: numpy\.moveaxis"),
        (Tensor(np.zeros((1, 6, 5))), ValueError, r"not float64 \(1, 6, 5\); move the channels last"),
        (PIXELS[None], ValueError, r"not uint8 \(1, 6, 4, 3\)"),
        (np.zeros(3, np.uint8), ValueError, r"not uint8 \(3,\)"),
        (PIXELS[:0], ValueError, r"not uint8 \(0, 4, 3\)"),
        (np.uint8(3), ValueError, r"not uint8 \(\)"),
        (np.zeros((1, 16385, 3), np.uint8), ValueError, "sides from 1 to 16384 pixels, not 16385x1"),
        (Image.new("1", (1, 16385)), ValueError, "sides from 1 to 16384 pixels, not 1x16385"),
        (Image.new("RGB", (0, 4)), ValueError, "sides from 1 to 16384 pixels, not 0x4"),
        (Image.fromarray(GRAY.astype(np.int32)), ValueError, r"mode 'I' \(int32, here from \d+ to \d+\)"),
        (b"no picture", ValueError, "init_image cannot be read as an image"),
        (encoded(Image.fromarray(PIXELS))[:60], ValueError, "init_image cannot be read as an image"),
        (b"", ValueError, "init_image cannot be read as an image"),
        ("/does/not/exist.png", FileNotFoundError, "does not exist"),
        ("a\0b", ValueError, "does not exist"),
        ("x" * 5000, ValueError, "does not exist"),
        ("/", ValueError, "init_image: / cannot be read: it is a directory"),
        ("/dev/zero", ValueError, "cannot be read: it is not a regular file, but a pipe or a device"),
        ("data:image/png,abc", ValueError, "must be a data URL as 'data:image/png;base64,"),
        ("data:image/png;base64,!!", ValueError, "is not base64"),
        ("data:;base64," + "A" * 200_000, ValueError, "cannot be read as an image: Pillow does not know its format"),
        ("iVBORw0KGgo" + "?" * 200_000, ValueError, "iVBORw0KGgo.* does not exist"),
        ("/9j/is/a/path/too", FileNotFoundError, "does not exist"),
        ("~nobody_of_that_name/a.png", FileNotFoundError, "~nobody_of_that_name/a.png begins with '~'"),
        (b"\0\0\0\x18ftypheic" + bytes(50), ValueError, "HEIF, as of iPhones: install pillow-heif"),
        (b"<svg xmlns='x'>", ValueError, "it is a text"),
        (OnGpu(), TypeError, "init_image is a OnGpu that numpy cannot read: can't convert cuda:0"),
        (3, TypeError, "init_image must be an array, a Pillow image, a path, the bytes of a file or an open .*not int"),
        ([[0]], TypeError, "not list"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_without_guessing_is_refused(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        as_rgb(image, "init_image")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_base64_and_data_urls_are_the_file(kind: str) -> None:
    content = encoded(Image.fromarray(PIXELS), kind)
    expected = as_rgb(content, "init_image")
    text = base64.b64encode(content).decode()
    assert np.array_equal(as_rgb(f"data:image/{kind.lower()};base64,{text}", "init_image"), expected)
    if kind != "BMP":  # of two letters, which a path may begin with
        assert np.array_equal(as_rgb(text, "init_image"), expected)
    lines = base64.encodebytes(content).decode()
    assert np.array_equal(as_rgb(f"DATA:image/png;charset=x;BASE64,{lines}", "init_image"), expected)
    for_urls = base64.urlsafe_b64encode(content).decode().rstrip("=")
    assert np.array_equal(as_rgb(f"data:;base64,{for_urls}", "init_image"), expected)


def test_a_file_of_that_name_counts_before_base64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = base64.b64encode(encoded(Image.new("L", (4, 4)))).decode()[:40].replace("/", "")
    (tmp_path / text).write_bytes(encoded(Image.fromarray(PIXELS)))
    assert np.array_equal(as_rgb(text, "init_image"), PIXELS)


def test_no_program_is_started_whatever_a_file_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch '{started}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    page = io.BytesIO()
    Image.fromarray(PIXELS).save(page, "EPS")
    path = tmp_path / "page.png"
    path.write_bytes(page.getvalue())
    for image in (path, str(path), page.getvalue(), Image.open(io.BytesIO(page.getvalue()))):
        with pytest.raises(ValueError, match="starts another program"):
            as_rgb(image, "init_image")
    assert not started.exists()


def test_only_regular_files_of_a_limited_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="a pipe or a device"):
        as_rgb(tmp_path / "pipe.png", "init_image")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(ValueError, match="it has more than 512 MiB"):
        as_rgb(tmp_path / "sparse.png", "init_image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("garbage", [b"no TIFF", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's
def test_an_orientation_that_cannot_be_read_is_none(kind: str, garbage: bytes) -> None:
    plain, broken = (encoded(Image.fromarray(PIXELS), kind, **more) for more in ({}, {"exif": b"Exif\0\0" + garbage}))
    assert np.array_equal(as_rgb(broken, "init_image"), as_rgb(plain, "init_image"))


def test_a_mapped_file_that_was_truncated_is_refused_and_another_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "pixels.bin"
    offset = 3 * mmap.ALLOCATIONGRANULARITY + 16
    path.write_bytes(bytes(offset) + np.full((300, 100, 3), 7, np.uint8).tobytes())
    mapped = np.memmap(path, np.uint8, "r", offset, (300, 100, 3))
    views = [mapped, mapped[50:], np.asarray(mapped), memoryview(mapped)]  # type: ignore[arg-type]
    taken = as_rgb(mapped, "init_image")
    os.truncate(path, offset + 100)
    assert taken.min() == taken.max() == 7
    for view in views[:2]:
        with pytest.raises(ValueError, match="truncated after it was mapped"):
            as_rgb(view, "init_image")
    os.truncate(path, 0)
    for view in views:
        with pytest.raises(ValueError, match="truncated after it was mapped"):
            as_rgb(view, "init_image")


def test_what_an_object_raises_goes_through_with_the_parameters_name() -> None:
    class Broken:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        as_rgb(Broken(), "init_image")
    assert caught.value.__notes__ == ["It was raised while the parameter init_image was read."]  # type: ignore[attr-defined]


def test_a_closed_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    with Image.open(path) as image:
        pass
    with pytest.raises(ValueError, match="init_image cannot be read as an image"):
        as_rgb(image, "init_image")


# Masks.


@pytest.mark.parametrize(
    "source",
    [
        *(GRAY, GRAY[..., None], GRAY_RGB, GRAY / 255, Image.fromarray(GRAY), Image.fromarray(GRAY_RGB)),
        *(np.dstack([GRAY_RGB, np.full_like(GRAY, 255)]), encoded(Image.fromarray(GRAY))),
    ],
    ids=["gray", "one channel", "three equal", "float", "L", "RGB", "RGBA", "file"],
)
def test_masks_have_one_channel_and_keep_their_values(source: Any) -> None:
    assert np.array_equal(as_mask(source, "mask_image"), GRAY[..., None])


def test_bool_is_black_or_white() -> None:
    for source in (GRAY > 99, Image.fromarray(GRAY > 99)):
        assert np.array_equal(as_mask(source, "mask_image"), np.where(GRAY > 99, 255, 0)[..., None])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (PIXELS, r"mask_image has colours; pass one channel, such as pixels\[\.\.\., 0\]"),
        (Image.fromarray(PIXELS), "mask_image has colours"),
        ((GRAY > 99).astype(np.uint8), "mask_image has no value above 1, and white is 255"),
        (GRAY.astype(np.uint16), r"bool, uint8 or float \(0 to 1\) array .* not uint16 \(6, 4\)"),
    ],
)
def test_a_mask_that_can_mean_two_things_is_refused(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_mask(mask, "mask_image")


def test_of_a_transparent_mask_the_alpha_channel_counts() -> None:
    for source in (TRANSPARENT, Image.fromarray(TRANSPARENT), encoded(Image.fromarray(TRANSPARENT))):
        assert np.array_equal(as_mask(source, "mask_image"), OPACITY[..., None])
    gray = np.dstack([GRAY_RGB, OPACITY])
    assert np.array_equal(as_mask(gray, "mask_image", "ignore"), GRAY[..., None])
    assert as_mask(gray, "mask_image", "black").max() <= GRAY.max()


def test_an_empty_mask_is_one() -> None:
    assert not as_mask(np.zeros((6, 4), np.uint8), "mask_image").any()


def test_a_box_is_white_inside() -> None:
    mask = box_mask((1, 2, 4, 6), (4, 6), "mask_image")
    assert mask.shape == (6, 4, 1)
    assert np.array_equal(np.argwhere(mask[..., 0] == 255), [(y, x) for y in range(2, 6) for x in range(1, 4)])
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize(
    ("box", "error"),
    [
        *((box, ValueError) for box in ((0, 0, 5, 6), (-1, 0, 4, 6), (2, 0, 2, 6), (0, 5, 4, 3))),
        *((box, TypeError) for box in ((0, 0, 4), (0, 0, 4.0, 6), (0, 0, True, 6), [[0]])),
    ],
)
def test_a_box_outside_the_picture_is_refused(box: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"mask_image must be an? .*box .*not [([]"):
        box_mask(box, (4, 6), "mask_image")


# Out.


def test_pixels_go_through_pillow_and_back() -> None:
    image = to_pillow(PIXELS)
    assert np.array_equal(np.asarray(image), PIXELS)
    assert np.array_equal(as_rgb(image, "init_image"), PIXELS)
