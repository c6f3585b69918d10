"""Find the file that a LoRA's name stands for in a directory, and none outside it: names come from prompts too."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import LoraError
from .params.struct import StrPath

__all__ = ["ENDINGS", "find_lora"]

ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt")
_MOST_LISTED = 10_000  # files looked at to find near names


def find_lora(name: str, lora_dir: StrPath) -> Path:
    """Look a name up.

    Parameters
    ----------
    name : str
        ``"name"`` or ``"folder/name"``, with or without one of `ENDINGS`.
    lora_dir : path
        The directory.

    Returns
    -------
    Path
        The file, symbolic links followed.

    Raises
    ------
    LoraError
        If the name leads out of the directory (also by a symbolic link), stands for several files, or for none.
    """
    root = Path(lora_dir).expanduser()
    if not root.is_dir():
        raise LoraError(f"lora_dir {root} is not a directory")
    if not _is_inside(name):
        raise LoraError(f"LoRA {name!r} is no name within lora_dir {root}: it must be relative and without '..'")
    tried = [root / name] if name.lower().endswith(ENDINGS) else [root / (name + ending) for ending in ENDINGS]
    found = [path for path in tried if path.exists()]
    if len(found) > 1:
        raise LoraError(f"LoRA {name!r} stands for {' and '.join(map(str, found))}; name it with its ending")
    if not found:
        near = _near(name, root)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise LoraError(f"LoRA {name!r} not found; tried {', '.join(map(str, tried))}{hint}")
    resolved = found[0].resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise LoraError(f"LoRA {name!r}: {found[0]} is a link to {resolved}, outside lora_dir {root}")
    return resolved


def _is_inside(name: str) -> bool:
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    return bool(name.strip()) and "\0" not in name and not outside


def _near(name: str, root: Path) -> list[str]:
    names = list(islice(_names(root), _MOST_LISTED))
    wanted = name.removesuffix(PurePosixPath(name).suffix) if name.lower().endswith(ENDINGS) else name
    last = wanted.rpartition("/")[2].lower()
    same = [other for other in names if last in other.rpartition("/")[2].lower()]
    return (same + [other for other in difflib.get_close_matches(wanted, names, 5) if other not in same])[:5]


def _names(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        for file in sorted(files):
            if file.lower().endswith(ENDINGS):
                yield (Path(folder) / file).relative_to(root).with_suffix("").as_posix()
