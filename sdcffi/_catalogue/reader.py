"""The catalogue: ``models.toml`` of the package, and the user's own file, whose entries win."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import platformdirs

from .._files import expanded
from .._quoting import shown
from .._references import CatalogueReference, parse
from .._references.weights import ENDINGS
from ..errors import PathNotFoundError
from ..params.plain import parse_toml, read_table
from .entries import Entry, File, LoraEntry, ModelEntry, Variant, read_entries

__all__ = [
    "PACKAGE",
    "Catalogue",
    "bare_name_hint",
    "package_catalogue",
    "parse_name",
    "read_catalogue",
    "user_file",
    "variant_of",
]

PACKAGE = "package:"
"""How references to files of this package begin."""

_SURELY = 0.8  # how alike names are, of which one is a slip of the other
_LONGEST_NAME = 200  # characters of a name that similar ones are searched for


@dataclass(frozen=True)
class Catalogue:
    """The models and LoRAs that have names.

    Attributes
    ----------
    entries : mapping of str to Entry
        By name, in the order of the files.
    """

    entries: Mapping[str, Entry]

    @property
    def models(self) -> tuple[ModelEntry, ...]:
        """The models."""
        return tuple(entry for entry in self.entries.values() if isinstance(entry, ModelEntry))

    @property
    def loras(self) -> tuple[LoraEntry, ...]:
        """The LoRAs."""
        return tuple(entry for entry in self.entries.values() if isinstance(entry, LoraEntry))

    def entry(self, name: str) -> Entry:
        """Return the entry of a name.

        Raises
        ------
        PathNotFoundError
            If there is none. The message has similar names.
        """
        if name not in self.entries:
            near = difflib.get_close_matches(name[:_LONGEST_NAME].lower(), self.entries, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "sdcffi models list shows all names"
            raise PathNotFoundError(f"the catalogue has no {shown(name)}; {hint}")
        return self.entries[name]


def bare_name_hint(text: Any, kind: type[Entry]) -> str:
    """Return what to pass in place of a text that is no file, but a name of the catalogue, or nearly.

    Parameters
    ----------
    text : object
        What was given as a path.
    kind : type
        `ModelEntry` or `LoraEntry`.

    Returns
    -------
    str
        The end of a message. Empty: it is a file, or looks like one.
    """
    if not isinstance(text, str) or os.path.basename(text) != text or os.path.exists(text):
        return ""
    name = text.lower()
    names = [one for one, entry in read_catalogue().entries.items() if isinstance(entry, kind)]
    if name in names:
        near = [name]
    else:
        near = [] if name.endswith(ENDINGS) else difflib.get_close_matches(name[:_LONGEST_NAME], names, 3, _SURELY)
    return f"; for the catalogue's, pass {' or '.join(repr(f'catalogue:{one}') for one in near)}" if near else ""


def variant_of(entry: ModelEntry, name: str) -> Variant:
    """Return a variant of a model.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in entry.variants:
        raise ValueError(f"{entry.name} has no variant {shown(name)}; legal: {', '.join(entry.variants)}")
    return entry.variants[name]


def parse_name(catalogue: Catalogue, text: str) -> tuple[Entry, Variant | None]:
    """Return the entry and the variant that ``NAME[/VARIANT]`` means, with or without ``catalogue:``.

    Raises
    ------
    ValueError
        If there is none, or the entry is a LoRA, which has no variants.
    """
    name, slash, variant = text.removeprefix("catalogue:").partition("/")
    entry = catalogue.entry(name)
    if not slash:
        return entry, None
    if not isinstance(entry, ModelEntry):
        raise ValueError(f"{entry.name} is a LoRA, which has no variants, not even {shown(variant)}")
    return entry, variant_of(entry, variant)


def user_file() -> Path:
    """Return the user's own catalogue, which need not exist. ``SDCFFI_CATALOGUE`` is another file."""
    if given := os.environ.get("SDCFFI_CATALOGUE"):
        return expanded(given, "SDCFFI_CATALOGUE")
    return Path(platformdirs.user_config_dir("sdcffi")) / "models.toml"


def package_catalogue() -> Catalogue:
    """Read the package's own file."""
    return _checked(_package()[0])


def read_catalogue() -> Catalogue:
    """Read both files.

    Raises
    ------
    ValueError
        If the user's file cannot be read, or has an entry that is wrong; the message names it and its key. Also if
        ``SDCFFI_CATALOGUE`` is a file that does not exist.
    """
    entries, known = _package()
    path = user_file()
    if os.path.lexists(path) or os.environ.get("SDCFFI_CATALOGUE"):
        table = read_table(path)
        try:
            table = _with_paths(table, path.parent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        own, _ = read_entries(table, known, str(path))
        names = {entry.name for entry in own}
        entries = [entry for entry in entries if entry.name not in names]
        entries += [replace(entry, source=str(path)) for entry in own]
    return _checked(entries)


@lru_cache(maxsize=1)
def _package() -> tuple[list[Entry], dict[str, File]]:
    text = files("sdcffi._catalogue").joinpath("models.toml").read_text("utf-8")
    return read_entries(parse_toml(text), {}, "the catalogue of the package")


def _checked(entries: list[Entry]) -> Catalogue:
    catalogue = Catalogue({entry.name: entry for entry in entries})
    for lora in catalogue.loras:
        for base in lora.base:
            if not isinstance(catalogue.entries.get(base), ModelEntry):
                where = lora.source or "the catalogue of the package"
                raise ValueError(f"{where}: lora {lora.name!r}: base: the catalogue has no model {shown(base)}")
    return catalogue


def _with_paths(value: Any, directory: Path) -> Any:
    """Return a table in which paths are relative to the catalogue that they are in, and references are checked."""
    if isinstance(value, list):
        return [_with_paths(item, directory) for item in value]
    if not isinstance(value, dict):
        return value
    table = {key: _with_paths(item, directory) for key, item in value.items()}
    if isinstance(reference := table.get("reference"), str):
        found = parse(reference)
        if isinstance(found, CatalogueReference) or not reference or "\0" in reference:
            raise ValueError(f"reference must be hf://..., https://...#sha256=... or a path, not {shown(reference)}")
        if found is None:
            table["reference"] = str((directory / expanded(reference)).absolute())
    return table
