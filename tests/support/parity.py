"""Tables of combinations that the engine and sd-cli draw alike: what a row says, and how it is checked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import Pixels

Draw = Callable[..., list[Pixels]]


def gradient(width: int, height: int) -> Pixels:
    """A picture without two equal rows or columns."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def columns(left: int, right: int, width: int = 64, height: int = 64) -> Pixels:
    """A mask that goes from one value to the other."""
    return np.tile(np.linspace(left, right, width).astype(np.uint8), (height, 1))[..., None]


PICTURES = {
    "init": gradient(64, 64),
    "large": gradient(128, 128),
    "other": np.ascontiguousarray(gradient(64, 64)[::-1, ::-1]),
    "wide": gradient(96, 64),
    "half": np.ascontiguousarray(columns(-255, 255).clip(0) // 128 * 255),
    "soft": columns(0, 170),
}


@dataclass(frozen=True)
class Case:
    """One combination.

    Attributes
    ----------
    flags : str
        sd-cli's, for what has another name there; ``{init}`` is the file of that picture.
    generate : mapping
        What it is about: keywords of `Engine.generate`. Numbers, texts and True go to sd-cli by the same names.
    engine : mapping
        The same for `Engine`.
    beside : mapping
        Keywords of `Engine.generate` for this picture and the one that it has to differ from.
    equal : str
        Why it does not differ, if it does not.
    """

    flags: str
    generate: Mapping[str, Any]
    engine: Mapping[str, Any]
    beside: Mapping[str, Any]
    equal: str

    def parameters(self) -> dict[str, Any]:
        """What sd-cli is given by our names."""
        given = {**self.engine, **self.beside, **self.generate}
        return {name: value for name, value in given.items() if isinstance(value, (int, float, str))}


def case(
    flags: str = "",
    *,
    engine: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    equal: str = "",
    **generate: Any,
) -> Case:
    return Case(flags, generate, engine or {}, beside or {}, equal)


def rows(table: Mapping[str, Case], quick: Collection[str]) -> list[Any]:
    """The table for `pytest.mark.parametrize`: all but the `quick` ones are for the slow run."""
    assert set(quick) <= set(table)
    return [pytest.param(row, id=name, marks=[] if name in quick else pytest.mark.slow) for name, row in table.items()]


def write_pictures(directory: Path) -> dict[str, Path]:
    """Write `PICTURES` for sd-cli, and give the files by name."""
    for name, pixels in PICTURES.items():
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(directory / f"{name}.png")
    return {name: directory / f"{name}.png" for name in PICTURES}


def split(flags: str, **files: Path) -> list[str]:
    """Give the words of flags, with the names of files put in."""
    return [word.format(**files) for word in shlex.split(flags)]


def assert_same(ours: list[Pixels], theirs: list[Pixels]) -> None:
    assert [picture.shape for picture in ours] == [picture.shape for picture in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.std() > 10, "an empty picture proves nothing"
        assert np.max(np.abs(our.astype(int) - their.astype(int))) == 0


def assert_acts(row: Case, drawn: list[Pixels], without: list[Pixels]) -> None:
    """Check that what the row is about changed the picture, or did not where the row says so."""
    pairs = zip(drawn, without, strict=len(drawn) == len(without))
    differs = len(drawn) != len(without) or not all(np.array_equal(one, other) for one, other in pairs)
    assert differs != bool(row.equal), row.equal or "it has no effect, so being equal to sd-cli's proves nothing"
