"""Results as bytes and in open files, and as a notebook shows them: no paths, and no files that stay."""

from __future__ import annotations

import html
import io
import os
from base64 import b64encode
from typing import IO, TYPE_CHECKING, Any

from .._quoting import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

__all__ = [
    *("ShownInNotebooks", "encoded", "format_of", "image_format", "image_tag", "refuse_format"),
    *("writable_formats", "write"),
]

# Pillow's names of the formats that keep an RGB image of any size. It also writes icons, faxes and pages.
_FORMATS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"})


def image_format(name: Any) -> str:
    """Return Pillow's name of an image format that it can write: of ``"PNG"``, ``"jpg"`` or ``".webp"``.

    Raises
    ------
    TypeError, ValueError
        If there is none of this name; the message has those that there are.
    """
    if not isinstance(name, str):
        raise TypeError(f"format must be a string such as 'PNG', not {shown(name)}")
    formats = writable_formats()
    found = formats.get("." + name.lower().removeprefix("."), name.upper())
    if found not in formats.values():
        raise ValueError(f"format must be one of {', '.join(sorted(set(formats.values())))}, not {shown(name)}")
    return found


def writable_formats() -> dict[str, str]:
    """Return Pillow's names of the image formats that can be written, by their endings, as ``".png"``."""
    from PIL import Image

    known = Image.registered_extensions()
    return {ending: name for ending, name in known.items() if name in _FORMATS and name in Image.SAVE}


def format_of(stream: IO[bytes], given: str | None, default: str) -> str:
    """Return the format for an open file: the given one, else that of its name's ending, else `default`.

    Raises
    ------
    TypeError
        If it is no file.
    """
    if not hasattr(stream, "write"):
        raise TypeError(f"the file must be a path or a file that is open for bytes, not {shown(stream)}")
    name = getattr(stream, "name", None)
    ending = os.path.splitext(name)[1] if isinstance(name, str) else ""
    return given if given is not None else ending.removeprefix(".") or default


def refuse_format(given: str | None, path: Any) -> None:
    """Refuse ``format=`` with a path, whose ending says it already.

    Raises
    ------
    ValueError
        If it is given.
    """
    if given is not None:
        raise ValueError(
            f"format={given!r} is for an open file, and the ending of {path} says the format: leave it out"
        )


def encoded(image: Image.Image, name: str, options: dict[str, Any] | None = None) -> bytes:
    """Return an image as the bytes of a file, with keyword arguments for Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, format=name, **(options or {}))
    return buffer.getvalue()


def write(stream: IO[bytes], data: bytes) -> None:
    """Write all bytes to an open file.

    Raises
    ------
    TypeError
        If it takes text.
    """
    rest = memoryview(data)
    while rest:
        try:
            count = stream.write(rest if isinstance(stream, io.IOBase) else bytes(rest))
        except TypeError as error:
            raise TypeError(f"the file must be open for bytes, as by open(path, 'wb'): {error}") from error
        if not isinstance(count, int):  # it does not say, so it took all
            return
        rest = rest[count:]


class ShownInNotebooks:
    """Shows what a result has below a notebook's cell: one image as it is, several one after the other."""

    def _shown(self) -> Sequence[Image.Image]:
        """Return the images to show; subclasses implement it."""
        raise NotImplementedError

    def _repr_png_(self) -> bytes | None:
        images = self._shown()
        return encoded(images[0], "PNG") if len(images) == 1 else None

    def _repr_html_(self) -> str | None:
        images = self._shown()
        if len(images) == 1:
            return None
        return "\n".join(image_tag(encoded(image, "PNG"), "png", repr(self)) for image in images)


def image_tag(data: bytes, kind: str, text: str) -> str:
    """Return an image as HTML that needs no other file, with a text for those who do not see it."""
    return f'<img src="data:image/{kind};base64,{b64encode(data).decode()}" alt="{html.escape(text)}">'
