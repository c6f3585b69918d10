"""Find the files of a model that is given as an index, as one of several parts, or as a directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from .._files import read_whole
from .._quoting import shown
from .._references.weights import ENDINGS, INDEX, PART, without_variants
from ..errors import PathNotFoundError
from .headers import read_header
from .tensors import HeaderError, Tensor

__all__ = ["components", "file_at", "is_in_parts", "parts_of"]

_MOST_INDEX = 16 << 20  # bytes
_MOST_PARTS = 1000
_UNET = "unet/diffusion_pytorch_model.safetensors"
# Folders of diffusers' directories and the fields of ContextParams; text encoders are told by their tensors.
_FOLDERS = {"vae": "vae_path", "image_encoder": "clip_vision_path"}
_TEXT_FOLDERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_CLIP = "text_model.embeddings.token_embedding.weight"


def file_at(keyword: str, path: Path) -> Path:
    """Return the file that a path stands for.

    Parameters
    ----------
    keyword : str
        Name of the parameter, for messages.
    path : Path
        A file, the index of a file in parts, one of the parts, or a directory with one file of weights, or parts.

    Returns
    -------
    Path
        The file, or the first of its parts, which stands for all of them.

    Raises
    ------
    ValueError
        If it is not clear which file is meant, or the index is damaged.
    """
    if os.path.isdir(path):  # Path.is_dir raises for names that are too long
        return _in_folder(keyword, path)
    if INDEX.fullmatch(path.name) and os.path.isfile(path):
        return _by_index(keyword, path)
    if (match := PART.fullmatch(path.name)) and int(match[2]) > 1:
        return path.with_name(f"{match[1]}-00001-of-{match[3]}{match[4]}")
    return path


def parts_of(keyword: str, path: Path) -> list[Path]:
    """Return all parts of a file of which a path is the first part, or just the path.

    Raises
    ------
    PathNotFoundError
        If a part is missing.
    """
    match = PART.fullmatch(path.name)
    count = int(match[3]) if match and int(match[2]) == 1 else 1
    if match is None or count < 2:
        return [path]
    if count > _MOST_PARTS:
        raise ValueError(f"{keyword}: {path} must have at most {_MOST_PARTS} parts, not {count}")
    parts = [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}{match[4]}") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not os.path.exists(part)]
    if missing:
        raise PathNotFoundError(
            f"{keyword}: of the {count} parts of {path.parent / match[1]}, {len(missing)} are missing: download"
            f" {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}"
        )
    return parts


def is_in_parts(name: str) -> bool:
    """Return whether a file's name is that of one of several parts, or of their index."""
    match = PART.fullmatch(name)
    return bool(INDEX.fullmatch(name)) or (match is not None and int(match[3]) > 1)


def components(path: Path) -> dict[str, Path]:
    """Return the files in a diffusers directory of a transformer, by the field of `ContextParams` that takes each.

    Parameters
    ----------
    path : Path
        The directory.

    Returns
    -------
    dict of str to Path
        Empty if it has no folder ``transformer``, or has a U-Net, whose directory the engine reads itself.

    Raises
    ------
    ValueError
        If a folder has no weights.
    """
    if (path / _UNET).is_file() or not (path / "transformer").is_dir():
        return {}
    found = {"diffusion_model_path": file_at("model", path / "transformer")}
    if (path / "transformer_2").is_dir():  # Wan 2.2 begins with the first and ends with the second
        found["high_noise_diffusion_model_path"] = found["diffusion_model_path"]
        found["diffusion_model_path"] = file_at("model", path / "transformer_2")
    for folder, slot in _FOLDERS.items():
        if (path / folder).is_dir():
            found[slot] = file_at("model", path / folder)
    for folder in _TEXT_FOLDERS:
        if (path / folder).is_dir():
            file = file_at("model", path / folder)
            found[_text_slot(file)] = file
    return found


def _text_slot(file: Path) -> str:
    tensors: dict[str, Tensor] = {}
    for part in parts_of("model", file):
        try:
            tensors |= read_header(part, whole_model=True)[1]
        except (HeaderError, OSError) as error:
            raise HeaderError(f"model: {part} cannot be read: {error}") from error
    if _CLIP in tensors:
        return "clip_g_path" if tensors[_CLIP].shape[-1:] == (1280,) else "clip_l_path"
    return "t5xxl_path" if any(name.startswith("encoder.block.") for name in tensors) else "llm_path"


def _in_folder(keyword: str, path: Path) -> Path:
    names = sorted(os.listdir(path))
    for kind in (*_indexes(names), _firsts(names)):
        if len(kind) == 1:
            return file_at(keyword, path / kind[0])
        if kind:
            raise ValueError(f"{keyword}: {path} has {', '.join(kind[:5])}: pass the path of one of them")
    raise ValueError(f"{keyword}: the directory {path} has no file of weights ({', '.join(ENDINGS)})")


def _indexes(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the indexes of parts in safetensors: those of a folder's main weights, and those of variants of them."""
    found = [match for name in names if (match := INDEX.fullmatch(name)) and match[2] == "safetensors"]
    return [match[0] for match in found if not match[3]], [match[0] for match in found if match[3]]


def _firsts(names: list[str]) -> list[str]:
    """Return the files of weights, each in parts once, of the first format that there is."""
    for ending in ENDINGS:
        found = [name for name in names if name.endswith(ending)]
        firsts = [name for name in found if not (match := PART.fullmatch(name)) or int(match[2]) == 1]
        if firsts:
            return without_variants(firsts)
    return []


def _by_index(keyword: str, path: Path) -> Path:
    try:
        content = json.loads(read_whole(path, _MOST_INDEX))
        names = sorted({str(name) for name in _values(content["weight_map"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{keyword}: {path} is no index of parts: {shown(str(error))}; download it again") from error
    if len(names) == 1 and os.path.basename(names[0]) == names[0]:
        return path.with_name(names[0])
    match = PART.fullmatch(names[0]) if names else None
    expected = [f"{match[1]}-{at + 1:05d}-of-{match[3]}{match[4]}" for at in range(len(names))] if match else []
    if match is None or os.path.basename(names[0]) != names[0] or names != expected or int(match[3]) != len(names):
        listed = ", ".join(map(shown, names[:3]))
        raise ValueError(
            f"{keyword}: the parts that {path} lists must be all of NAME-00001-of-0000N and so on beside it, not"
            f" {listed}"
        )
    return path.with_name(names[0])


def _values(weight_map: Mapping[str, object]) -> list[object]:
    return list(weight_map.values())
