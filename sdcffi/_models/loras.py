"""LoRA adapters of a call: paths, names, and tags in a prompt.

A name is looked up in one directory and never outside of it, since names also come from prompts.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

from .._files import expanded
from .._numbers import as_number, as_path, is_finite, items_of
from .._quoting import shown, shown_path
from .._references import HubReference, fetch, parse
from ..errors import LoraError, LoraNotFoundError, PathNotFoundError
from ..params.lora import Lora, LoraLike, lora_of, multiplier_of
from ..params.lora_tags import Tag, add_weights, parse_tags
from ..params.lora_weights import check_weights
from ..params.struct import StrPath
from .lora_file import FOLDER_FILES, has_adapter, read_lora

__all__ = ["as_loras", "merge_tags"]


def as_loras(items: Iterable[LoraLike], lora_dir: StrPath | None = None) -> tuple[Lora, ...]:
    """Check adapters before native code reads them. The engine would only log a missing file and go on.

    Parameters
    ----------
    items : iterable of Lora, path, or (path, multiplier), or mapping of path to multiplier
        The multiplier is a finite number; None, or none at all, is 1. A path may be a reference, which is downloaded.
    lora_dir : path, optional
        Directory in which a string without the ending of a LoRA file is looked up, as ``"name"`` or
        ``"folder/name"``. A `Path` is never looked up. None: every string is a path.

    Returns
    -------
    tuple of Lora
        With absolute paths and multipliers.

    Raises
    ------
    TypeError
        If `items` is not a sequence, or a multiplier is not a number.
    ValueError
        If a multiplier is not finite, or if a file is given twice for the same model.
    LoraError
        If a file does not exist or cannot be used (see `read_lora`), or if a name matches no file or several files.
    DownloadError
        If a file is given by reference, and cannot be downloaded.
    """
    if isinstance(items, (str, bytes, Lora)) or not isinstance(items, Iterable):
        raise TypeError(f"loras must be a sequence of Lora, path or (path, multiplier), not {shown(items)}")
    if isinstance(items, Mapping):
        items = items.items()
    checked: dict[tuple[str, bool], Lora] = {}
    for item in items_of("loras", items):
        lora = _as_lora(item, lora_dir)
        if checked.setdefault(_key(lora), lora) is not lora:
            raise ValueError(
                f"LoRA {lora.path} is given twice, and the engine would use only one multiplier; pass it once"
            )
    return tuple(checked.values())


def merge_tags(prompt: str, loras: Iterable[LoraLike], lora_dir: StrPath | None = None) -> tuple[str, tuple[Lora, ...]]:
    """Check adapters and add those that the prompt names in tags.

    The weights of all tags of a file and its multiplier in `loras` add up, as in sd-cli.

    Parameters
    ----------
    prompt : str
        See `parse_tags`.
    loras : iterable of Lora, path, or (path, multiplier)
        See `as_loras`.
    lora_dir : path, optional
        Directory in which the names in tags are looked up, with or without the ending of a LoRA file.

    Returns
    -------
    prompt : str
        The prompt without the tags.
    loras : tuple of Lora
        The adapters of `loras`, then those of the tags.

    Raises
    ------
    TypeError, ValueError, LoraError
        See `as_loras` and `parse_tags`. A `LoraError` is also raised for a tag without `lora_dir`.
    """
    prompt, tags = parse_tags(prompt)
    if tags and lora_dir is None:
        raise LoraError(
            f"the prompt names LoRA {shown(tags[0].name)}, but lora_dir is not set; pass lora_dir= to Engine, or"
            " lora_tags=False to leave tags in the prompt"
        )
    merged = {_key(lora): lora for lora in as_loras(loras, lora_dir)}
    for tag in tags:
        found = _find_lora(tag.name, lora_dir or "")
        lora = _as_lora(Lora(found, tag.multiplier, tag.is_high_noise, tag.name, tag.weights), None)
        key = _key(lora)
        if before := merged.get(key):
            lora = _as_lora(_added(before, tag), None)
        merged[key] = lora
    return prompt, tuple(merged.values())


def _key(lora: Lora) -> tuple[str, bool]:
    return os.path.realpath(lora.path), lora.is_high_noise


def _added(lora: Lora, tag: Tag) -> Lora:
    before = multiplier_of(lora), lora.weights
    multiplier, weights = add_weights(before, (tag.multiplier, tag.weights), str(lora.path))
    return replace(lora, multiplier=multiplier, weights=weights)


def _as_lora(item: LoraLike, lora_dir: StrPath | None) -> Lora:
    if isinstance(item, tuple) and not 1 <= len(item) <= len(fields(Lora)):
        raise TypeError(f"loras must have Lora, path or (path, multiplier), not {shown(item)}")
    item = lora_of(item)
    if not isinstance(item.path, (str, os.PathLike)):
        raise TypeError(f"loras must have Lora, path or (path, multiplier), not {shown(item.path)}")
    item = replace(item, path=as_path("loras", item.path))
    multiplier = as_number(f"multiplier of LoRA {shown_path(item.path)}", multiplier_of(item))
    if not is_finite(multiplier):
        raise ValueError(f"multiplier of LoRA {shown_path(item.path)} must be finite, not {shown(multiplier)}")
    weights = check_weights(item.weights, f"weights of LoRA {item.path}")
    path, label = _located(item.path, lora_dir)
    file = read_lora(path)
    return Lora(str(file.path), float(multiplier), item.is_high_noise, item.name or label, weights)


def _located(given: StrPath, lora_dir: StrPath | None) -> tuple[Path, str | None]:
    """Return the path of an adapter, and a name for it, where that of its file says nothing."""
    if reference := parse(given):
        try:
            path = fetch(reference, "lora")
        except PathNotFoundError as error:
            raise LoraNotFoundError(f"LoRA {error}") from error
        if not isinstance(reference, HubReference) or path.name not in FOLDER_FILES:
            return path, None
        inside = reference.path.removesuffix(path.name).rstrip("/")
        return path, (inside or reference.repository).rpartition("/")[2]
    is_name = isinstance(given, str) and not given.lower().endswith(_ENDINGS)
    path = _find_lora(str(given), lora_dir) if lora_dir is not None and is_name else Path(given)
    folder = expanded(path)
    return path, folder.resolve().name if folder.is_dir() else None


_ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_MOST_LISTED = 10_000  # files, and folders, among which similar names are searched
_LONGEST_NAME = 200  # characters of a name that similar ones are searched for


def _find_lora(name: str, lora_dir: StrPath) -> Path:
    """Find the file that a name means.

    Parameters
    ----------
    name : str
        ``"name"`` or ``"folder/name"``, with or without one of `_ENDINGS`, or a folder of PEFT or diffusers. A name
        without a folder is looked up in the folders below too, if the directory itself does not have it.
    lora_dir : path
        The directory in which it is looked up.

    Returns
    -------
    Path
        Path of the file, or of the folder. A symbolic link may lead anywhere: the owner of the directory made it.

    Raises
    ------
    LoraError
        If the name leads out of the directory, or matches no file or several files.
    """
    root = expanded(lora_dir, "lora_dir")
    if not root.is_dir():
        if not root.exists():
            raise LoraNotFoundError(f"lora_dir {root} does not exist")
        raise LoraError(f"lora_dir {root} is not a directory")
    if not _is_inside(name):
        raise LoraError(
            f"LoRA {shown(name)} is not a valid name inside lora_dir {root}: it must be relative and have no '..'"
        )
    tried = [root / name] if name.lower().endswith(_ENDINGS) else [root / (name + ending) for ending in _ENDINGS]
    try:
        found = [path for path in tried if path.exists()]
        if not found and has_adapter(root / name):
            found = [root / name]
    except OSError as error:  # such as a name that is too long for the file system
        raise LoraNotFoundError(f"LoRA {shown(name)} was not found: {error.strerror}") from error
    if len(found) > 1:
        raise LoraError(f"LoRA {shown(name)} may be {' or '.join(map(str, found))}; add the ending")
    found = found or sorted(_in_folders(name, root))
    if len(found) > 1:
        raise LoraError(
            f"LoRA {shown(name)} may be {' or '.join(map(str, found[:5]))}; name its folder too, as 'folder/name'"
        )
    if not found:
        near = _near(name, root)
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise LoraNotFoundError(f"LoRA {shown(name)} was not found; tried {', '.join(map(str, tried))}{hint}")
    return found[0]


def _is_inside(name: str) -> bool:
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    return bool(name.strip()) and "\0" not in name and not outside


def _near(name: str, root: Path) -> list[str]:
    if len(name) > _LONGEST_NAME:  # comparing takes as long as both are
        return []
    names = list(islice(_names(root), _MOST_LISTED))
    wanted = name.removesuffix(PurePosixPath(name).suffix) if name.lower().endswith(_ENDINGS) else name
    last = wanted.rpartition("/")[2].lower()
    same = [other for other in names if last in other.rpartition("/")[2].lower()]
    return (same + [other for other in difflib.get_close_matches(wanted, names, 5) if other not in same])[:5]


def _in_folders(name: str, root: Path) -> Iterator[Path]:
    """Yield what a name without a folder means in the folders below; links to folders are not followed."""
    if "/" in name or "\\" in name:
        return
    whole, count = name.lower().endswith(_ENDINGS), 0
    for folder, folders, files in os.walk(root):
        count += len(files)
        if count > _MOST_LISTED:
            return
        for file in files:
            if file.lower().endswith(_ENDINGS) and name == (file if whole else os.path.splitext(file)[0]):
                yield Path(folder) / file
        if name in folders and has_adapter(Path(folder) / name):
            yield Path(folder) / name


def _names(root: Path) -> Iterator[str]:
    for folder, _, files in islice(os.walk(root), _MOST_LISTED):
        for file in sorted(files):
            if file.lower().endswith(_ENDINGS):
                yield (Path(folder) / file).relative_to(root).with_suffix("").as_posix()
