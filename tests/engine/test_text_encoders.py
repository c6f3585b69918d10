"""What T5 and CLIP give the denoisers, against images that diffusers and transformers made of the same weights.

The images are in tests/data/text_conditions.npz, which tests/oracle/text_conditions.py writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_models
from places import TESTS
from sdcli import THREADS, Pixels

from sdcffi import ContextParams, Engine
from sdcffi.images.compare import compare

EXPECTED = np.load(TESTS / "data" / "text_conditions.npz")
CALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 1}


def image(files: Mapping[str, Any], prompt: str = "a cat", **engine: Any) -> Pixels:
    with Engine(**files, **engine, threads=THREADS, backend="cpu", rng="cpu") as opened:
        return opened.generate(prompt, **CALL).arrays[0].copy()


def psnr(one: Pixels, name: str) -> float:
    return compare(one, EXPECTED[name]).psnr


def test_flux_dev_has_512_tokens_of_t5(tmp_path: Path) -> None:
    dev = image(text_models.flux(tmp_path, guidance=True))
    assert psnr(dev, "flux dev") > 50
    assert psnr(dev, "flux dev, 256 tokens") < 30


def test_flux_schnell_has_256_tokens_of_t5(tmp_path: Path) -> None:
    assert psnr(image(text_models.flux(tmp_path, guidance=False)), "flux schnell") > 50


@pytest.mark.slow
def test_chroma_masks_the_padding_within_t5(tmp_path: Path) -> None:
    files = text_models.chroma(tmp_path)
    assert psnr(image(files), "chroma") > 50
    assert psnr(image(files, context=ContextParams(chroma_use_t5_mask=False)), "chroma") < 25


@pytest.mark.slow
def test_a_prompt_for_wan_is_cleaned(tmp_path: Path) -> None:
    with Engine(**text_models.wan(tmp_path), threads=THREADS, backend="cpu", rng="cpu") as engine:
        plain, marked, other = (
            engine.generate_video(prompt, **CALL, video_frames=1).frames[0].copy()
            for prompt in ("a < a", " a\t&amp;lt;\u3000 a", "a a")
        )
    assert np.array_equal(plain, marked)
    assert not np.array_equal(plain, other)
