"""Where tiles begin, and how much each counts, from csrc/engine/tile_axis.hpp."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiled import compiled

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include "engine/tile_axis.hpp"
int main(int, char** words) {
    const int size = std::atoi(words[1]), tile = std::atoi(words[2]), overlap = std::atoi(words[3]);
    for (auto& one : sdcffi::tiles_along({size, tile, overlap, words[4][0] == 'c'}, 8)) {
        std::printf("%d", one.begin);
        for (float weight : one.weights) { std::printf(" %.9g", weight); }
        std::printf("\n");
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(PROGRAM, tmp_path_factory.mktemp("tiles"))


@pytest.mark.parametrize("kind", ["plain", "circular"])
@pytest.mark.parametrize(
    ("size", "overlap"), [(56, 16), (56, 8), (56, 0), (88, 16), (120, 16), (128, 16), (33, 5), (32, 16)]
)
def test_weights_of_tiles(kind: str, size: int, overlap: int, program: Path) -> None:
    run = subprocess.run([program, str(size), "32", str(overlap), kind], capture_output=True, text=True, check=True)
    table = np.loadtxt(run.stdout.splitlines(), ndmin=2)
    begin, weights = table[:, 0].astype(int), table[:, 1:]
    sums, many = np.zeros(8 * size), np.zeros(8 * size, int)
    for first, row in zip(begin, weights, strict=True):
        places = (8 * first + np.arange(8 * 32)) % len(sums)
        sums[places] += row
        many[places] += row > 0
    assert np.allclose(sums, 1, atol=1e-6)
    assert many.max() <= 2
    steps = np.diff([*begin, begin[0] + size] if kind == "circular" else begin)
    assert (32 - steps >= min(overlap, 16)).all()
    if kind == "plain":
        assert (begin[0], begin[-1] + 32) == (0, max(size, 32))
    # What is blended: all that was asked for, or a whole step where tiles follow each other more closely.
    blended = int((many == 2).sum())
    joins = len(steps)
    assert abs(blended - joins * 8 * min(overlap, *steps, 32) * (overlap > 0)) <= 2 * joins


def test_tiles_that_fit_are_as_they_were(program: Path) -> None:
    """Where upstream's tiles have the wanted overlap, they begin and count as there."""
    run = subprocess.run([program, "64", "32", "16", "plain"], capture_output=True, text=True, check=True)
    table = np.loadtxt(run.stdout.splitlines())
    assert table[:, 0].tolist() == [0, 16, 32]
    t = np.arange(128) / 128
    rise = t**3 * (t * (6 * t - 15) + 10)
    assert np.allclose(table[1, 1:], np.concatenate([rise, 1 - rise]), atol=1e-6)
