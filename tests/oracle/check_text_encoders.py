"""Compare tests/support/text_encoders.py, which must be on the path, with transformers.

Needs torch and transformers; no test does. It prints the signal to error in dB, which is above 100.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from text_encoders import clip_states, t5_states
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

_T5: dict[str, Any] = {"vocab_size": 50, "d_model": 96, "d_kv": 64, "d_ff": 80, "num_layers": 3, "num_heads": 2}
_CLIP: dict[str, Any] = {
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
}


def _compare(
    name: str, model: torch.nn.Module, count: int, found: Callable[[Path, Any, Any], Any], *, padding: int = 0
) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2
    tokens = np.random.default_rng(0).integers(3, 50, count)
    mask = np.arange(count) < count - padding
    with torch.no_grad():
        out = model.double().eval()(
            torch.tensor(tokens)[None], attention_mask=torch.tensor(mask)[None].long(), output_hidden_states=True
        )
    expected = (out.hidden_states[-2] if "CLIP" in name else out.last_hidden_state)[0].numpy()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        own = {key: value.clone() for key, value in model.state_dict().items() if "embed_tokens" not in key}
        if "CLIP" in name:
            own = {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in own.items()}
        save_file(own, path)
        error = ((expected - found(path, tokens, mask)) ** 2).sum()
    print(f"{name}: {10 * np.log10((expected**2).sum() / error):.0f} dB")


def main() -> None:
    """Compare each model."""
    gated = {**_T5, "feed_forward_proj": "gated-gelu"}
    _compare("T5", T5EncoderModel(T5Config(**gated)), 300, lambda path, tokens, _: t5_states(path, tokens))
    _compare("UMT5, padded", UMT5EncoderModel(UMT5Config(**gated)), 300, t5_states, padding=60)
    for act in ("quick_gelu", "gelu"):
        quick = act == "quick_gelu"
        model = CLIPTextModel(CLIPTextConfig(**_CLIP, hidden_act=act))
        _compare(f"CLIP, {act}", model, 77, lambda p, t, _, quick=quick: clip_states(p, t, quick=quick, layers=2))


if __name__ == "__main__":
    main()
