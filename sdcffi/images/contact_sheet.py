"""Contact sheets: a labelled table of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

__all__ = ["contact_sheet"]

_GAP = 8  # pixels between images, and around labels
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(
    images: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    below: Sequence[str] = (),
) -> Image.Image:
    """Lay images out as a table.

    Parameters
    ----------
    images : sequence of rows of Pillow images
        One row for each item of `rows`, with one image for each item of `columns`. Images smaller than the largest one
        are centred.
    rows, columns : sequence of str
        Labels left of each row and above each column. They are never cut off: the sheet makes room for them.
    title : str
        Line above the table, cut off if it is wider than the sheet. Empty: no line.
    below : sequence of str
        Line below each row, cut off if it is wider than the sheet. Empty: no lines.

    Returns
    -------
    Pillow image
        A new RGB image. The images are copied into it and not scaled.

    Raises
    ------
    ValueError
        If there are no images, or if their number does not match that of the labels or of the lines below.
    """
    from PIL import Image, ImageDraw

    _check([len(row) for row in images], rows, columns, below)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = _widest(measure, rows) + 2 * _GAP
    line = _height(measure, [*rows, *columns, *below, title]) + 2 * _GAP
    top = line * (2 if title else 1)
    width = max(_widest(measure, columns), *(image.width for row in images for image in row)) + _GAP
    tallest = max(line, *(image.height + _GAP for row in images for image in row))
    height = tallest + (line if below else 0)

    sheet = Image.new("RGB", (left + width * len(columns), top + height * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        _write(draw, _GAP, line / 2, _cut(draw, title, sheet.width - 2 * _GAP), "lm")
    for index, label in enumerate(columns):
        _write(draw, left + index * width + (width - _GAP) / 2, top - line / 2, label, "mm")
    for y, (label, row) in enumerate(zip(rows, images, strict=True)):
        _write(draw, _GAP, top + y * height + (tallest - _GAP) / 2, label, "lm")
        if below:
            text = _cut(draw, below[y], sheet.width - left - _GAP)
            _write(draw, left, top + y * height + tallest + (line - 2 * _GAP) / 2, text, "lm")
        for x, image in enumerate(row):
            place = left + x * width + (width - _GAP - image.width) // 2
            sheet.paste(image.convert("RGB"), (place, top + y * height + (tallest - _GAP - image.height) // 2))
    return sheet


def _check(sizes: list[int], rows: Sequence[str], columns: Sequence[str], below: Sequence[str]) -> None:
    """Refuse labels that do not match the images; `sizes` has the number of images in each row."""
    if not rows or not columns or sizes != [len(columns)] * len(rows):
        raise ValueError(
            f"images must be {len(rows)} rows of {len(columns)}, as many as the labels, not rows of {sizes}"
        )
    if below and len(below) != len(rows):
        raise ValueError(f"below must have one line for each of the {len(rows)} rows, not {len(below)}")


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default()


def _clean(label: str) -> str:
    """Return the label as one line of Latin-1, all that Pillow's bitmap font has without FreeType."""
    return " ".join(label.split()).encode("latin-1", "replace").decode("latin-1")


def _widest(draw: ImageDraw.ImageDraw, labels: Sequence[str]) -> int:
    return max(int(draw.textbbox((0, 0), _clean(label), _font())[2]) + 1 for label in labels)


def _cut(draw: ImageDraw.ImageDraw, label: str, width: int) -> str:
    if _widest(draw, [label[: width + 1]]) <= width:  # each letter is at least one pixel wide
        return label
    while label and _widest(draw, [label[:width] + "..."]) > width:
        label = label[:width][: -max(1, len(label[:width]) // 50)]
    return label + "..."


def _height(draw: ImageDraw.ImageDraw, labels: Sequence[str]) -> int:
    return max(int(draw.textbbox((0, 0), _clean(label), _font())[3]) for label in labels)


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, label: str, anchor: str) -> None:
    """Write a label around a point; the text is measured because bitmap fonts have no anchors."""
    left, top, right, bottom = draw.textbbox((0, 0), _clean(label), _font())
    x -= {"l": 0, "m": (left + right) / 2}[anchor[0]]
    draw.text((round(x), round(y - (top + bottom) / 2)), _clean(label), _INK, _font())
