"""What T5, UMT5 and CLIP make of prompts, against numpy's: tables of distances, masks, SD3's places of each encoder.

The prompts' tokens are those of Hugging Face's `tokenizers`, with the vocabularies that the models' authors published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_models
import text_shapes
from conditions import text_conditions
from sdcli import THREADS
from sparse import opened_tensor, write_random
from test_text_conditions import error_db
from text_encoders import clip_states, t5_states

from sdcffi import Engine

pytestmark = pytest.mark.slow

LONG = 40  # times the words: some 200 tokens, of which the first and the last are as far apart as T5's tables tell
WORDS = "a cat on a red"
UMT5 = np.array([289, 6283, 369, 289, 4062] * LONG + [1])
TIMES = 14  # the same for SD3, where CLIP has room for 75 tokens
T5 = np.array([3, 9, 1712, 30, 3, 9, 1131] * TIMES + [1])
BEGIN, END = 49406, 49407
CLIP = np.array([BEGIN, *[320, 2368, 525, 320, 736] * TIMES, END])
VIDEO: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 1, "video_frames": 1}


def padded(tokens: np.ndarray[Any, Any], length: int, padding: int = 0) -> np.ndarray[Any, Any]:
    return np.pad(tokens, (0, length - len(tokens)), constant_values=padding)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return text_models.wan(tmp_path_factory.mktemp("wan"))


@pytest.mark.parametrize("times", [1, LONG])
def test_umt5s_text_does_not_see_its_padding(times: int, wan: Mapping[str, Any]) -> None:
    """Each of UMT5's layers has a table of distances of its own."""
    tokens = np.array([*UMT5[: 5 * times], 1])
    expected = t5_states(wan["t5xxl"], padded(tokens, 512), np.arange(512) < len(tokens))
    (found,) = text_conditions(wan, [" ".join([WORDS] * times)])
    assert found.shape == expected.shape
    assert error_db(found[: len(tokens)], expected[: len(tokens)]) > 55
    assert error_db(found, expected) > 55  # as the encoder gives it: Wan gets zeros behind the text


def test_wan_has_zeros_behind_the_text(wan: Mapping[str, Any]) -> None:
    """Whatever UMT5 makes of the padding, the frame is the same."""

    def frame() -> Any:
        with Engine(**wan, threads=THREADS, backend="cpu", rng="cpu") as engine:
            return engine.generate_video("a cat", **VIDEO).frames[0].copy()

    before = frame()
    with changed_row(wan["t5xxl"], 0):
        padding = frame()
    with changed_row(wan["t5xxl"], 289):
        word = frame()
    assert np.array_equal(before, padding)
    assert not np.array_equal(before, word)


@contextmanager
def changed_row(path: Path, token: int) -> Iterator[None]:
    with opened_tensor(path, "shared.weight") as table:
        before = table[token].copy()
        table[token] = 1 - 3 * before
    yield
    with opened_tensor(path, "shared.weight") as table:
        table[token] = before


def test_sd3_has_each_encoders_states_in_its_place(tmp_path: Path) -> None:
    """CLIP-L and CLIP-G side by side, both of the last layer but one; behind their tokens those of T5.

    CLIP-L has weights that do not enlarge, over eleven layers, what half precision rounds off.
    """
    clip_l = write_random(text_shapes.clip_l(), tmp_path / "small-clip_l.safetensors", gain=0.7)
    files = {**text_models.sd3(tmp_path), "clip_l": clip_l}
    (found,) = text_conditions(files, [" ".join([WORDS] * TIMES)])
    expected = np.zeros((77 + 256, 4096))
    expected[:77, :768] = clip_states(clip_l, padded(CLIP, 77, END), quick=True, layers=11)
    expected[:77, 768:2048] = clip_states(files["clip_g"], padded(CLIP, 77), quick=False, layers=1)  # zeros follow
    expected[77:] = t5_states(files["t5xxl"], padded(T5, 256))
    assert found.shape == expected.shape
    for part in np.s_[:77, :768], np.s_[:77, 768:2048], np.s_[77:], np.s_[:]:
        assert error_db(found[part], expected[part]) > 55
