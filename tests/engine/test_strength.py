"""How much of its schedule an image to image takes: the count of steps is AUTOMATIC1111's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdcffi import Engine, Progress

START = np.random.default_rng(4).integers(0, 256, (32, 32, 3), dtype=np.uint8)
CALL: dict[str, Any] = {"width": 32, "height": 32, "cfg_scale": 1.0, "seed": 5, "init_image": START}


def webui_steps(steps: int, strength: float) -> int:
    """setup_img2img_steps of sd_samplers_common.py and the schedule that sample_img2img cuts."""
    return int(min(strength, 0.999) * steps) + 1


def steps_taken(engine: Engine, steps: int, strength: float) -> int:
    seen: list[Progress] = []
    engine.generate("a cat", steps=steps, strength=strength, on_progress=seen.append, **CALL)
    sampled = [event for event in seen if event.phase == "sample"]
    assert [event.step for event in sampled] == list(range(sampled[-1].steps + 1))
    return sampled[-1].steps


@pytest.mark.slow
def test_a_strength_has_as_many_steps_as_in_the_web_ui(shared: Engine) -> None:
    for steps, strengths in ((8, (0.0, 0.2, 0.5, 0.75, 1.0)), (5, (0.19, 0.2, 0.99)), (1, (0.5, 1.0))):
        for strength in strengths:
            assert steps_taken(shared, steps, strength) == webui_steps(steps, strength), (steps, strength)


def test_without_a_strength_it_is_that_of_the_web_ui(shared: Engine) -> None:
    seen: list[Progress] = []
    shared.generate("a cat", steps=8, on_progress=seen.append, **CALL)
    assert [event for event in seen if event.phase == "sample"][-1].steps == webui_steps(8, 0.75) == 7
