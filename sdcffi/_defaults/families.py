"""What each family of models was made for: the table ``families.toml``, and the row for a model."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from .._models.files import Model

__all__ = ["Family", "Value", "families", "family_of"]

Value: TypeAlias = int | float | str


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of the table, whose comment says what each column means."""

    architecture: str
    title: str
    values: Mapping[str, Value]
    source: str
    words: tuple[str, ...] = ()
    tensor: str = ""
    columns: int = 0
    high_noise: bool = False
    areas: tuple[float, float] = (0.1, 4.0)

    @property
    def is_general(self) -> bool:
        """Whether it fits every model of the architecture."""
        return not (self.words or self.tensor or self.high_noise)

    def fits(self, model: Model, words: Collection[str]) -> bool:
        """Return whether a model of the architecture, with these words in its metadata, is of this kind."""
        return (
            self.is_general
            or not set(self.words).isdisjoint(words)
            or (self.high_noise and model.has_high_noise is True)
            or (self.tensor != "" and self._is_told_by_tensor(model))
        )

    def _is_told_by_tensor(self, model: Model) -> bool:
        return any(
            self.tensor in name and self.columns in (0, *tensor.shape[-1:])
            for file in model.files
            for name, tensor in file.tensors.items()
        )


@cache
def families() -> tuple[Family, ...]:
    """Return the table; ``docs/defaults.md`` shows it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = files("sdcffi._defaults").joinpath("families.toml").read_text("utf-8")
    return tuple(map(_row, tomllib.loads(text)["family"]))


def _row(values: dict[str, Any]) -> Family:
    lists: dict[str, Any] = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Family(**{**values, **lists})


def family_of(model: Model, words: Collection[str]) -> tuple[Family | None, tuple[Family, ...]]:
    """Return the kind of a model, and others that it may be, which have the same tensors.

    Parameters
    ----------
    model : Model
    words : collection of str
        Words in the metadata of its file, in lower case.

    Returns
    -------
    family : Family or None
        None: its architecture is unknown, or has no row.
    others : tuple of Family
        Empty if its tensors or the words tell which it is.
    """
    rows = [row for row in families() if model.architecture and row.architecture == model.architecture.name]
    found = next((row for row in rows if row.fits(model, words)), None)
    if found is None or found.words or found.tensor:
        return found, ()
    return found, tuple(row for row in rows if row.words)
