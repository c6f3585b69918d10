"""What the names of files say: which are weights, in parts or not, and which of a repository are wanted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from .._quoting import shown
from ..errors import PathNotFoundError
from .forms import HubReference

__all__ = ["ENDINGS", "INDEX", "PART", "Kind", "chosen", "needs_others", "size_text", "without_variants"]

INDEX = re.compile(r"(.*)\.(safetensors|bin)\.index(\.\w+)?\.json")  # the last is a variant, such as .fp16
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})((?:\.\w+)+)")
ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_NEWER = ENDINGS[:2]
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema)(?=[.-])")
# Of a LoRA: what PEFT writes, with its configuration, and what diffusers writes.
_PEFT = ("adapter_model.safetensors", "adapter_model.bin")
_PEFT_CONFIG = "adapter_config.json"
_ADAPTERS = (*_PEFT, "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
# Of a diffusers directory: all files of a U-Net's, of which the engine knows the names; folders of a transformer's.
_PIPELINE = "model_index.json"
_UNET = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
)
_FOLDERS = ("transformer", "transformer_2", "vae", "image_encoder", "text_encoder", "text_encoder_2", "text_encoder_3")
_MOST_LISTED = 20

Kind: TypeAlias = Literal["model", "lora", "file"]  # a whole model, which may be a diffusers directory; any other file
Sizes: TypeAlias = Mapping[str, int | None]


def chosen(reference: HubReference, files: Sizes, kind: Kind) -> tuple[str, list[str]]:
    """Choose what to download of a repository.

    Parameters
    ----------
    reference : HubReference
        Which may name a file, one of several parts or their index, a folder, or nothing in the repository.
    files : mapping of str to int or None
        Size of each of its files, if it is known.
    kind : str
        ``"model"``, ``"lora"``, or ``"file"`` for parts of models and upscaling networks.

    Returns
    -------
    wanted : str
        What the reference stands for: a file, the first of several parts, or a folder (empty: the repository).
    names : list of str
        The files that it needs.

    Raises
    ------
    PathNotFoundError
        If there is no such file or folder. The message has similar names.
    ValueError
        If it is not clear which file is meant. The message has the candidates, with their sizes.
    """
    path = reference.path
    if path in files:
        return _whole(reference, path, files)
    prefix = f"{path}/" if path else ""
    inside = {name[len(prefix) :]: size for name, size in files.items() if name.startswith(prefix)}
    if not inside and path:
        raise PathNotFoundError(f"{reference} does not exist: {_near(path, files)}")
    if kind == "model" and _PIPELINE in inside:
        return path, [prefix + name for name in _of_pipeline(reference, inside)]
    adapter = next((name for name in _ADAPTERS if name in inside), None) if kind == "lora" else None
    return _whole(reference, prefix + (adapter or _only(reference, inside)), files)


def needs_others(name: str) -> bool:
    """Return whether a file's name is that of one that is of no use without files beside it."""
    match = PART.fullmatch(name)
    return name.rpartition("/")[2] in _PEFT or bool(INDEX.fullmatch(name)) or (match is not None and int(match[3]) > 1)


def _whole(reference: HubReference, path: str, files: Sizes) -> tuple[str, list[str]]:
    """Return a file with those that it needs beside it: its other parts, or PEFT's configuration."""
    folder, _, name = path.rpartition("/")
    prefix = f"{folder}/" if folder else ""
    if match := INDEX.fullmatch(name):
        stem, ending, variant = match[1], f".{match[2]}", match[3] or ""
        of_it = {(stem + variant, ending), (stem, variant + ending)}
        firsts = [other for other in files if other.startswith(prefix) and _is_first(other[len(prefix) :], of_it)]
        if not firsts:
            raise PathNotFoundError(f"{reference} is an index, and the parts that it lists are not beside it")
        path = firsts[0]
    if match := PART.fullmatch(path):
        parts = [f"{match[1]}-{number + 1:05d}-of-{match[3]}{match[4]}" for number in range(int(match[3]))]
        if missing := [part for part in parts if part not in files]:
            raise PathNotFoundError(f"{reference}: {missing[0]}, one of {len(parts)} parts, does not exist there")
        return parts[0], parts
    config = prefix + _PEFT_CONFIG
    return path, [path, config] if name in _PEFT and config in files else [path]


def _is_first(name: str, of_it: set[tuple[str, str]]) -> bool:
    match = PART.fullmatch(name)
    return match is not None and int(match[2]) == 1 and (match[1], match[4]) in of_it


def _of_pipeline(reference: HubReference, files: Sizes) -> list[str]:
    """Return the files that are read of a diffusers directory, one set of weights in each folder."""
    if _UNET[0] in files:
        return [_PIPELINE, *(name for name in _UNET if name in files)]
    names = [_PIPELINE]
    for folder in _FOLDERS:
        inside = {name: size for name, size in files.items() if name.startswith(f"{folder}/")}
        if inside:
            names += _whole(reference, _only(reference, inside), files)[1]
    if not any(name.startswith("transformer/") for name in names):
        raise ValueError(
            f"{reference} is a diffusers directory without {_UNET[0]} or a folder transformer, and other ones are not"
            f" read: name a file in it. {_listed(_candidates(files), files)}"
        )
    return names


def _only(reference: HubReference, files: Sizes) -> str:
    found = _candidates(files)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"{reference} has no file of weights ({', '.join(ENDINGS)})")
    raise ValueError(f"{reference} has {len(found)} files of weights: name one of them. {_listed(found, files)}")


def _candidates(files: Iterable[str]) -> list[str]:
    """Return the files of weights, each in parts once, of newer formats if there are any."""
    for endings in (_NEWER, ENDINGS):
        found = [name for name in files if name.endswith(endings)]
        firsts = [name for name in found if not (match := PART.fullmatch(name)) or int(match[2]) == 1]
        if firsts:
            return without_variants(firsts)
    return []


def without_variants(names: list[str]) -> list[str]:
    """Remove ``NAME.fp16.safetensors`` and the like where ``NAME.safetensors`` is there too."""
    plain = {_VARIANT.sub("", name) for name in names if not _VARIANT.search(name)}
    numbered = {PART.sub(r"\1\4", name) for name in plain}  # another number of parts
    return [
        name
        for name in names
        if not _VARIANT.search(name) or PART.sub(r"\1\4", _VARIANT.sub("", name)) not in plain | numbered
    ]


def _listed(names: list[str], files: Sizes) -> str:
    lines = [f"{name} ({size_text(size)})" if (size := files[name]) is not None else name for name in sorted(names)]
    more = f" and {len(lines) - _MOST_LISTED} more" if len(lines) > _MOST_LISTED else ""
    return f"There are {', '.join(lines[:_MOST_LISTED])}{more}"


def _near(path: str, files: Sizes) -> str:
    last = path.rpartition("/")[2].lower()
    same = [name for name in files if last in name.lower()]
    near = (same + [name for name in difflib.get_close_matches(path, files, 5, 0.5) if name not in same])[:5]
    near = near or _candidates(files)[:5]
    return f"the repository has {', '.join(map(shown, near))}" if near else "the repository has no file of weights"


def size_text(size: int | None) -> str:
    """Return a number of bytes for people, in decimal units as on the Hub's pages."""
    if size is None:
        return "an unknown size"
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
