"""Metadata in image files: the parameters text of AUTOMATIC1111's web interface, and sdcffi's record.

PNG holds them as text chunks ``parameters`` and ``sdcffi``. JPEG and WebP hold the first as EXIF UserComment, as
the web interface does, and the second as EXIF ImageDescription.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .._warnings import warn
from .files import read_image

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["KEEPS_TEXTS", "read_texts", "save_arguments"]

_PARAMETERS, _RECORD = "parameters", "sdcffi"
_EXIF_IFD, _USER_COMMENT, _IMAGE_DESCRIPTION = 0x8769, 0x9286, 0x010E
_UNICODE = b"UNICODE\0"
_MOST_EXIF = {"JPEG": 65_500, "WEBP": 1 << 30}  # bytes; a JPEG segment holds 65,533
KEEPS_TEXTS = frozenset({"PNG", *_MOST_EXIF})


def save_arguments(image_format: str, parameters: str, record: str) -> dict[str, Any]:
    """Return the keyword arguments with which Pillow saves these texts in an image file.

    Parameters
    ----------
    image_format : str
        Pillow's name of the format, one of `KEEPS_TEXTS`.
    parameters, record : str
        The two texts; the record must be ASCII.

    Warns
    -----
    UserWarning
        If a JPEG is too small for both.
    """
    if image_format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text(_PARAMETERS, parameters)
        info.add_text(_RECORD, record)
        return {"pnginfo": info}
    for texts in ((parameters, record), (None, record), (parameters, None)):
        exif = _exif(*texts)
        if len(exif) <= _MOST_EXIF[image_format]:
            if None in texts:
                left_out = "AUTOMATIC1111's parameters" if texts[0] is None else "sdcffi's record"
                warn(f"a JPEG holds 64 KB of metadata, so it lacks {left_out}; save as PNG or WebP to keep everything")
            return {"exif": exif}
    return {}


def _exif(parameters: str | None, record: str | None) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    if record is not None:
        exif[_IMAGE_DESCRIPTION] = record
    if parameters is not None:
        exif[_EXIF_IFD] = {_USER_COMMENT: _UNICODE + parameters.encode("utf_16_be")}
    return exif.tobytes()


def read_texts(source: Path | IO[bytes], name: str = "") -> tuple[str | None, str | None]:
    """Read AUTOMATIC1111's parameters and sdcffi's record from an image file.

    Parameters
    ----------
    source : path or open file
    name : str, optional
        Name of the file in messages. Empty: its path.

    Returns
    -------
    parameters, record : str or None
        None if the file does not have the text.

    Raises
    ------
    ValueError
        If the file does not exist or is not an image.
    """
    return (*_texts(read_image(source, name)),)  # type: ignore[return-value]


def _texts(image: Image.Image) -> Iterator[str | None]:
    if image.format == "PNG":
        for name in (_PARAMETERS, _RECORD):
            text = image.info.get(name)
            yield str(text) if isinstance(text, str) else None
        return
    try:
        exif = image.getexif()
        comment, description = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT), exif.get(_IMAGE_DESCRIPTION)
    except Exception:  # Pillow's reader raises any kind of exception on damaged data
        comment = description = None
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        yield comment[len(_UNICODE) :].decode("utf_16_be", "replace")
    else:
        yield None
    yield description if isinstance(description, str) else None
