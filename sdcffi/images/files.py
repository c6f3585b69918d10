"""Open image files: only of formats that are meant, read whole and once, and never larger than images are.

Pillow also opens formats that describe a page or start another program: an EPS file, whatever it is called, starts
Ghostscript. Only the formats here are tried, whoever wrote the file.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .._files import expanded, read_whole, unreadable
from .._quoting import shortened, shown, shown_path
from ..errors import PathNotFoundError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["decoded", "file_content", "pixel_count", "read", "read_image", "refuse_programs"]

_MOST_FILE = 512 << 20  # bytes
_FIRST = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")  # what most files are; Pillow loads few plugins for them
_OTHERS = (
    *("TIFF", "AVIF", "HEIF", "JXL", "JPEG2000", "MPO", "TGA", "ICO", "ICNS", "QOI", "PCX", "SGI", "DDS", "PSD"),
    *("DIB", "XBM", "IM", "SPIDER"),
)
_INNER = frozenset({"ICO", "ICNS"})  # whose size is that of an image within, which is known once it is decoded
_STARTS_PROGRAMS = frozenset({"EPS"})  # Pillow's formats that do

# What base64 of an image begins with: PNG, JPEG, WebP (RIFF), GIF, TIFF, and HEIF or AVIF.
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "AAAA")
_HINTS = {
    (
        b"heic",
        b"heix",
        b"hevc",
        b"heim",
        b"heis",
        b"mif1",
        b"msf1",
    ): "HEIF, as of iPhones: install pillow-heif, and call pillow_heif.register_heif_opener()",
    (b"avif", b"avis"): "AVIF: install a newer Pillow, or pillow-avif-plugin and import it",
}


def read(image: str | os.PathLike[str], name: str) -> bytes:
    """Return the bytes of an image's file, given by its path, or as base64 or ``data:`` URL of its content.

    Raises
    ------
    ValueError
        If it cannot be read, is no regular file or is larger than 512 MiB; a `PathNotFoundError` if it does not exist.
    """
    if isinstance(image, str):
        if image[:5].lower() == "data:":
            return _of_url(image, name)
        if image.startswith(_BASE64_STARTS) and not os.path.exists(image) and (content := _of_base64(image)):
            return content
    place = expanded(image, name)
    if not os.path.exists(place):
        raise PathNotFoundError(f"{name}: {shown_path(place)} does not exist")
    try:
        return read_whole(place, _MOST_FILE)
    except (OSError, ValueError) as error:
        raise unreadable(f"{name}: {shown_path(place)} cannot be read: {shortened(error)}", error) from error


def file_content(file: Any, name: str) -> bytes:
    """Return what an open file has, from its beginning; it stays open.

    Raises
    ------
    TypeError
        If it is not a file that is open for bytes.
    ValueError
        If it cannot be read, or is larger than an image is.
    """
    read = getattr(file, "read", None)
    if not callable(read):
        raise TypeError(
            f"{name} must be an array, a Pillow image, a path, the bytes of a file or an open file,"
            f" not {type(file).__name__}"
        )
    if inspect.iscoroutinefunction(read):
        raise TypeError(f"{name} is read by await: pass `await {name}.read()`, not {type(file).__name__}")
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        content = read(_MOST_FILE + 1)
    except Exception as error:  # the object's own code runs
        raise ValueError(f"{name} cannot be read: {shortened(error)}") from error
    if not isinstance(content, (bytes, bytearray)):
        raise TypeError(f"{name} must be open for bytes, as by open(path, 'rb'): it reads {type(content).__name__}")
    if len(content) > _MOST_FILE:
        raise ValueError(f"{name} is too large: a file of an image has at most {_MOST_FILE >> 20} MiB")
    return bytes(content)


def _of_url(url: str, name: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError(f"{name} must be a data URL as 'data:image/png;base64,...', not {shown(url)}")
    if not (content := _of_base64(data)):
        raise ValueError(f"{name}: the data of {shown(url)} is not base64, or too long")
    return content


def _of_base64(text: str) -> bytes:
    """Return what a text in base64 stands for; nothing if it is not."""
    if len(text) > _MOST_FILE * 4 // 3 + 4:
        return b""
    try:
        data = "".join(text.split()).replace("-", "+").replace("_", "/").encode("ascii")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def decoded(content: bytes | memoryview, name: str, most_pixels: int | None = None) -> Image.Image:
    """Return the image in a file's bytes, loaded.

    Parameters
    ----------
    content : bytes
    name : str
        Name of the parameter or file, for messages.
    most_pixels : int, optional
        An image with more is refused before it is decoded, and icons are, whose size is not known before.

    Raises
    ------
    ValueError
        If it cannot be read, or has too many pixels.
    """
    image = _opened(content, name, () if most_pixels is None else _INNER)
    if most_pixels is not None and image.width * image.height > most_pixels:
        raise ValueError(f"{name} has {image.width}x{image.height} pixels, and {most_pixels:,} are the most: scale it")
    try:
        image.load()
    except Exception as error:  # decoders raise any kind of exception on damaged files
        raise _unreadable(name, content, error) from error
    return image


def pixel_count(content: bytes | memoryview, name: str) -> int:
    """Return how many pixels the image in a file's bytes has, without decoding them.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    image = _opened(content, name)
    return image.width * image.height


def _opened(content: bytes | memoryview, name: str, without: Collection[str] = ()) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        try:
            return Image.open(io.BytesIO(content), formats=_FIRST)
        except UnidentifiedImageError:
            Image.init()
            known = [other for other in _OTHERS if other in Image.OPEN and other not in without]
            return Image.open(io.BytesIO(content), formats=known)
    except Exception as error:  # as above
        raise _unreadable(name, content, error) from error


def _unreadable(name: str, content: bytes | memoryview, error: Exception) -> ValueError:
    from PIL import UnidentifiedImageError

    reason = shortened(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its message has only the object's address
        reason = _why_unknown(bytes(content[:16]))
    return ValueError(f"{name} cannot be read as an image: {reason}")


def _why_unknown(start: bytes) -> str:
    if start[4:8] == b"ftyp":
        for brands, hint in _HINTS.items():
            if start[8:12] in brands:
                return f"it is {hint}"
    if start.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6", b"%PDF")):
        return "PostScript and PDF are not opened, because that starts another program; save it as PNG"
    if start.lstrip().startswith((b"<svg", b"<?xml", b"<!DOC", b"<html")):
        return "it is a text (SVG or HTML), not pixels; save it as PNG"
    if start.startswith((b"\0\0\1\0", b"icns")):
        return "it is an icon, which is damaged, or not taken here; save it as PNG"
    return "Pillow does not know its format"


def refuse_programs(image: Image.Image, name: str) -> None:
    """Refuse an image that was opened elsewhere, and whose loading would start another program.

    Raises
    ------
    ValueError
        With its format.
    """
    if image.format in _STARTS_PROGRAMS and getattr(image, "tile", None):
        raise ValueError(
            f"{name} is of format {image.format}, and loading it starts another program: call its load() first, if you"
            " trust it"
        )


def read_image(source: Path | IO[bytes], name: str = "") -> Image.Image:
    """Return the image in a file, loaded.

    Parameters
    ----------
    source : path or open file
    name : str, optional
        Name of the file in messages. Empty: its path.

    Raises
    ------
    ValueError
        If it cannot be read; a `PathNotFoundError` if it does not exist.
    """
    if not isinstance(source, Path):
        return decoded(file_content(source, name), name)
    name = name or shown_path(source)
    try:
        content = read_whole(source, _MOST_FILE)
    except (OSError, ValueError) as error:
        raise unreadable(f"{name} cannot be read as an image: {shortened(error)}", error) from error
    return decoded(content, name)
