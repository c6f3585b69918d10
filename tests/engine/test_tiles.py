"""Tiled decoding against decoding at once, on a network that has no norms: the same but for what a tile cannot see."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from families import ovis

from sdcffi import Engine, Tiling

Image = npt.NDArray[Any]
Generate = Callable[..., Image]
WIDTH, HEIGHT = 448, 64  # 56 latents, which tiles of 32 do not divide


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(ovis(tmp_path_factory.mktemp("tiles")).engine)


@pytest.fixture(scope="module", params=[False, True], ids=["", "circular"])
def generate(request: pytest.FixtureRequest, files: dict[str, Path]) -> Iterator[Generate]:
    with Engine(**files, circular=request.param, threads=2, backend="cpu") as engine:

        def generate(tiling: Tiling | None = None) -> Image:
            call: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "steps": 1, "cfg_scale": 1.0, "seed": 3}
            return np.asarray(engine.generate("a cat", **call, tiling=tiling).images[0]).astype(float)

        yield generate


def psnr(first: Image, second: Image) -> float:
    return float(10 * np.log10(255**2 / max(((first - second) ** 2).mean(), 1e-9)))


def test_tiles_join_everywhere(generate: Generate) -> None:
    whole, tiled = generate(), generate(Tiling())
    edge = [*range(16), *range(WIDTH - 16, WIDTH)]
    assert psnr(whole, tiled) > 50
    assert psnr(whole[:, edge], tiled[:, edge]) > 50


def test_the_overlap_is_heeded(generate: Generate) -> None:
    """A larger overlap takes more tiles, or blends more of what they share, and comes nearer to the whole."""
    whole = generate()
    images = [generate(Tiling(target_overlap=overlap)) for overlap in (0.0, 0.25, 0.5)]
    assert all((first != second).any() for first, second in itertools.pairwise(images))
    none, _, half = (psnr(whole, image) for image in images)
    assert half > none + 10
