"""LoRAs of the catalogue by name, among those of a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .._defaults.recommended import Default
from .._numbers import items_of
from .._quoting import shown_path
from .._references import CatalogueReference, parse
from ..errors import LoraNotFoundError
from ..params.lora import Lora, LoraLike, lora_of
from .entries import LoraEntry
from .files import place
from .reader import bare_name_hint, read_catalogue

__all__ = ["entry_of", "with_lora_files"]


def with_lora_files(items: Iterable[LoraLike], by_name: bool) -> tuple[Iterable[LoraLike], dict[str, Default]]:
    """Put files, or references to them, in the places of names of the catalogue.

    Parameters
    ----------
    items : iterable of Lora, path, or (path, multiplier), or mapping of path to multiplier
        Where no multiplier is given, or None, it is the catalogue's.
    by_name : bool
        Whether a string may be a name in a directory of LoRAs.

    Returns
    -------
    items : iterable of Lora, path, or (path, multiplier)
    parameters : dict of str to Default
        What the catalogue recommends for a call with them, such as few steps. A later one of them wins.

    Raises
    ------
    ValueError
        If there is no such name, or it is a model's.
    LoraNotFoundError
        For a name without ``catalogue:`` that is no file, if it can only be that.
    """
    if isinstance(items, (str, bytes, Lora)) or not isinstance(items, Iterable):
        return items, {}  # refused later
    if isinstance(items, Mapping):
        items = items.items()
    found, values = list[LoraLike](), dict[str, Default]()
    for item in items_of("loras", items):
        entry = entry_of(item)
        if entry is not None:
            item = _with_file(item, entry)
            values |= entry.recommended()
        elif not by_name:
            _refuse_bare_name(_path(item))
        found.append(item)
    return found, values


def entry_of(item: Any) -> LoraEntry | None:
    """Return the entry that an item of `loras` names. None: it is none of the catalogue.

    Raises
    ------
    ValueError
        If there is no such name, or it is a model's.
    """
    reference = parse(path) if isinstance(path := _path(item), str) else None
    if not isinstance(reference, CatalogueReference):
        return None
    entry = read_catalogue().entry(reference.name)
    if not isinstance(entry, LoraEntry):
        raise ValueError(f"loras: {entry.name} is a model, not a LoRA: pass it to Engine as 'catalogue:{entry.name}'")
    if reference.variant is not None:
        raise ValueError(f"loras: {entry.name} has no variants: pass 'catalogue:{entry.name}'")
    return entry


def _path(item: Any) -> Any:
    if isinstance(item, Lora):
        return item.path
    return item[0] if isinstance(item, tuple) and item else item


def _with_file(item: LoraLike, entry: LoraEntry) -> LoraLike:
    lora = lora_of(item)
    strength = entry.strength if lora.multiplier is None else lora.multiplier
    return replace(lora, path=place(entry.file), multiplier=strength, name=lora.name or entry.name)


def _refuse_bare_name(path: Any) -> None:
    if hint := bare_name_hint(path, LoraEntry):
        raise LoraNotFoundError(f"LoRA {shown_path(path)} does not exist{hint}")
