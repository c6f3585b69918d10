"""SD3's three encoders: each with its own number of tokens, and any of them left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_models
import text_shapes
from sparse import Shapes
from test_text_encoders import CALL, image, psnr

from sdcffi import Engine

pytestmark = pytest.mark.slow

ENCODERS = ("clip_l", "clip_g", "t5xxl")
WORDS = " ".join(["a cat"] * 35)  # 70 words: CLIP reads 75 tokens with begin and end, T5 has 106


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return text_models.sd3(tmp_path_factory.mktemp("sd3"))


def test_each_encoder_gets_its_own_tokens(files: dict[str, Any]) -> None:
    """The images are those of diffusers; its one step from noise magnifies what half precision rounds off."""
    with Engine(**files, threads=2, backend="cpu", rng="cpu") as engine:
        short, long = (engine.generate(prompt, **CALL).arrays[0].copy() for prompt in ("a cat", WORDS))
    for made, own, other in ((short, "sd3", "sd3, 70 words"), (long, "sd3, 70 words", "sd3")):
        assert psnr(made, own) > 27
        assert psnr(made, other) < 20


def zero_files(directory: Path) -> dict[str, Path]:
    """Encoders all of whose weights are zeros, and so what they give."""
    shapes: dict[str, Shapes] = {
        "clip_l": text_shapes.clip_l(),
        "clip_g": text_shapes.clip_g(),
        "t5xxl": text_models.t5(4096),
    }
    return {name: text_models.zeros(shape, directory / f"zero-{name}.gguf") for name, shape in shapes.items()}


@pytest.mark.parametrize("missing", [("clip_l",), ("clip_g", "t5xxl")])
def test_an_encoder_that_is_missing_gives_zeros(
    missing: tuple[str, ...], files: dict[str, Any], tmp_path: Path
) -> None:
    zeros = zero_files(tmp_path)
    without = image({name: file for name, file in files.items() if name not in missing})
    instead = image({name: zeros[name] if name in missing else file for name, file in files.items()})
    assert np.array_equal(without, instead)


def test_one_encoder_is_needed(files: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="also needs clip_l= or clip_g= or t5xxl="):
        Engine(**{name: file for name, file in files.items() if name not in ENCODERS}, backend="cpu")
