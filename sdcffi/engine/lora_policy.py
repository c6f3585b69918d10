"""What to do about adapters that fit in part, not at all, or meet weights that they cannot be merged into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._warnings import warn
from ..errors import LoraError, LoraQualityWarning, LoraWarning

if TYPE_CHECKING:
    from ..params.lora import Lora, LoraReport

__all__ = ["choose_usable", "judge_applied", "warn_of_coarse_weights"]

# ggml can read these types but has no way to write them: nothing can be merged into them.
_READ_ONLY = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"})
# ggml's CUDA backend neither fetches rows of these nor copies floats into them (ggml-cuda.cu, cpy.cu of ggml 0.9.8).
_NOT_ON_CUDA = frozenset({"q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4"})
_UNDER_FIVE_BITS = frozenset(
    {"q4_0", "q4_1", "q4_K", "q3_K", "q2_K", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4", *_READ_ONLY}
)
_SHOWN = 3


def choose_usable(
    loras: Sequence[Lora], reports: Sequence[LoraReport], backend: str, strict: bool
) -> tuple[tuple[Lora, ...], bool]:
    """Decide from the engine's look at the files, before anything is changed, which adapters are applied.

    Parameters
    ----------
    loras, reports : sequences of the same length
        The adapters, and what each would do.
    backend : str
        What the weights are computed on.
    strict : bool
        Whether an adapter that does not fit is an error, or left out with a warning.

    Returns
    -------
    loras : tuple of Lora
        Those to apply.
    coarse : bool
        Whether one of them meets weights of less than five bits.

    Raises
    ------
    LoraError
        With file, reason and, where there is one, the mode that can do it.
    """
    usable = []
    for lora, report in zip(loras, reports, strict=True):
        if report.mode == "immediately":
            _refuse_types(report, backend)
        if reason := _why_not(report):
            if strict:
                raise LoraError(f"LoRA {report.path}: {reason}. strict=False draws without it")
            warn(f"LoRA {report.path} is left out: {reason}", LoraWarning)
            continue
        usable.append(lora)
    return tuple(usable), any(_UNDER_FIVE_BITS.intersection(report.types) for report in reports)


def judge_applied(reports: Sequence[LoraReport], strict: bool) -> None:
    """Say what the engine counted when the picture was drawn.

    Raises
    ------
    LoraError
        If nothing of an adapter took part, and `strict`.
    """
    for report in reports:
        if report.applied == report.total:
            continue
        names = ", ".join(report.skipped[:_SHOWN]) + (", ..." if len(report.skipped) > _SHOWN else "")
        message = f"LoRA {report.path}: {report.applied} of {report.total} tensors were applied, not {names}"
        if report.applied == 0 and strict:
            raise LoraError(f"{message}. Mode {report.mode} cannot apply them")
        warn(message, LoraWarning)


def warn_of_coarse_weights() -> None:
    """Warn once what a LoRA is worth on weights of less than five bits, by tests/engine/test_lora_kinds.py."""
    warn(
        "LoRA on weights of less than five bits: on the tiny test models the picture is 22 (q2_K) to 34 dB (q4_K) from"
        " that of weights merged in float (q8_0: 51 dB), about what quantisation costs without LoRA",
        LoraQualityWarning,
    )


def _why_not(report: LoraReport) -> str:
    if report.misfits:
        more = f" (and {len(report.misfits) - 1} more)" if len(report.misfits) > 1 else ""
        return f"does not fit the model: {report.misfits[0]}{more}"
    if report.applied == 0:
        names = ", ".join(report.skipped[:_SHOWN])
        return f"none of its {report.total} tensors is for this model; the first are {names}"
    return ""


def _refuse_types(report: LoraReport, backend: str) -> None:
    impossible = _READ_ONLY | (_NOT_ON_CUDA if backend in ("cuda", "hip", "musa") else frozenset())
    if types := sorted(impossible.intersection(report.types)):
        raise LoraError(
            f"LoRA {report.path} cannot be merged into {', '.join(types)} weights on backend {backend!r}; use"
            " lora_apply_mode='at_runtime'"
        )
