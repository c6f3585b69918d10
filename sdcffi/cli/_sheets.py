"""Contact sheets that commands generate: an image that fails leaves its place empty, and Ctrl-C writes what is done."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..engine.results import save_sheet
from ..errors import SDError
from ._saving import save_safely
from ._terminal import say

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["generate_sheet"]

_EMPTY = (224, 224, 224)
_Place = TypeVar("_Place", bound=Hashable)


def generate_sheet(
    generate: Callable[[_Place], Image.Image],
    wanted: Iterable[_Place],
    table: Sequence[Sequence[_Place]],
    labels: tuple[Sequence[str], Sequence[str]],
    output: Path,
    *,
    title: str = "",
    said: Callable[[_Place], str] = str,
    explained: Callable[[str], str] = str,
) -> Path:
    """Generate an image for each place, lay them out as a contact sheet, and write it.

    Parameters
    ----------
    generate : callable
        Called with a place; returns its image.
    wanted : iterable of places
        Each place once, in the order in which they are generated.
    table : sequence of rows of places
        The sheet. A place may be in it several times.
    labels : (rows, columns)
        Labels left of the rows and above the columns.
    output : Path
        Image file to write; it was checked.
    title : str
        Line above the sheet.
    said, explained : callable
        Return a place for a message, and the message of an error in the words of the command.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SDError
        If an image failed, after the sheet was written with its place empty; or if all failed, and nothing was written.
    KeyboardInterrupt
        After Ctrl-C, when the sheet was written with what was done.
    """
    done: dict[_Place, Image.Image] = {}
    places, failures, interrupted = list(wanted), 0, False
    try:
        for place in places:
            try:
                done[place] = generate(place)
            except (ValueError, TypeError, SDError, OSError) as error:  # the others are generated all the same
                failures += 1
                message = error.message if isinstance(error, SDError) else str(error)
                say(f"sdcffi: error: {said(place)}: {explained(message)}")
    except KeyboardInterrupt:
        if not done:
            raise
        interrupted = True
    if not done:
        raise SDError("every image of the grid failed; nothing was written")
    (path,) = save_safely(partial(save_sheet, _laid_out(done, table, labels, title)), output)
    if interrupted:
        say(f"sdcffi: interrupted after {len(done)} of {len(places)} images, which are in {path}; the others are empty")
        raise KeyboardInterrupt
    if failures:
        raise SDError(f"{failures} of {len(places)} images failed and are empty in {path}")
    return path


def _laid_out(
    done: dict[_Place, Image.Image],
    table: Sequence[Sequence[_Place]],
    labels: tuple[Sequence[str], Sequence[str]],
    title: str,
) -> Image.Image:
    from PIL import Image

    from ..images.contact_sheet import contact_sheet

    empty = Image.new("RGB", next(iter(done.values())).size, _EMPTY)
    return contact_sheet([[done.get(place, empty) for place in row] for row in table], *labels, title)
