"""LoRA adapters: file and strength of each, and the report on how it was applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .._public import public
from .struct import StrPath, Struct

__all__ = ["Lora", "LoraLike", "LoraReport", "lora_of", "multiplier_of"]

LoraWeights: TypeAlias = Mapping[str, Any] | str


@public
@dataclass(frozen=True)
class Lora(Struct):
    """A LoRA adapter to generate with: `sd_lora_t`.

    Parameters
    ----------
    path : path
        The adapter's file (safetensors, gguf, ckpt or pt), or a folder of PEFT or diffusers with one, or a reference:
        ``"hf://OWNER/REPO"`` or ``"catalogue:NAME"``. With a `lora_dir`, another string without one of these endings is
        a name that is looked up there.
    multiplier : float, optional
        Strength m, any finite number: a weight W becomes W + m (W' - W), W' being the weight with the adapter as it
        was trained. 1 as trained, 0 no effect. None: what the catalogue recommends for one of its own, else 1.
    is_high_noise : bool
        True applies it to the high-noise model of Wan 2.2.
    weights : mapping or str, optional
        Strengths of parts and blocks, by which `multiplier` is multiplied. None: 1 everywhere. A mapping as of
        diffusers' ``set_adapters``: ``{"unet": 1, "text_encoder": 0.5}``, ``{"unet": {"down": 0.5, "up": {"block_0":
        [0, 1, 1]}}}``, ``{"transformer": {"single_blocks": 0}}``; ``"te"`` is all text encoders. Or, also under
        ``"lbw"`` in the mapping, strengths of blocks as of sd-webui-lora-block-weight: one of its presets, such as
        ``"OUTALL"``, or its 12, 17, 20, 26 or 61 numbers separated by commas, or 57 for the blocks of FLUX.1.
    name : str, optional
        Name for reports and contact sheets; the engine does not see it. None: the file's name without its ending.
    """

    C_STRUCT = "sd_lora_t"
    KEYWORD = "loras"
    TAKEN_LATER = frozenset({"multiplier", "path"})
    path: StrPath
    multiplier: float | None = None
    is_high_noise: bool = False
    name: str | None = None
    weights: LoraWeights | None = field(default=None, hash=False)

    def given(self) -> dict[str, Any]:
        """Return the fields of the C struct by name."""
        fields = super().given()
        for name in ("name", "weights"):  # the engine does not see them
            fields.pop(name, None)
        return fields


def multiplier_of(lora: Lora) -> float:
    """Return an adapter's strength: 1 where none is given."""
    return 1.0 if lora.multiplier is None else lora.multiplier


LoraLike: TypeAlias = "Lora | StrPath | tuple[StrPath, float]"


def lora_of(item: LoraLike) -> Lora:
    """Return what was given for an adapter as a `Lora`, unchecked."""
    if isinstance(item, Lora):
        return item
    return Lora(*item) if isinstance(item, tuple) else Lora(item)


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
        Number of tensors of the file that were applied, ``alpha`` and the like included, and of all.
    skipped : tuple of str
        Names of those that were not, as in the file.
    mode : str
        ``"immediately"`` or ``"at_runtime"``.
    types : tuple of str
        Types of the weights that it was applied to: ``"f16"``, ``"q8_0"``, ...
    seconds : float
        Time to read it and to merge or attach it, in seconds, in the call that did so.
    misfits : tuple of str
        ``"weight: reason"``, with the engine's name, for each weight that a module is for and does not fit.
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
