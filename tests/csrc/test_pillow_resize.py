"""csrc/engine/pillow_resize.hpp against Pillow."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiled import compiled
from PIL import Image

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include "engine/pillow_resize.hpp"
int main(int, char** words) {
    const int width = std::atoi(words[2]), height = std::atoi(words[3]);
    std::vector<float> image(3 * width * height);
    for (float& value : image) { value = std::getchar() / 255.f; }
    const auto& filter = words[1][0] == 'l' ? sdcffi::lanczos : sdcffi::bicubic;
    const int wanted[] = {std::atoi(words[4]), std::atoi(words[5])};
    for (float value : sdcffi::resize_as_pillow(image, width, height, wanted[0], wanted[1], filter)) {
        std::putchar(int(value * 255 + 0.5f));
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(PROGRAM, tmp_path_factory.mktemp("resize"))


@pytest.mark.parametrize("name", ["lanczos", "bicubic"])
@pytest.mark.parametrize("size", [(40, 30), (97, 61), (200, 20), (64, 150), (100, 64), (512, 37)])
def test_resizes_as_pillow(name: str, size: tuple[int, int], program: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 100, 3), np.uint8)
    words = [program, name, "100", "64", *map(str, size)]
    run = subprocess.run(words, input=image.transpose(2, 0, 1).tobytes(), capture_output=True, check=True)
    found = np.frombuffer(run.stdout, np.uint8).reshape(3, size[1], size[0]).transpose(1, 2, 0)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling[name.upper()]))
    assert np.abs(found.astype(int) - expected).max() <= 1
