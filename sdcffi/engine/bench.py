"""Measure how long an engine takes to generate an image, with one set of settings after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import GenerationTimeoutError, SDError
from ..events import Progress
from .engine import Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .._records.origin import Origin

__all__ = ["SMALLEST", "Bench", "Measured", "Settings"]

Settings = dict[str, "int | bool | str"]

_CALL: dict[str, Any] = {"prompt": "a lovely cat on a windowsill", "cfg_scale": 1.0, "seed": 42}
_STEPS = 20  # of the image that times are projected to
_FRAMES = 5  # of a video
SMALLEST, _LEAST_SIZE, _MOST_SIZE = 64, 128, 512  # pixels: the smallest side, and the limits of the default
_IMAGES = 40  # number of images that must fit into the budget before a larger size is used


@dataclass(frozen=True)
class Measured:
    """An image, its wall time, and the time of one with `_STEPS` steps, projected from the engine's clock."""

    pixels: NDArray[np.uint8]
    origin: Origin
    wall: float
    seconds: float


@dataclass
class Bench:
    """Engines by their settings: the best one and the candidate, both at once if memory has room for them.

    Parameters
    ----------
    keywords : dict
        Keywords of `Engine` for all of them.
    deadline : float
        Time on `time.monotonic` at which the budget ends.
    budget : float
        Seconds for all measurements; the size is chosen so that many images fit.
    """

    keywords: dict[str, Any]
    deadline: float
    budget: float
    size: int = _LEAST_SIZE
    _engines: dict[tuple[Any, ...], Engine] = field(default_factory=dict)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_error: object) -> None:
        self.keep(None)

    def begin(self, size: int | None) -> Measured:
        """Generate with the defaults, in the given size or the largest that the budget allows."""
        try:
            self.size = size or _LEAST_SIZE
            first = self.measure({})
            while size is None and self.size < _MOST_SIZE and 4 * first.wall * _IMAGES < self.budget:
                self.size *= 2
                first = self.measure({})
        except GenerationTimeoutError as error:
            raise GenerationTimeoutError(
                f"the budget of {self.budget:g} seconds was spent on loading the model and generating an image of"
                f" {self.size}x{self.size} pixels; give a larger budget or a smaller size"
            ) from error
        return first

    def measure(self, settings: Settings) -> Measured:
        """Generate once with an engine of these settings; a new engine is opened and warmed up first."""
        try:
            return self._measure(settings)
        except GenerationTimeoutError:
            raise
        except SDError:
            if not self._engines:
                raise
            self.keep(None)  # perhaps there is no memory for two engines, which GPUs report in many ways
            return self._measure(settings)

    def _measure(self, settings: Settings) -> Measured:
        key = tuple(sorted(settings.items()))
        try:
            if key not in self._engines:
                self._engines[key] = self._opened(settings)
                self._generate(self._engines[key], SMALLEST, 1, _ignore)  # the first one sets up threads and kernels
            return self._once(self._engines[key])
        except BaseException:
            self._close(key)
            raise

    def keep(self, settings: Settings | None) -> None:
        """Close every engine but that of these settings."""
        kept = None if settings is None else tuple(sorted(settings.items()))
        for key in [key for key in self._engines if key != kept]:
            self._close(key)

    def _close(self, key: tuple[Any, ...]) -> None:
        if engine := self._engines.pop(key, None):
            engine.close()

    def _opened(self, settings: Settings) -> Engine:
        check = {"memory_check": "strict"} if self._engines else {}
        return Engine(**{**self.keywords, **check, **settings}, restart="never", timeout=self._left())

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise GenerationTimeoutError("the budget is spent")
        return left

    def _once(self, engine: Engine) -> Measured:
        seconds, started = 0.0, time.monotonic()

        def hear(event: Progress) -> None:
            nonlocal seconds
            if event.step == event.steps:
                seconds += event.seconds * (_STEPS if event.phase == "sample" else event.steps)

        result = self._generate(engine, self.size, 2, hear)
        return Measured(result.arrays[0], result.origin, time.monotonic() - started, seconds)

    def _generate(self, engine: Engine, size: int, steps: int, on_progress: Callable[[Progress], object]) -> Any:
        call = {**_CALL, "width": size, "height": size, "steps": steps, "on_progress": on_progress}
        if engine.capabilities().image:
            return engine.generate(**call, timeout=self._left())
        return engine.generate_video(**call, video_frames=_FRAMES, timeout=self._left())


def _ignore(_event: object) -> None:
    pass
