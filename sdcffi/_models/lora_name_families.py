"""Families of models by the names of a LoRA's modules, and what tools put around these names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from .lora_name_table import Family, normal, read_name_table

__all__ = ["ENDINGS", "families_of", "spellings"]

ENDINGS = (".weight", ".scale", ".gamma")  # of what a module multiplies with
_WRAPPERS = ("base_model.model.", "_orig_mod.", "_fsdp_wrapped_module.", "module.")


def families_of(modules: Iterable[str]) -> tuple[Family, ...]:
    """Return the families of diffusion models that have most of some modules.

    Parameters
    ----------
    modules : iterable of str
        Names in a file, without the adapters' endings.

    Returns
    -------
    tuple of Family
        Several if they share these names, such as FLUX.1 and Chroma; none if no family has any of them.
    """
    rests = [_without_prefixes(module) for module in modules]
    counts = {
        family: sum(any(map(_pattern(family).fullmatch, names)) for names in rests)
        for family in read_name_table().families
    }
    most = max(counts.values())
    return tuple(family for family, count in counts.items() if count == most) if most else ()


def spellings(module: str) -> Iterator[str]:
    """Yield a name as it is, and then without what wrappers and old tools put into it."""
    yield module
    plain = module.removeprefix("lora.")
    for word in _WRAPPERS:
        if plain.startswith(word) or f".{word}" in plain:
            plain = plain.replace(word, "")
    for ending in (".base_layer", ".lora_linear_layer", ".lora_layer", *ENDINGS):
        plain = plain.removesuffix(ending)
    if plain != module:
        yield plain
    old = plain.replace(".processor.", ".").removesuffix("_lora")  # diffusers' attention processors
    if old != plain:
        yield old


def _without_prefixes(module: str) -> list[str]:
    """Return the normal forms that remain of a name without each prefix that it may have."""
    return [
        normal(form[len(prefix) :]) for form in spellings(module) for prefix in _prefixes() if form.startswith(prefix)
    ]


@lru_cache(maxsize=1)
def _prefixes() -> tuple[str, ...]:
    """The prefixes of modules of diffusion models."""
    parts = read_name_table().parts
    return (*parts["diffusion"].prefixes, *parts["high_noise"].prefixes)


@lru_cache(maxsize=64)
def _pattern(family: Family) -> re.Pattern[str]:
    """Return an expression for all names of a family, in their normal form."""
    names: dict[str, None] = {}
    for name in family.tables:
        table = read_name_table().tables[name]
        full = [*table.modules, *(row.name for row in table.rows)]
        names.update(dict.fromkeys(short.removeprefix(part) for short in full for part in ("", *table.optional)))
    return re.compile("|".join(re.escape(normal(name)).replace(r"\*", r"\d+") for name in names))
