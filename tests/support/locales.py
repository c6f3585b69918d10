"""Locales that are made here, since systems rarely have those that tests want."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def locales(directory: Path, *names: str) -> list[str]:
    """Locales that are made here, in a directory for LOCPATH; none where they cannot be made.

    German writes 1.5 as 1,5, and in Turkish I is no capital i.
    """
    if (localedef := shutil.which("localedef")) is None:
        return []
    for name in names:
        language, charset = name.split(".")
        command = [localedef, "-i", language, "-f", charset, str(directory / name)]
        subprocess.run(command, capture_output=True, check=False)
    return sorted(path.name for path in directory.iterdir() if (path / "LC_CTYPE").is_file())
