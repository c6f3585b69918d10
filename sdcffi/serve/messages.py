"""Messages for clients: without the paths of the server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["without_paths"]

_PLACE = r"(?<![\w.~])(?:[A-Za-z]:|~\w*)?[/\\](?:[^\s/\\:;,'\"()]+[/\\])*"
_PATH = re.compile(_PLACE + r"([^\s/\\:;,'\"()]+)")


def without_paths(message: str, roots: Iterable[Path] = ()) -> str:
    """Return a message with the last part of each absolute path in place of the path.

    Parameters
    ----------
    message : str
    roots : iterable of Path
        Directories that it may have, whose names may have blanks.
    """
    for root in sorted(map(str, roots), key=len, reverse=True):
        if len(root) > 1:
            message = message.replace(root + os.sep, "").replace(root, Path(root).name)
    return _PATH.sub(r"\1", message)
