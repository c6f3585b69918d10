"""Positions and sizes of Qwen-Image, from csrc/engine/qwen_positions.hpp, against their authors' definitions."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from compiled import compiled
from language_models import image_positions

Grid = tuple[int, int, int]
PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include "engine/qwen_positions.hpp"
using namespace sdcffi;
int main(int count, char** words) {
    std::vector<int> numbers;
    for (int i = 2; i < count; i++) { numbers.push_back(std::atoi(words[i])); }
    const char kind = words[1][0];
    if (kind == 's') {
        const auto [height, width] = condition_size(numbers[0], numbers[1], 28);
        std::printf("%d %d\n", height, width);
    } else if (kind == 'm') {
        std::vector<ImageGrid> images;
        for (size_t i = 1; i < numbers.size(); i += 3) {
            images.push_back({numbers[i], numbers[i + 1], numbers[i + 2]});
        }
        std::vector<int> positions(4 * numbers[0]);
        set_image_positions(positions, numbers[0], images);
        for (int value : positions) { std::printf("%d\n", value); }
    } else {
        std::vector<TokenGrid> grids;
        for (size_t i = 1; i < numbers.size(); i += 3) {
            grids.push_back({numbers[i], numbers[i + 1], numbers[i + 2]});
        }
        const std::vector<TokenGrid> references(grids.begin() + 1, grids.end());
        for (auto& token : qwen_image_positions(numbers[0], grids[0], references, kind == 'l', 1)) {
            std::printf("%g %g %g\n", token[0], token[1], token[2]);
        }
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(PROGRAM, tmp_path_factory.mktemp("positions"))


def numbers_of(program: Path, kind: str, *numbers: int) -> npt.NDArray[np.float64]:
    run = subprocess.run([program, kind, *map(str, numbers)], capture_output=True, text=True, check=True)
    return np.loadtxt(run.stdout.splitlines(), ndmin=2)


def authors_positions(text: int, images: list[Grid], layered: bool) -> npt.NDArray[np.float64]:
    """QwenEmbedRope with scale_rope, and QwenEmbedLayer3DRope: indices into their tables of frequencies."""
    tokens, start = [], 0
    for number, (frames, height, width) in enumerate(images):
        rows = [*range(-(height - height // 2), 0), *range(height // 2)]
        columns = [*range(-(width - width // 2), 0), *range(width // 2)]
        first = -1 if layered and number else number
        tokens += [(first + frame, row, column) for frame in range(frames) for row in rows for column in columns]
        start = max(start, height // 2, width // 2)
    if layered:
        start = max(start, images[0][0])
    return np.array([(start + i,) * 3 for i in range(text)] + tokens, np.float64)


@pytest.mark.parametrize(
    ("images", "layered"),
    [
        ([(1, 4, 6)], False),
        ([(1, 5, 3)], False),
        ([(1, 7, 7)], False),
        ([(1, 4, 4), (1, 9, 5), (1, 3, 12)], False),
        ([(5, 4, 6), (1, 4, 6)], True),
        ([(9, 3, 3), (1, 3, 3)], True),
    ],
)
def test_positions_of_text_and_images(program: Path, images: list[Grid], layered: bool) -> None:
    found = numbers_of(program, "l" if layered else "q", 11, *(size for grid in images for size in grid))
    assert np.array_equal(found, authors_positions(11, images, layered))


@pytest.mark.parametrize("images", [{}, {3: (2, 5)}, {0: (3, 3), 12: (4, 2), 25: (1, 1)}])
def test_positions_of_images_among_text(program: Path, images: dict[int, tuple[int, int]]) -> None:
    numbers = [part for first, (rows, columns) in images.items() for part in (first, rows, columns)]
    found = numbers_of(program, "m", 40, *numbers).reshape(4, 40)
    assert np.array_equal(found[:3], image_positions(40, images))
    assert not found[3].any()


@pytest.mark.parametrize(
    "size", [(1024, 1024), (512, 512), (768, 1344), (1344, 768), (300, 1000), (64, 2000), (97, 101)]
)
def test_sizes_at_which_images_are_seen(program: Path, size: tuple[int, int]) -> None:
    """calculate_dimensions of diffusers' QwenImageEditPlusPipeline, then smart_resize of transformers' Qwen2-VL."""
    height, width = size
    across = math.sqrt(384 * 384 * (width / height))
    first = round(across / (width / height) / 32) * 32, round(across / 32) * 32
    assert numbers_of(program, "s", height, width).ravel().tolist() == [round(side / 28) * 28 for side in first]
