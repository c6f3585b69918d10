"""Full autoencoders, encoder and decoder, against images that diffusers made of the same weights.

The images are in tests/data/autoencoders.npz, which tests/oracle/full_autoencoders.py writes. The models' weights are
zeros, so that what was encoded goes on to the decoder, with some noise: it is in proportion to the latent only where
the family's factors are right.
"""

from __future__ import annotations

from pathlib import Path

import autoencoder_models
import numpy as np
import pytest
from autoencoder_models import AUTOENCODERS, SEED, SIDE, start
from places import TESTS
from sdcli import THREADS

from sdcffi import Engine, ImageParams, SampleParams
from sdcffi.images.compare import compare

pytestmark = pytest.mark.slow

EXPECTED = np.load(TESTS / "data" / "autoencoders.npz")


@pytest.mark.parametrize("family", AUTOENCODERS)
def test_what_is_encoded_and_decoded_is_as_diffusers_has_it(family: str, tmp_path: Path) -> None:
    kind = AUTOENCODERS[family]
    params = ImageParams(
        init_image=start(),
        strength=0,  # from the last level above 0
        sample_params=SampleParams(custom_sigmas=kind.sigmas, sample_method="euler"),
        width=SIDE,
        height=SIDE,
        seed=SEED,
    )
    with Engine(**autoencoder_models.write(family, tmp_path), threads=THREADS, backend="cpu", rng="cpu") as engine:
        image = engine.generate("a cat", cfg_scale=1.0, steps=2, params=params).arrays[0]
    found = compare(image, EXPECTED[family]).psnr
    others = [compare(image, EXPECTED[other]).psnr for other in EXPECTED.files if other != family]
    assert found > 45
    assert max(others) < found - 10
