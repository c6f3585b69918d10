"""The adapters of a call: from its prompt, its keywords, and never from where nothing reads them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcffi import ImageParams, Lora, LoraError
from sdcffi._models.files import Model
from sdcffi.engine.generation import Generation
from sdcffi.events import Listeners


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    weights = {
        "unet.x.lora_down.weight": np.zeros((2, 4), np.float32),
        "unet.x.lora_up.weight": np.zeros((4, 2), np.float32),
    }
    save_file(weights, tmp_path / "ink.safetensors")
    calls: Any = None
    return Generation(calls, Model(), Listeners(), tmp_path, {})


@pytest.mark.parametrize("tag", ["<lora:ink>", "<lora:ink:>", "<LORA:ink:1>", "<lyco:ink:1>"])
def test_a_tag_is_an_adapter_however_it_is_spelled(tag: str, generation: Generation, tmp_path: Path) -> None:
    expected = Lora(str(tmp_path / "ink.safetensors"), 1.0, name="ink")
    assert generation.adapters(f"a cat {tag}", None, None, True) == ("a cat ", (expected,), {})
    assert generation.adapters(f"a cat {tag}", None, None, False) == (f"a cat {tag}", (), {})


def test_a_tag_in_the_negative_prompt_is_refused_wherever_that_is_given(generation: Generation) -> None:
    below = ImageParams(negative_prompt="bad <lora:ink:1>")
    for params, negative in ((None, "bad <lora:ink:1>"), (below, None)):
        with pytest.raises(ValueError, match="negative_prompt has the tag <lora:ink:1>"):
            generation.adapters("a", None, params, True, negative)
        assert generation.adapters("a", None, params, False, negative) == ("a", (), {})
    assert generation.adapters("a", None, below, True, "blurry") == ("a", (), {})


def test_a_mapping_has_multipliers(generation: Generation, tmp_path: Path) -> None:
    assert generation.adapters("a", {"ink": 0.5}, None, True)[1] == (Lora(str(tmp_path / "ink.safetensors"), 0.5),)


@pytest.mark.parametrize(
    "prompt", ["<lora:ink:1" * 18_000, "a" * 10**7, "<lora:" + "x" * 190_000 + ":1>", "<lora:a>" * 20_000]
)
def test_no_prompt_takes_long(prompt: str, generation: Generation) -> None:
    started = time.perf_counter()
    with pytest.raises((ValueError, LoraError)) as caught:
        generation.adapters(prompt, None, None, True)
    assert time.perf_counter() - started < 1
    assert len(str(caught.value)) < 2000
