"""What the engine tells while it works. Plain frozen data, made by `_callbacks`, given to the caller's functions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Log", "Progress"]


@dataclass(frozen=True)
class Log:
    """One line of the native log.

    Attributes
    ----------
    level : str
        ``"debug"``, ``"info"``, ``"warn"`` or ``"error"``.
    text : str
        The line without its end, as the engine wrote it (``file.cpp:line - message``).
    """

    level: str
    text: str


@dataclass(frozen=True)
class Progress:
    """How far a phase of a call has come.

    Attributes
    ----------
    phase : str
        ``"load"`` (weights, in tensors), ``"lora"`` (an adapter's tensors), ``"sample"`` (denoising steps of one
        image) or ``"decode"`` (tiles).
    step : int
        What is done, from 0 to `steps`.
    steps : int
        What there is to do.
    seconds : float
        Seconds that the last step took.
    """

    phase: str
    step: int
    steps: int
    seconds: float
