"""LoRA adapters: file and strength of each, and the report on how it was applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from .._public import public
from .struct import StrPath, Struct

__all__ = ["Lora", "LoraLike", "LoraReport"]


@public
@dataclass(frozen=True)
class Lora(Struct):
    """A LoRA adapter to generate with: `sd_lora_t`.

    Parameters
    ----------
    path : path
        The adapter's file (safetensors, gguf, ckpt or pt). With a `lora_dir`, a string without one of these endings is
        a name that is looked up there.
    multiplier : float
        Strength, any finite number: 1 as trained, 0 no effect.
    is_high_noise : bool
        True applies it to the high-noise model of Wan 2.2.
    name : str, optional
        Name for reports and contact sheets; the engine does not see it. None: the file's name without its ending.
    """

    C_STRUCT = "sd_lora_t"
    path: StrPath
    multiplier: float = 1.0
    is_high_noise: bool = False
    name: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields of the C struct by name."""
        fields = super().given()
        fields.pop("name", None)
        return fields


LoraLike: TypeAlias = "Lora | StrPath | tuple[StrPath, float]"


@public
@dataclass(frozen=True)
class LoraReport:
    """How one adapter was applied in a call, as the engine counted it.

    Attributes
    ----------
    path : str
        The adapter's file.
    multiplier : float
        Its strength.
    is_high_noise : bool
        Whether it was for the high-noise model of Wan 2.2.
    applied, total : int
        Number of tensors of the file that were applied, and of all.
    skipped : tuple of str
        Names of those that were not, as the engine calls them.
    mode : str
        ``"immediately"`` or ``"at_runtime"``.
    types : tuple of str
        Types of the weights that it was applied to: ``"f16"``, ``"q8_0"``, ...
    seconds : float
        Time to read it and to merge or attach it, in seconds, in the call that did so.
    misfits : tuple of str
        ``"model tensor: reason"`` for each tensor whose shape does not fit the model.
    """

    path: str
    multiplier: float
    is_high_noise: bool
    applied: int
    total: int
    skipped: tuple[str, ...]
    mode: str
    types: tuple[str, ...]
    seconds: float
    misfits: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: applied {self.applied} of {self.total} tensors, mode {self.mode}"
