"""Compute with diffusers what tests/models/autoencoder_models.py's autoencoders make of an image.

    python -m tests.oracle.full_autoencoders [FAMILY ...]

PYTHONPATH has the package's folder and tests/models. Needs torch and diffusers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import autoencoder_models
import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

_FACTORS = {
    "sd1": (0.18215, 0.0),
    "sdxl": (0.13025, 0.0),
    "sd3": (1.5305, 0.0609),
    "flux": (0.3611, 0.1159),
    "flux2": (1.0, 0.0),
}
_DATA = Path(__file__).parents[1] / "data" / "autoencoders.npz"


def _kl(weights: dict[str, torch.Tensor], part: str, base: int, channels: int, *, quantised: bool) -> AutoencoderKL:
    """The autoencoder of which one part has these weights; both have the same width in diffusers."""
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": tuple(base * n for n in (1, 2, 4, 4)),
        "layers_per_block": 2,
        "latent_channels": channels,
        "use_quant_conv": quantised,
        "use_post_quant_conv": quantised,
    }
    model = AutoencoderKL(**config).eval()
    found = convert_ldm_vae_checkpoint(dict(weights), config)
    kept = (f"{part}.", "quant_conv." if part == "encoder" else "post_quant_conv.")
    found = {name: value for name, value in found.items() if name.startswith(kept)}
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert not unexpected, unexpected[:5]
    assert not [name for name in missing if name.startswith(kept)], missing[:5]
    return model


def image(family: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    kind = autoencoder_models.AUTOENCODERS[family]
    drawn = autoencoder_models.weights(kind.channels, quantised=kind.quantised)
    weights = {name: torch.from_numpy(value).float() for name, value in drawn.items()}
    scale, shift = _FACTORS[family]
    given = torch.from_numpy(autoencoder_models.start()).float().permute(2, 0, 1)[None] / 127.5 - 1
    settings: dict[str, Any] = {"channels": kind.channels, "quantised": kind.quantised}
    latent = _kl(weights, "encoder", 128, **settings).encode(given).latent_dist.mean
    spread = latent.std()
    latent = (latent - shift) * scale
    noise = torch.randn(latent.shape, generator=torch.manual_seed(autoencoder_models.SEED))
    sigma = kind.sigmas[-2]
    noisy = (1 - sigma) * latent + sigma * noise if kind.sigmas[0] == 1 else latent + sigma * noise
    made = _kl(weights, "decoder", autoencoder_models.DECODER, **settings).decode(noisy / scale + shift).sample
    print(family, "latent", float(spread), "image", float(made.mean()), float(made.std()))
    return ((made[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(np.uint8)


@torch.no_grad()
def main(wanted: list[str]) -> None:
    """Write the images."""
    images = dict(np.load(_DATA)) if _DATA.exists() else {}
    images |= {family: image(family) for family in wanted or autoencoder_models.AUTOENCODERS}
    np.savez_compressed(_DATA, **images)
    print(_DATA.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
