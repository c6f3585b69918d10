"""A labelled table of pictures, to look at many next to each other. Nothing here knows of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

__all__ = ["contact_sheet"]

_GAP = 8  # pixels between pictures, and around labels
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(
    pictures: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    below: Sequence[str] = (),
) -> Image.Image:
    """Lay pictures out as a table.

    Parameters
    ----------
    pictures : sequence of rows of Pillow images
        As many rows as `rows`, each with as many pictures as `columns`. Smaller ones than the largest are centred.
    rows, columns : sequence of str
        What stands left of each row and above each column. They are drawn whole; a label is no wider than its place
        because the place is made as wide as it.
    title : str
        A line above all, cut off where it is wider than the sheet; left out where it is empty.
    below : sequence of str
        A line below each row, cut off likewise; left out where empty.

    Returns
    -------
    Pillow image
        RGB; the pictures are copied in as they are, not scaled.

    Raises
    ------
    ValueError
        If there is no picture, or labels, lines below and pictures do not agree.
    """
    from PIL import Image, ImageDraw

    _check([len(row) for row in pictures], rows, columns, below)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = _widest(measure, rows) + 2 * _GAP
    line = _height(measure, [*rows, *columns, *below, title]) + 2 * _GAP
    top = line * (2 if title else 1)
    width = max(_widest(measure, columns), *(picture.width for row in pictures for picture in row)) + _GAP
    tallest = max(line, *(picture.height + _GAP for row in pictures for picture in row))
    height = tallest + (line if below else 0)

    sheet = Image.new("RGB", (left + width * len(columns), top + height * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        _write(draw, _GAP, line / 2, _cut(draw, title, sheet.width - 2 * _GAP), "lm")
    for index, label in enumerate(columns):
        _write(draw, left + index * width + (width - _GAP) / 2, top - line / 2, label, "mm")
    for y, (label, row) in enumerate(zip(rows, pictures, strict=True)):
        _write(draw, _GAP, top + y * height + (tallest - _GAP) / 2, label, "lm")
        if below:
            text = _cut(draw, below[y], sheet.width - left - _GAP)
            _write(draw, left, top + y * height + tallest + (line - 2 * _GAP) / 2, text, "lm")
        for x, picture in enumerate(row):
            place = left + x * width + (width - _GAP - picture.width) // 2
            sheet.paste(picture.convert("RGB"), (place, top + y * height + (tallest - _GAP - picture.height) // 2))
    return sheet


def _check(sizes: list[int], rows: Sequence[str], columns: Sequence[str], below: Sequence[str]) -> None:
    """Refuse labels that do not agree with the pictures, of which each row has so many."""
    if not rows or not columns or sizes != [len(columns)] * len(rows):
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns are labelled, but the pictures are {sizes}")
    if below and len(below) != len(rows):
        raise ValueError(f"{len(below)} lines stand below {len(rows)} rows")


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default()


def _clean(label: str) -> str:
    """Give one line of what the built-in font has; it is of bitmaps where Pillow has no FreeType."""
    return " ".join(label.split()).encode("latin-1", "replace").decode("latin-1")


def _widest(draw: ImageDraw.ImageDraw, labels: Sequence[str]) -> int:
    return max(int(draw.textbbox((0, 0), _clean(label), _font())[2]) + 1 for label in labels)


def _cut(draw: ImageDraw.ImageDraw, label: str, width: int) -> str:
    if _widest(draw, [label[: width + 1]]) <= width:  # a letter is a pixel wide, or more
        return label
    while label and _widest(draw, [label[:width] + "..."]) > width:
        label = label[:width][: -max(1, len(label[:width]) // 50)]
    return label + "..."


def _height(draw: ImageDraw.ImageDraw, labels: Sequence[str]) -> int:
    return max(int(draw.textbbox((0, 0), _clean(label), _font())[3]) for label in labels)


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, label: str, anchor: str) -> None:
    """Write a label around a point; anchors are not to be had of a bitmap font, so it is measured."""
    left, top, right, bottom = draw.textbbox((0, 0), _clean(label), _font())
    x -= {"l": 0, "m": (left + right) / 2}[anchor[0]]
    draw.text((round(x), round(y - (top + bottom) / 2)), _clean(label), _INK, _font())
