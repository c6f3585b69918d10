"""Write files so that a reader, or the next run, finds the old one or the whole new one and nothing between."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, of the same name, that is moved there when the block succeeds."""
    with tempfile.TemporaryDirectory(prefix=".sdcffi-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
