"""A v model whose checkpoint has the key ztsnr starts from noise alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
from native_sampling import context_of, schedule
from reference_schedules import sd_table, spaced

KEYS: dict[str, tuple[int, ...]] = {"a number": (1,), "nothing, as trainers write it": (0,)}


@pytest.mark.parametrize("key", KEYS)
def test_the_schedule_ends_in_noise(key: str, tmp_path: Path) -> None:
    layout = sd1_model.small()
    files: dict[str, Any] = {"taesd": sd1_model.write_taesd(tmp_path / "taesd.safetensors")}
    files["model"] = sd1_model.write({**layout.tensors, "ztsnr": KEYS[key]}, tmp_path / "small.safetensors")
    for prediction, is_rescaled in (("v", True), ("eps", False)):
        with context_of(files, prediction=prediction) as context:
            for spacing in ("discrete", "simple", "karras"):
                expected = [*spaced(spacing, 6, sd_table(is_rescaled)), 0.0]
                assert np.allclose(schedule(context, spacing, 6), expected, rtol=1e-4), (prediction, spacing)
