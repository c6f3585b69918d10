"""Which samplers and schedulers have formulas for a model's prediction.

``csrc/sampling`` refuses the same; here it is known before native code runs, wherever the model's headers tell.
"""

from __future__ import annotations

from .._models.files import Model
from .._quoting import shown
from ..params.sampling import SampleParams

__all__ = ["check_samplers", "refused_samplers", "refused_schedulers"]

_TABLES = "it is a table of the noise levels of Stable Diffusion"
_TIMES = "its noise levels are those of flow models"
_UNSCALED = "its formulas are for models that add noise to an image without scaling it down"
_TIMESTEPS = "it follows the timesteps of Stable Diffusion"

# Names that a prediction has no formulas for, with the reason. Predictions are those of `Model.prediction`.
_SAMPLERS: dict[str, dict[str, str]] = {
    "flow": {
        "tcd": _TIMESTEPS,
        "euler_cfg_pp": _UNSCALED,
        "euler_a_cfg_pp": _UNSCALED,
        "dpm++2m_sde_bt": _UNSCALED,
    },
    "edm_v": {"tcd": _TIMESTEPS},
    "eps_or_v": {},
}
_OF_FLOW = dict.fromkeys(("flux", "flux2", "ltx2", "logit_normal"), _TIMES)
_SCHEDULERS: dict[str, dict[str, str]] = {
    "flow": {"ays": _TABLES, "gits": _TABLES},
    "edm_v": {"ays": _TABLES, "gits": _TABLES, **_OF_FLOW},
    "eps_or_v": _OF_FLOW,
}


def refused_samplers(model: Model) -> dict[str, str]:
    """Return the samplers that the model cannot be sampled with, each with the reason."""
    return _SAMPLERS.get(model.prediction or "", {})


def refused_schedulers(model: Model) -> dict[str, str]:
    """Return the schedulers that have no noise levels for the model, each with the reason."""
    refused = dict(_SCHEDULERS.get(model.prediction or "", {}))
    kind = model.architecture
    if kind and not kind.has_ays:
        refused["ays"] = f"it has no table for {kind.title}, only for Stable Diffusion 1, XL and Stable Video Diffusion"
    return refused


def check_samplers(sample: SampleParams, model: Model, prefix: str = "") -> None:
    """Refuse a sampler or a scheduler that has no formula for the model.

    Parameters
    ----------
    sample : SampleParams
    model : Model
    prefix : str, optional
        Beginning of their names in messages.

    Raises
    ------
    ValueError
        With the reason, and the names that are refused for this model; all others are legal.
    """
    schedulers = refused_schedulers(model) if sample.custom_sigmas is None else {}
    for name, value, refused in (
        (f"{prefix}sampler", sample.sample_method, refused_samplers(model)),
        (f"{prefix}scheduler", sample.scheduler, schedulers),
    ):
        if value in refused:
            kind = model.architecture.title if model.architecture else "this model"
            raise ValueError(
                f"{name} {shown(value)} is not for {kind} ({_WORDS[model.prediction or '']}): {refused[value]};"
                f" use any {name} but {', '.join(sorted(refused))}"
            )


_WORDS = {
    "": "of unknown prediction",
    "flow": "a flow model",
    "edm_v": "a model of edm_v prediction",
    "eps_or_v": "a model of eps or v prediction",
}
