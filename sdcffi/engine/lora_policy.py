"""What to do about adapters that fit in part or not at all, or that the weights cannot be merged with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._models.lora_about import origin_of
from .._models.weight_types import UNMERGEABLE, is_coarse
from .._warnings import warn
from ..errors import LoraError, LoraQualityWarning, LoraWarning

if TYPE_CHECKING:
    from .._models.lora_file import LoraFile
    from ..params.lora import Lora, LoraReport

__all__ = ["choose_usable", "describe_other_base", "judge_applied", "warn_of_coarse_weights"]

_SHOWN = 3
# Names of families that stand for the same base, or for one of several.
_SAME = {
    "sd": ("sd", "sd1", "sd2"),
    "wan_ti2v": ("wan", "wan_ti2v"),
    "chroma_radiance": ("chroma", "chroma_radiance"),
}


def choose_usable(loras: Sequence[Lora], reports: Sequence[LoraReport], strict: bool) -> tuple[tuple[Lora, ...], bool]:
    """Return the adapters that can be applied, by the engine's check of their files.

    Parameters
    ----------
    loras, reports : sequences of the same length
        The adapters, and what each would do.
    strict : bool
        True raises an error for an adapter that does not fit. False leaves it out, with a warning.

    Returns
    -------
    loras : tuple of Lora
        Those to apply.
    coarse : bool
        Whether one of the adapters would be applied to weights of less than five bits.

    Raises
    ------
    LoraError
        With file, reason and, if there is one, the mode that can apply it.

    Warns
    -----
    LoraWarning
        For each adapter that is left out.
    """
    usable = []
    for lora, report in zip(loras, reports, strict=True):
        if report.mode == "immediately":
            _refuse_types(report)
        if reason := _why_not(report):
            if strict:
                raise LoraError(f"LoRA {report.path}: {reason}. strict=False generates without it")
            warn(f"LoRA {report.path} is left out: {reason}", LoraWarning)
            continue
        usable.append(lora)
    return tuple(usable), any(is_coarse(kind) for report in reports for kind in report.types)


def judge_applied(reports: Sequence[LoraReport], strict: bool) -> None:
    """Report the adapters of which the engine applied only a part, or nothing, while it generated.

    Raises
    ------
    LoraError
        If nothing of an adapter was applied, and `strict`.

    Warns
    -----
    LoraWarning
        For each other adapter that was not applied completely.
    """
    for report in reports:
        if report.applied == report.total:
            continue
        names = ", ".join(report.skipped[:_SHOWN]) + (", ..." if len(report.skipped) > _SHOWN else "")
        message = f"LoRA {report.path}: {report.applied} of {report.total} tensors were applied, not {names}"
        if report.applied == 0 and strict:
            raise LoraError(f"{message}. Mode {report.mode} cannot apply them; strict=False warns instead")
        warn(message, LoraWarning)


def describe_other_base(file: LoraFile, family: str | None) -> str:
    """Describe that an adapter was made for another base than the model, for a `LoraWarning`.

    Parameters
    ----------
    file : LoraFile
        The adapter.
    family : str or None
        The model's family, as `lora_names.Names` or `architectures.identify` call it. None: unknown.

    Returns
    -------
    str
        Empty if it was made for this family, or if either is unknown.
    """
    wanted, reason = origin_of(file)
    if wanted is None or family is None or wanted in _SAME.get(family, (family,)):
        return ""
    return (
        f"LoRA {file.path} was made for {wanted} ({reason}), but this model is {family}; it is applied where names and"
        " shapes fit, and may have no effect or a wrong one"
    )


def warn_of_coarse_weights() -> None:
    """Warn once what a LoRA is worth on weights of less than five bits, by tests/engine/test_lora_weight_types.py."""
    warn(
        "LoRA on weights of less than five bits is imprecise: on tiny test models, the PSNR to an image from weights"
        " merged in float is 34 dB (q4_K) to 22 dB (q2_K), about that of quantisation without LoRA. Use q8_0 (51 dB)"
        " if this matters",
        LoraQualityWarning,
    )


def _why_not(report: LoraReport) -> str:
    if report.misfits:
        more = f" (and {len(report.misfits) - 1} more)" if len(report.misfits) > 1 else ""
        return f"does not fit the model: {report.misfits[0]}{more}"
    if report.applied == 0:
        names = ", ".join(report.skipped[:_SHOWN])
        return f"none of its {report.total} tensors matches this model; the first are {names}"
    return ""


def _refuse_types(report: LoraReport) -> None:
    if types := sorted(UNMERGEABLE.intersection(report.types)):
        raise LoraError(
            f"LoRA {report.path} cannot be merged into {', '.join(types)} weights; use lora_apply_mode='at_runtime'"
        )
