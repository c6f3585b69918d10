"""What the engine reports while it works: frozen data, made by `_bindings.callbacks` for the caller's functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ._public import public

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


@public
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


@public
@dataclass(frozen=True)
class Progress:
    """How far a phase of a call has come.

    A phase may come several times in a call: for each picture, adapter, file. Each time begins with step 0, rises, and
    ends with `steps`. What the engine says nothing about in between is step 0 of 1, then 1 of 1.

    Attributes
    ----------
    phase : str
        ``"load"``: weights, in tensors; the model's own also when merged adapters are taken out again.
        ``"lora"``: one adapter's tensors.
        ``"encode"``: each picture that goes in (tiles, where it is done in tiles), then the prompts.
        ``"sample"``: denoising steps of one picture; with hires, all pictures' first passes and then the second ones.
        ``"upscale"``: one picture, enlarged between two passes or by an upscaler, in tiles.
        ``"decode"``: one picture, in tiles.
    step : int
        What is done, from 0 to `steps`.
    steps : int
        What there is to do; may still change at step 0. Of sampling, those that really run: image to image leaves out
        the first ones, and a step for which a sampler asks the model twice is one.
    seconds : float
        What a step takes: of load and sample the mean so far, else the last one; 0 at step 0.
    image, images : int
        Which picture of the batch, from 1, and how many there are; both 0 in load, lora, and encode before sampling.
    """

    phase: str
    step: int
    steps: int
    seconds: float
    image: int = 0
    images: int = 0


@public
@dataclass(frozen=True)
class Preview:
    """What the picture looks like so far.

    Attributes
    ----------
    step : int
        Which denoising step, from 1.
    frames : tuple of uint8 arrays (H, W, 3)
        One, or a video's; copies, which are the caller's.
    is_noisy : bool
        Whether it shows the noisy latent that goes into the step, not what the model predicts behind it.
    image, images : int
        Which picture of the batch, from 1, and how many there are.
    """

    step: int
    frames: tuple[NDArray[np.uint8], ...] = field(repr=False)
    is_noisy: bool = False
    image: int = 1
    images: int = 1


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

    def overridden(
        self,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        on_preview: PreviewFunction | None = None,
    ) -> Listeners:
        """Return these with those that a call brings in their place."""
        return Listeners(on_log or self.on_log, on_progress or self.on_progress, on_preview or self.on_preview)

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
