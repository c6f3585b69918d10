"""Names of samplers, types and the like as people write them, and as other programs label them.

The engine knows each name in one spelling. ``"Euler a"``, ``"DPM++ 2M"`` and ``"Q8_0"`` are taken too: the case does
not matter, nor do blanks, and AUTOMATIC1111's labels, which records in images have, mean the same sampler here.
"""

from __future__ import annotations

import re

__all__ = ["SAMPLER_LABELS", "SCHEDULER_LABELS", "bare", "spelled"]

# sd_samplers_kdiffusion.py; samplers without a name there keep the engine's name.
SAMPLER_LABELS = {
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
SCHEDULER_LABELS = {
    "discrete": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "ays": "Align Your Steps",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "kl_optimal": "KL Optimal",
    "beta": "Beta",
}
_LOWER = frozenset({"rng_type", "sampler_rng_type", "prediction", "lora_apply_mode", "mode", "preview"})
_UPSCALERS = (
    *("None", "Lanczos", "Nearest", "Model", "Latent", "Latent (nearest)", "Latent (nearest-exact)"),
    *("Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)"),
)
_LONGEST = 100  # characters; names are shorter, and what is longer is refused as it is


def bare(name: str) -> str:
    """Return a name without what people vary: in lower case, without blanks, hyphens and underscores."""
    return re.sub("[ _-]", "", name.lower())


_LABELLED = {
    "sample_method": {bare(label): name for name, label in SAMPLER_LABELS.items()},
    "scheduler": {bare(label): name for name, label in SCHEDULER_LABELS.items()},
}


def spelled(field: str, name: str) -> str:
    """Return a name as the engine writes it, as far as that follows from the name alone.

    Parameters
    ----------
    field : str
        The C field that it is for. Names of other fields are returned as they are.
    name : str
    """
    if len(name) > _LONGEST:
        return name
    if field in _LABELLED:
        return _LABELLED[field].get(bare(name), _underscored(name))
    if field == "wtype":
        return re.sub("_k$", "_K", _underscored(name))
    if field == "upscaler":
        return next((known for known in _UPSCALERS if bare(known) == bare(name)), name)
    return _underscored(name) if field in _LOWER else name


def _underscored(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
