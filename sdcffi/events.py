"""What the engine tells while it works. Plain frozen data, made by `_callbacks`, given to the caller's functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Event",
    "Listeners",
    "Log",
    "LogFunction",
    "Preview",
    "PreviewFunction",
    "Progress",
    "ProgressFunction",
]


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


@dataclass(frozen=True)
class Preview:
    """What the picture looks like so far.

    Attributes
    ----------
    step : int
        Denoising steps done.
    frames : tuple of uint8 arrays (H, W, 3)
        One, or a video's; copies, which are the caller's.
    is_noisy : bool
        Whether it shows the noisy latent, not what the model predicts behind it.
    """

    step: int
    frames: tuple[NDArray[np.uint8], ...] = field(repr=False)
    is_noisy: bool = False


Event: TypeAlias = Log | Progress | Preview
LogFunction: TypeAlias = Callable[[Log], object]
ProgressFunction: TypeAlias = Callable[[Progress], object]
PreviewFunction: TypeAlias = Callable[[Preview], object]


@dataclass(frozen=True)
class Listeners:
    """A caller's functions, each called on the thread that made the call, in the order of the events."""

    on_log: LogFunction | None = None
    on_progress: ProgressFunction | None = None
    on_preview: PreviewFunction | None = None

    def hear(self, event: Event) -> None:
        """Call the function that is for this event."""
        if isinstance(event, Log):
            if self.on_log:
                self.on_log(event)
        elif isinstance(event, Progress):
            if self.on_progress:
                self.on_progress(event)
        elif self.on_preview:
            self.on_preview(event)
