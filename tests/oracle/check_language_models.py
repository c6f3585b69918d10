"""Compare tests/support/language_models.py, which must be on the path, with transformers.

Needs torch and transformers; no test does. It prints the signal to error in dB, which is above 100.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from language_models import Rotation, image_positions, states
from transformers import (
    Ministral3Config,
    Ministral3Model,
    MistralConfig,
    MistralModel,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen3Config,
    Qwen3Model,
)

_SIZE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
_PAD = 7


def _compare(name: str, model: torch.nn.Module, tokens: Any, rotation: Rotation, **given: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        scale = 0.3 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
    model = model.double().eval()
    inputs = {"input_ids": torch.tensor(tokens)[None]}
    if "mask" in given:
        inputs["attention_mask"] = torch.tensor(given["mask"]).long()[None]
    if "positions" in given:
        inputs["position_ids"] = torch.tensor(given["positions"])[:, None]
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state[0].numpy()
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    found = states(weights, tokens, rotation, **given)
    error = 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())
    print(f"{name}: {error:.0f} dB")


def main() -> None:
    """Compare each model."""
    tokens = np.random.default_rng(0).integers(10, 100, 50)
    padded = np.concatenate([[_PAD] * 14, tokens])
    long = np.resize(tokens, 420)
    rope = {"rope_type": "default", "rope_theta": 1e6}
    _compare("Qwen3", Qwen3Model(Qwen3Config(**_SIZE, rope_parameters=rope)), tokens, Rotation(1e6))
    mistral = MistralModel(MistralConfig(**_SIZE, rms_norm_eps=1e-5, sliding_window=None, rope_parameters=rope))
    _compare("Mistral", mistral, tokens, Rotation(1e6), epsilon=1e-5)
    _compare("Mistral, padded before", mistral, padded, Rotation(1e6), epsilon=1e-5, mask=padded != _PAD)
    ministral = Ministral3Model(Ministral3Config(**_SIZE, rms_norm_eps=1e-5))
    _compare("Ministral 3, its default YaRN", ministral, long, Rotation(1e6, factor=16), epsilon=1e-5)
    sections = {**rope, "mrope_section": [16, 24, 24]}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 512}
    size = {**_SIZE, **heads}
    size.pop("head_dim")
    qwen = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**size, rope_parameters=sections))
    positions = image_positions(50, {5: (3, 6), 30: (2, 2)})
    _compare("Qwen2.5-VL", qwen, tokens, Rotation(1e6, sections=(16, 24, 24)), positions=positions)


if __name__ == "__main__":
    main()
