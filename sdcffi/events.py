"""Events that the engine reports during a call: frozen data, passed to the caller's functions.

The lines of the native log also go to the logger ``"sdcffi"`` of Python's `logging`, whoever else receives them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeAlias

from ._public import public
from ._quoting import shown

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


_LOGGER = logging.getLogger("sdcffi")
_LOGGER.addHandler(logging.NullHandler())  # without one, a program that sets up no logging would see warnings
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


@public
@dataclass(frozen=True)
class Log:
    """One line of the native log.

    Attributes
    ----------
    level : str
        ``"debug"``, ``"info"``, ``"warn"`` or ``"error"``.
    text : str
        The line as the engine wrote it (``file.cpp:line - message``), without a line break.
    """

    level: str
    text: str


@public
@dataclass(frozen=True)
class Progress:
    """Progress of one phase of a call.

    A phase may run several times in a call: once for each image, adapter or file. Each run starts at step 0 and ends
    at `steps`. A run that the engine does not report on has two events: step 0 of 1, then step 1 of 1.

    Attributes
    ----------
    phase : str
        ``"load"``: loads weights, in tensors; also when merged adapters are removed from the model again.
        ``"lora"``: loads one adapter, in tensors.
        ``"encode"``: encodes one input image (in tiles, if tiling is on), or the prompts.
        ``"sample"``: denoises one image, in steps. With hires, all first passes come before the second passes.
        ``"upscale"``: enlarges one image, in tiles: between two hires passes, or by an `Upscaler`.
        ``"decode"``: decodes one image, in tiles.
    step : int
        Number of finished steps, from 0 to `steps`.
    steps : int
        Number of steps in this run, at least 1; it may still change at step 0. Sampling counts the steps that really
        run: image to image skips the first ones, and a step that evaluates the model twice counts once.
    seconds : float
        Seconds per step: the mean so far for load and sample, the last step's time for the other phases, 0 at step 0.
    image, images : int
        Number of this image in the batch, from 1, and size of the batch. Both are 0 in load, in lora, and in encode
        before sampling.
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
    """A preview of an image that is being generated.

    Attributes
    ----------
    step : int
        Denoising step, from 1.
    frames : tuple of uint8 arrays (H, W, 3)
        One image, or all frames of a video. They are copies, and the caller owns them.
    is_noisy : bool
        Whether it shows the noisy latent before the step instead of the model's prediction.
    image, images : int
        Number of this image in the batch, from 1, and size of the batch.
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
    """A caller's functions for events. They run on the thread that made the call, in the order of the events.

    Attributes
    ----------
    on_log, on_progress, on_preview : callable or None
        Function for each kind of event. None: these events are ignored.
    """

    on_log: LogFunction | None = None
    on_progress: ProgressFunction | None = None
    on_preview: PreviewFunction | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            function = getattr(self, item.name)
            if function is not None and not callable(function):
                raise TypeError(f"{item.name} must be a function, not {shown(function)}")

    def overridden(
        self,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        on_preview: PreviewFunction | None = None,
    ) -> Listeners:
        """Return these functions, each replaced by the one that a call brings."""
        return Listeners(
            self.on_log if on_log is None else on_log,
            self.on_progress if on_progress is None else on_progress,
            self.on_preview if on_preview is None else on_preview,
        )

    def note(self, text: str) -> None:
        """Add a line of our own to the log."""
        self.notify(Log("info", text))

    def notify(self, event: Event) -> None:
        """Call the function for this kind of event; a line of the log goes to Python's `logging` first."""
        if isinstance(event, Log):
            _LOGGER.log(_LEVELS.get(event.level, logging.ERROR), "%s", event.text)
            if self.on_log:
                self.on_log(event)
        elif isinstance(event, Progress):
            if self.on_progress:
                self.on_progress(event)
        elif self.on_preview:
            self.on_preview(event)
