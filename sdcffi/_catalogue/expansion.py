"""What a name stands for: ``catalogue:NAME`` as a model becomes the files of one of its variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .._quoting import shown_path
from .._references import CatalogueReference, parse
from ..errors import PathNotFoundError
from ..params.context import ContextParams
from ..params.names import parameters
from .entries import LoraEntry, ModelEntry, Variant
from .files import place
from .reader import Catalogue, bare_name_hint, read_catalogue, variant_of
from .variants import Room, choose

__all__ = ["Chosen", "with_files", "with_variants"]


@dataclass(frozen=True)
class Chosen:
    """The entry that was given as a model, and the variant whose files are loaded.

    Attributes
    ----------
    entry : ModelEntry
    variant : Variant
    """

    entry: ModelEntry
    variant: Variant


def with_variants(
    params: ContextParams, room: Callable[[], Room], tell: Callable[[str], object]
) -> tuple[ContextParams, dict[str, Chosen]]:
    """Put ``catalogue:NAME/VARIANT`` in the places of names without a variant, so that each is chosen once.

    Parameters
    ----------
    params, room, tell
        See `with_files`.

    Returns
    -------
    params : ContextParams
    chosen : dict of str to Chosen
        What names stand for, by the C field that has one.

    Raises
    ------
    ValueError
        If a name or a variant does not exist, or is that of a LoRA.
    """
    paths = {slot: value for slot, value in params.given().items() if slot.endswith("_path")}
    wanted = {slot: named for slot, value in paths.items() if isinstance(named := parse(value), CatalogueReference)}
    if not wanted:
        return params, {}
    catalogue = read_catalogue()
    chosen = {slot: _chosen(catalogue, slot, reference, room, tell) for slot, reference in wanted.items()}
    names = {slot: str(CatalogueReference(found.entry.name, found.variant.name)) for slot, found in chosen.items()}
    return replace(params, **names), chosen  # type: ignore[arg-type]


def with_files(
    params: ContextParams, room: Callable[[], Room], tell: Callable[[str], object]
) -> tuple[ContextParams, Chosen | None]:
    """Put files, or references to them, in the places of names of the catalogue.

    Parameters
    ----------
    params : ContextParams
        A name as `model_path` stands for all files of the model, and for the options that it needs. As any other path
        it stands for its file of that kind. What is given besides wins.
    room : callable
        Returns the memory in which the model has to fit. It is called only if there is a choice.
    tell : callable
        Called with a note on the variant that was chosen.

    Returns
    -------
    params : ContextParams
    chosen : Chosen or None
        What `model_path` named. None: it named nothing of the catalogue.

    Raises
    ------
    ValueError
        If a name or a variant does not exist, or has no such file. Also for a name without ``catalogue:`` that is no
        file.
    """
    params, named = with_variants(params, room, tell)
    if not named:
        _refuse_bare_name(params.model_path)
        return params, None
    values = dict[str, Any]()
    for slot, found in named.items():
        if slot == "model_path":
            values[slot] = None
            values |= _options(found.entry, params)
            values |= {
                f"{role}_path": place(file)
                for role, file in found.variant.files.items()
                if role == "model" or getattr(params, f"{role}_path") is None
            }
        else:
            role = slot.removesuffix("_path")
            if role not in found.variant.files:
                raise ValueError(
                    f"{role}: {found.entry.name} has no such file in the catalogue; it has"
                    f" {', '.join(found.variant.files)}"
                )
            values[slot] = place(found.variant.files[role])
    return replace(params, **values), named.get("model_path")


def _chosen(
    catalogue: Catalogue,
    slot: str,
    reference: CatalogueReference,
    room: Callable[[], Room],
    tell: Callable[[str], object],
) -> Chosen:
    entry = catalogue.entry(reference.name)
    if isinstance(entry, LoraEntry):
        raise ValueError(
            f"{slot.removesuffix('_path')}: {entry.name} is a LoRA: pass 'catalogue:{entry.name}' to generate(), in"
            " loras="
        )
    assert isinstance(entry, ModelEntry)
    if reference.variant is not None:
        return Chosen(entry, variant_of(entry, reference.variant))
    if len(entry.variants) == 1:
        return Chosen(entry, next(iter(entry.variants.values())))
    variant, reason = choose(entry, room())
    tell(f"catalogue:{entry.name}: variant {variant.name}, {reason}")
    return Chosen(entry, variant)


def _options(entry: ModelEntry, params: ContextParams) -> dict[str, Any]:
    """Return the entry's options that are not given, by their C names."""
    fields = {item.name: item.path[0] for item in parameters(ContextParams)}
    options = {fields[name]: option.value for name, option in entry.options.items()}
    return {field: value for field, value in options.items() if getattr(params, field) is None}


def _refuse_bare_name(model: Any) -> None:
    """Refuse the name of a model that is no file, with the word for it."""
    if hint := bare_name_hint(model, ModelEntry):
        raise PathNotFoundError(f"model: {shown_path(model)!r} does not exist{hint}")
