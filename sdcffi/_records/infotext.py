"""The text ``parameters`` that AUTOMATIC1111's web interface writes into images, and that viewers read.

It has the prompt, ``Negative prompt: ...``, and one line of ``Name: value`` pairs separated by commas. See
`create_infotext` of its ``modules/processing.py`` and `quote` of ``modules/infotext_utils.py``. Readers take the last
line for the values, so a prompt may have lines of the same form. A prompt that contains ``Negative prompt:`` is
ambiguous.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..params.lora import Lora, multiplier_of

__all__ = ["infotext", "lora_name", "plain_name", "sampler_label", "scheduler_label"]

# sd_samplers_kdiffusion.py; samplers without a name there keep the engine's name.
_SAMPLERS = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm++2s_a": "DPM++ 2S a",
    "dpm++2m": "DPM++ 2M",
    "lcm": "LCM",
    "lms": "LMS",
    "dpm++_sde": "DPM++ SDE",
    "dpm++2m_sde": "DPM++ 2M SDE",
    "dpm++3m_sde": "DPM++ 3M SDE",
    "unipc": "UniPC",
}
# sd_schedulers.py; the engine's "discrete" has evenly spaced timesteps, as k-diffusion's get_sigmas has.
_SCHEDULERS = {
    "discrete": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "ays": "Align Your Steps",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "kl_optimal": "KL Optimal",
    "beta": "Beta",
}


def sampler_label(name: str | None) -> str | None:
    """Return the name of a sampler that viewers know; the engine's own name if there is none."""
    return _SAMPLERS.get(name or "", name)


def scheduler_label(name: str | None) -> str | None:
    """Return the name of a scheduler that viewers know; the engine's own name if there is none."""
    return _SCHEDULERS.get(name or "", name)


def lora_name(lora: Lora) -> str:
    """Return the name of an adapter in a tag."""
    return plain_name(lora.name or Path(lora.path).stem).replace(">", "")


def plain_name(name: str) -> str:
    """Remove the characters that separate values, as the web interface does in file names."""
    return name.replace(",", "").replace(":", "")


def infotext(prompt: str, negative_prompt: str, loras: Sequence[Lora], values: Mapping[str, Any]) -> str:
    """Compose the text.

    Parameters
    ----------
    prompt, negative_prompt : str
        As the engine got them, without LoRA tags.
    loras : sequence of Lora
        Added as tags after the prompt.
    values : mapping
        Values of the last line, in order. None is left out.

    Returns
    -------
    str
    """
    tags = "".join(map(_tag, loras))
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None)
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    text = f"{prompt}{tags}{negative}\n{line}".strip()
    return text.encode("utf-8", "replace").decode()  # file names may have bytes that are not UTF-8


def _tag(lora: Lora) -> str:
    return f" <lora:{'|high_noise|' * lora.is_high_noise}{lora_name(lora)}:{_strength(lora)}>"


def _strength(lora: Lora) -> str:
    """Return an adapter's strength as in a tag; strengths of blocks that a tag cannot hold are left out."""
    multiplier = multiplier_of(lora)
    weights: dict[str, Any] = {"lbw": lora.weights} if isinstance(lora.weights, str) else dict(lora.weights or {})
    named = [f"lbw={weights.pop('lbw')}"] if "lbw" in weights else []
    if weights and weights.keys() <= {"unet", "te"} and all(isinstance(value, float) for value in weights.values()):
        parts = [multiplier * weights.get(part, 1.0) for part in ("unet", "te")]
    else:
        parts = [multiplier]
    return ":".join([*(f"{number:g}" for number in parts), *named])


def _quoted(value: Any) -> str:
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text
