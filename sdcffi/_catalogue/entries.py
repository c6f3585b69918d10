"""Entries of the catalogue, and how they are read from a table and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .._defaults.metadata import LIMITS
from .._defaults.recommended import Default
from .._models.architectures import FAMILIES
from .._models.weight_types import check_type
from .._numbers import check_number
from .._quoting import shown
from ..params.context import PRECISIONS, ContextParams
from ..params.image import ImageParams
from ..params.names import Parameter, parameters
from ..params.other_names import check_known
from ..params.plain import check_keys
from ..params.struct import Struct
from ..params.video import VideoParams

__all__ = ["ROLES", "Entry", "File", "LoraEntry", "ModelEntry", "Variant", "read_entries"]

ROLES = tuple(item.name.removesuffix("_path") for item in fields(ContextParams) if item.name.endswith("_path"))
"""What a file of a model can be: the keywords of `Engine` that take a path."""

# Families of newer engines alone, as the pages of upstream's documentation are called.
_NEWER_FAMILIES = (
    *("boogu_image", "hidream_o1_image", "hunyuan_video", "ideogram4", "krea2", "lens", "lingbot_video"),
    *("longcat_image", "ltx2", "mage_flow", "minimax_h3", "minit2i", "pid", "sefi_image"),
)
_ABOUT = ("name", "title", "licence", "good_at", "page")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBERS: dict[type, tuple[type, ...]] = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}


@dataclass(frozen=True)
class File:
    """A file of a model, or of a LoRA.

    Attributes
    ----------
    reference : str
        Where it comes from: ``"hf://..."``, ``"https://...#sha256=..."``, ``"package:..."`` for a file of this package,
        or a path.
    size : int or None
        In bytes. None: unknown.
    sha256 : str or None
        In hexadecimal. None: unknown.
    confirmed : bool
        False: it was not found whether the reference is right.
    """

    reference: str
    size: int | None = None
    sha256: str | None = None
    confirmed: bool = True


@dataclass(frozen=True)
class Variant:
    """The files of a model in certain weight types, by the keywords of `Engine` that take them."""

    name: str
    files: Mapping[str, File]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a model and a LoRA have in common.

    Attributes
    ----------
    name, title, licence, good_at, page : str
        The name, for people: title, licence, what it is good at, and where to read more.
    parameters : mapping of str to Default
        Recommended parameters of a call, by the names of `params.names`.
    source : str
        The file that it is from. Empty: the package's.
    """

    name: str
    title: str
    licence: str
    good_at: str
    page: str
    parameters: Mapping[str, Default]
    source: str = ""

    def recommended(self) -> dict[str, Default]:
        """Return the recommended parameters, each with where it comes from: the catalogue, and its source."""
        return {
            name: Default(item.value, f"catalogue: {self.name} ({item.source})")
            for name, item in self.parameters.items()
        }


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """A model.

    Attributes
    ----------
    family : str
        Its architecture, as `Engine.capabilities` calls it.
    engines : tuple of str
        Revisions of the engine that can run it.
    variants : mapping of str to Variant
        By name, the best first.
    options : mapping of str to Default
        Recommended parameters of `Engine`, by the names of `params.names`.
    """

    family: str
    engines: tuple[str, ...]
    variants: Mapping[str, Variant]
    options: Mapping[str, Default]


@dataclass(frozen=True, kw_only=True)
class LoraEntry(Entry):
    """A LoRA.

    Attributes
    ----------
    base : tuple of str
        Names of the models that it is for.
    strength : float
        Its multiplier, where none is given.
    file : File
    """

    base: tuple[str, ...]
    strength: float
    file: File


def read_entries(
    table: Mapping[str, Any], known: Mapping[str, File], where: str
) -> tuple[list[Entry], dict[str, File]]:
    """Read a catalogue.

    Parameters
    ----------
    table : mapping
        As TOML has it.
    known : mapping of str to File
        Files that its entries may name besides its own.
    where : str
        Its name in messages.

    Returns
    -------
    entries : list of Entry
    files : dict of str to File
        Those that entries may name.

    Raises
    ------
    ValueError
        With the entry and the key that are wrong.
    """
    check_keys(table, ("file", "model", "lora"), where)
    files = dict(known)
    for name, item in _typed(table, "file", dict, where, {}).items():
        files[name] = _file(item, {}, f"{where}: file {name}")
    entries: list[Entry] = []
    for kind, read in (("model", _model), ("lora", _lora)):
        for number, item in enumerate(_typed(table, kind, list, where, []), 1):
            if not isinstance(item, Mapping):
                raise ValueError(f"{where}: {kind} {number} must be a table, not {shown(item)}")
            label = f"{where}: {kind} {shown(item.get('name', number))}"
            entry = read(item, files, label)
            if any(entry.name == other.name for other in entries):
                raise ValueError(f"{label} is there twice: give one of them another name")
            entries.append(entry)
    return entries, files


def _model(item: Mapping[str, Any], files: Mapping[str, File], where: str) -> ModelEntry:
    check_keys(item, (*_ABOUT, "family", "engines", "files", "variants", "recommended"), where)
    about = _about(item, where)
    family = _typed(item, "family", str, where)
    if family not in (*FAMILIES, *_NEWER_FAMILIES):
        raise ValueError(
            f"{where}: family must be one of {', '.join([*FAMILIES, *_NEWER_FAMILIES])}, not {shown(family)}"
        )
    shared = _files(_typed(item, "files", dict, where, {}), files, f"{where}: files")
    variants = {}
    for name, own in _typed(item, "variants", dict, where).items():
        label = f"{where}: variants.{name}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{label} must have a name of small letters, digits, dots and dashes")
        if not isinstance(own, Mapping):
            raise ValueError(f"{label} must be a table of files, not {shown(own)}")
        variants[name] = Variant(name, {**shared, **_files(own, files, label)})
        if not variants[name].files.keys() & {"model", "diffusion_model"}:
            raise ValueError(f"{label} must have a file as model or as diffusion_model")
    if not variants:
        raise ValueError(f"{where}: variants must have at least one variant")
    values = dict(_recommended(item, (ContextParams, ImageParams, VideoParams), where))
    of_engine = {parameter.name for parameter in parameters(ContextParams)}
    return ModelEntry(
        **about,
        family=family,
        engines=_texts(item, "engines", where),
        variants=variants,
        parameters={name: value for name, value in values.items() if name not in of_engine},
        options={name: value for name, value in values.items() if name in of_engine},
    )


def _lora(item: Mapping[str, Any], files: Mapping[str, File], where: str) -> LoraEntry:
    check_keys(item, (*_ABOUT, "base", "strength", "file", "recommended"), where)
    return LoraEntry(
        **_about(item, where),
        base=_texts(item, "base", where),
        strength=_strength(item, where),
        file=_file(_given(item, "file", where), files, f"{where}: file"),
        parameters=dict(_recommended(item, (ImageParams, VideoParams), where)),
    )


def _strength(item: Mapping[str, Any], where: str) -> float:
    value = _typed(item, "strength", float, where, 1.0)
    check_number(f"{where}: strength", value)
    return float(value)


def _about(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    about = {key: _typed(item, key, str, where) for key in _ABOUT}
    if not _NAME.fullmatch(about["name"]):
        raise ValueError(f"{where}: name must be of small letters, digits, dots and dashes, not {shown(about['name'])}")
    return about


def _files(item: Mapping[str, Any], files: Mapping[str, File], where: str) -> dict[str, File]:
    check_keys(item, ROLES, where)
    return {role: _file(value, files, f"{where}.{role}") for role, value in item.items()}


def _file(item: Any, files: Mapping[str, File], where: str) -> File:
    if isinstance(item, str):
        if item not in files:
            raise ValueError(f"{where}: the catalogue has no file {shown(item)}: add [file.NAME], or give a table")
        return files[item]
    if not isinstance(item, Mapping):
        raise ValueError(f"{where} must be a table with a reference, not {shown(item)}")
    check_keys(item, [field.name for field in fields(File)], where)
    size, digest = _typed(item, "size", int, where, None), _typed(item, "sha256", str, where, None)
    if size is not None and size <= 0:
        raise ValueError(f"{where}: size must be a number of bytes, not {shown(size)}")
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError(f"{where}: sha256 must be 64 hexadecimal digits, not {shown(digest)}")
    return File(_typed(item, "reference", str, where), size, digest, _typed(item, "confirmed", bool, where, True))


def _recommended(
    item: Mapping[str, Any], structs: tuple[type[Struct], ...], where: str
) -> Iterator[tuple[str, Default]]:
    legal = {parameter.name: parameter for struct in structs for parameter in parameters(struct)}
    legal = {name: parameter for name, parameter in legal.items() if name not in ROLES}
    for part in _typed(item, "recommended", list, where, []):
        label = f"{where}: recommended"
        if not isinstance(part, Mapping):
            raise ValueError(f"{label} must be tables, not {shown(part)}")
        source = _typed(part, "source", str, label)
        check_keys(part, {*legal, "source"}, label)
        for name, value in part.items():
            if name != "source":
                yield name, Default(_value(legal[name], value, f"{label}.{name}"), source)


def _value(parameter: Parameter, value: Any, where: str) -> Any:
    kinds = _NUMBERS[parameter.kind]
    if parameter.many or not isinstance(value, kinds) or (isinstance(value, bool) and parameter.kind is not bool):
        kind = "list" if parameter.many else parameter.kind.__name__
        raise ValueError(f"{where} must be of type {kind}, not {shown(value)}")
    if parameter.kind in (int, float):
        check_number(where, value, *LIMITS.get(parameter.name) or ())
    elif parameter.name == "type":
        check_type(where, value)
    elif parameter.name == "precision" and value not in PRECISIONS:
        raise ValueError(f"{where} must be one of {', '.join(PRECISIONS)}, not {shown(value)}")
    check_known(where, value, parameter.path[-1])
    return value


def _texts(item: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _typed(item, key, list, where)
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{where}: {key} must be a list of names, not {shown(values)}")
    return tuple(values)


_REQUIRED: Any = object()


def _given(item: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in item:
        raise ValueError(f"{where}: {key} is missing")
    return item[key]


def _typed(item: Mapping[str, Any], key: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    """Return a value of a table, if it has the right type."""
    if key not in item and default is not _REQUIRED:
        return default
    value = _given(item, key, where)
    legal = _NUMBERS.get(kind, (kind,))
    if not isinstance(value, legal) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: {key} must be of type {kind.__name__}, not {shown(value)}")
    return value
