"""Tables of combinations that the engine and sd-cli generate alike: what a row says, and how it is checked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import THREADS, Pixels

from sdcffi import Engine

BySdCli = Callable[..., list[Pixels]]

SMALL: dict[str, Any] = {"prompt": "a lovely cat", "width": 64, "height": 64, "steps": 3, "seed": 42, "cfg_scale": 1.0}


def gradient(width: int, height: int) -> Pixels:
    """An image without two equal rows or columns."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def columns(left: int, right: int, width: int = 64, height: int = 64) -> Pixels:
    """A mask that goes from one value to the other."""
    return np.tile(np.linspace(left, right, width).astype(np.uint8), (height, 1))[..., None]


IMAGES = {
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
        sd-cli's, for what has another name there; ``{init}`` is the file of that image.
    generate : mapping
        What it is about: keywords of `Engine.generate`. Numbers, texts and True go to sd-cli by the same names.
    engine : mapping
        The same for `Engine`.
    beside : mapping
        Keywords of `Engine.generate` for this image and the one that it has to differ from.
    equal : str
        Why it does not differ, if it does not.
    """

    flags: str
    generate: Mapping[str, Any]
    engine: Mapping[str, Any]
    beside: Mapping[str, Any]
    equal: str

    def parameters(self) -> dict[str, Any]:
        """What sd-cli is given by our names; it does not put the original back outside of a mask."""
        given = {**self.engine, **self.beside, **self.generate}
        numbers = {name: value for name, value in given.items() if isinstance(value, (int, float, str))}
        return {name: value for name, value in numbers.items() if name != "paste_back"}


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


def write_images(directory: Path) -> dict[str, Path]:
    """Write `IMAGES` for sd-cli, and return the files by name."""
    for name, pixels in IMAGES.items():
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(directory / f"{name}.png")
    return {name: directory / f"{name}.png" for name in IMAGES}


def split(flags: str, **files: Path) -> list[str]:
    """Return the words of flags, with the names of files put in."""
    return [word.format(**files) for word in shlex.split(flags)]


def generate(files: Mapping[str, Any], *calls: Mapping[str, Any], **engine: Any) -> list[list[Pixels]]:
    """Make calls on an engine of their own, which gives its memory back before sd-cli takes as much."""
    with Engine(**{**files, "threads": THREADS, "backend": "cpu", "rng": "cpu", **engine}) as opened:
        return [[array.copy() for array in opened.generate(**{**SMALL, **call}).arrays] for call in calls]


def check_case(row: Case, engine: Engine, files: Mapping[str, Any], by_sd_cli: BySdCli) -> None:
    """Check that the engine's images are those of sd-cli, and differ from those without what the row is about."""
    call = {**SMALL, **row.beside, **row.generate}
    ours = generate(files, call, **row.engine)[0] if row.engine else engine.generate(**call).arrays
    assert_same(ours, by_sd_cli({**files, **row.parameters()}, row.flags))
    assert_acts(row, ours, engine.generate(**{**SMALL, **row.beside}).arrays)


def assert_same(ours: list[Pixels], theirs: list[Pixels]) -> None:
    assert [image.shape for image in ours] == [image.shape for image in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.std() > 10, "an empty image proves nothing"
        assert np.max(np.abs(our.astype(int) - their.astype(int))) == 0


def assert_acts(row: Case, images: list[Pixels], without: list[Pixels]) -> None:
    """Check that what the row is about changed the image, or did not where the row says so."""
    pairs = zip(images, without, strict=len(images) == len(without))
    differs = len(images) != len(without) or not all(np.array_equal(one, other) for one, other in pairs)
    assert differs != bool(row.equal), row.equal or "it has no effect, so being equal to sd-cli's proves nothing"
