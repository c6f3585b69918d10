"""LoRA adapters: which file, how strongly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .errors import LoraError
from .params import StrPath, Struct

__all__ = ["Lora", "LoraLike", "as_loras"]


@dataclass(frozen=True)
class Lora(Struct):
    """A LoRA adapter to draw with: `sd_lora_t`.

    Parameters
    ----------
    path : path
        The adapter's file (safetensors, gguf or ckpt).
    multiplier : float
        Strength: 1 as trained, 0 none; any finite value.
    is_high_noise : bool
        Apply it to the high-noise model of Wan 2.2.
    """

    C_STRUCT = "sd_lora_t"
    path: StrPath
    multiplier: float = 1.0
    is_high_noise: bool = False


LoraLike: TypeAlias = "Lora | StrPath | tuple[StrPath, float]"


def as_loras(items: Iterable[LoraLike]) -> tuple[Lora, ...]:
    """Check adapters before native code sees them: the engine itself only logs what is missing and goes on.

    Parameters
    ----------
    items : iterable of Lora, path, or (path, multiplier)

    Raises
    ------
    TypeError, ValueError
        If a multiplier is no finite number, or one file is given twice for the same model.
    LoraError
        If a file does not exist, is none, or is empty.
    """
    if isinstance(items, (str, bytes, Lora)):
        raise TypeError(f"loras is a sequence of Lora, path or (path, multiplier), not {items!r}")
    checked: list[Lora] = []
    for item in items:
        lora = _as_lora(item)
        if any((lora.path, lora.is_high_noise) == (other.path, other.is_high_noise) for other in checked):
            raise ValueError(f"LoRA {lora.path} is given twice; the engine would take the last multiplier only")
        checked.append(lora)
    return tuple(checked)


def _as_lora(item: LoraLike) -> Lora:
    if isinstance(item, tuple):
        item = Lora(*item)
    elif not isinstance(item, Lora):
        item = Lora(item)
    multiplier = item.multiplier
    if isinstance(multiplier, bool) or not isinstance(multiplier, (int, float)):
        raise TypeError(f"multiplier of LoRA {item.path} must be a number, not {multiplier!r}")
    if not math.isfinite(multiplier):
        raise ValueError(f"multiplier of LoRA {item.path} must be finite, not {multiplier!r}")
    path = Path(item.path).expanduser()
    if not path.exists():
        raise LoraError(f"LoRA {path} does not exist")
    if not path.is_file():
        raise LoraError(f"LoRA {path} is not a file")
    if path.stat().st_size == 0:
        raise LoraError(f"LoRA {path} is empty")
    return Lora(str(path.resolve()), float(multiplier), item.is_high_noise)
