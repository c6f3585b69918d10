"""`Upscaler`: a network that enlarges pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from .._bindings.requests import Opening, UpscalerParams
from .._files import replacing
from .._machine.backends import backend_choice
from .._machine.limits import MOST_THREADS
from .._models.upscaler_file import MOST_PASSES, read_network
from .._numbers import check_integer, check_number
from .._process.aio import as_coroutine
from .._process.calls import GRACE, Call
from .._process.handle import Handle
from .._public import public
from .._records.digests import file_state
from .._records.origin import Origin, Upscaling
from ..events import Listeners, LogFunction, Progress, ProgressFunction
from ..images.convert import ImageLike, as_rgb, to_pillow
from .results import Result, check_image_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ..params.struct import StrPath

    Pixels = NDArray[np.uint8]

__all__ = ["UpscaleResult", "Upscaler"]

_MOST_TILE = 16384
_MOST_BYTES = (1 << 31) - 1  # the engine counts a picture's bytes in an int


@public
@dataclass(frozen=True)
class UpscaleResult:
    """An enlarged picture.

    Attributes
    ----------
    array : uint8 array (H, W, 3)
        A view on the engine's own memory, not a copy, which lives as long as a view on it; resized by Pillow where
        the factor is not the network's own.
    factor : float
        How many times wider and higher it is than the picture given.
    seconds : float
        Wall time of the call.
    """

    array: Pixels
    factor: float
    seconds: float

    @cached_property
    def image(self) -> Image.Image:
        """Pillow image, copied from `array` at the first access."""
        return to_pillow(self.array)

    def save(self, path: StrPath) -> Path:
        """Write the picture; the file's ending chooses the format, and an existing file is replaced whole or not.

        Raises
        ------
        ValueError
            If the ending is no picture format, or the directory does not exist.
        """
        target = Path(path).expanduser()
        picture_format = check_image_path(target)
        with replacing(target) as temporary:
            self.image.save(temporary, format=picture_format)
        return target


@public
class Upscaler(Handle):
    """An upscaling network (ESRGAN, Real-ESRGAN), loaded to enlarge pictures with.

    Parameters
    ----------
    model : path
        The network (safetensors, gguf, pth): RRDBNet of 3 channels and 64 features, of any number of blocks, that
        makes pictures 1, 2 or 4 times as wide and high.
    threads : int, optional
        CPU threads, at least 1. None: as for `Engine`.
    tile_size : int
        Pixels a side of the pieces in which larger pictures are computed, which overlap by a quarter and are blended;
        0 takes every picture whole. Memory goes with its square: at 128 about 420 MiB on the CPU with a factor of 4.
    conv_direct : bool
        Convolve without unrolling, which takes less memory; faster or slower by backend.
    offload_to_cpu : bool
        Keep the weights outside the GPU while nothing is computed.
    backend, library, isolated, restart, timeout, grace, on_log, on_progress : optional
        As for `Engine`. Progress has the phase ``"upscale"`` and counts tiles; a picture of one tile has none.

    Raises
    ------
    TypeError, ValueError
        For a bad argument, or a file that is no such network, before anything native runs.
    ModelLoadError, BackendUnavailableError, LibraryNotFoundError, NativeCrashError, GenerationTimeoutError
        As for `Engine`.

    Notes
    -----
    As with `Engine`, calls of several threads wait for each other; close it, or use it in a ``with`` statement.
    """

    def __init__(
        self,
        model: StrPath,
        *,
        threads: int | None = None,
        tile_size: int = 128,
        conv_direct: bool = False,
        offload_to_cpu: bool = False,
        backend: str = "auto",
        library: StrPath | None = None,
        isolated: bool = True,
        restart: Literal["auto", "never"] = "auto",
        timeout: float | None = None,
        grace: float = GRACE,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
    ) -> None:
        check_integer("threads", threads, 1, MOST_THREADS, "the process ends where it gets no more")
        if tile_size is None:
            raise TypeError("tile_size must be an integer, not None")
        check_integer("tile_size", tile_size, 0, _MOST_TILE)
        for name, flag in {"conv_direct": conv_direct, "offload_to_cpu": offload_to_cpu}.items():
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, not {flag!r}")
        network = read_network("model", Path(model))
        self._params = UpscalerParams(network.path.absolute(), threads, tile_size, conv_direct, offload_to_cpu)
        self._states = {self._params.path: file_state(self._params.path)}
        listeners = Listeners(on_log, on_progress)
        self._open(
            Opening(library, backend_choice(backend), self._params), isolated, restart, grace, timeout, listeners
        )
        self._factor = network.factor

    @property
    def factor(self) -> int:
        """How many times wider and higher the network itself makes a picture: 1, 2 or 4."""
        if self._factor is None:
            with self._calls.call(self._listeners) as call:
                self._factor = self._own_factor(call)
        return self._factor

    def _own_factor(self, call: Call) -> int:
        return self._factor or int(self._calls.run(call, "upscale_factor"))

    @overload
    def upscale(
        self,
        image: Result,
        factor: float | None = None,
        *,
        timeout: float | None = None,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
    ) -> Result: ...

    @overload
    def upscale(
        self,
        image: ImageLike,
        factor: float | None = None,
        *,
        timeout: float | None = None,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
    ) -> UpscaleResult: ...

    def upscale(
        self,
        image: ImageLike | Result,
        factor: float | None = None,
        *,
        timeout: float | None = None,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
    ) -> UpscaleResult | Result:
        """Enlarge a picture, or those of a `Result` of `Engine.generate`.

        Parameters
        ----------
        image : picture or Result
            A Pillow image, a uint8 array (H, W, 3), a path or bytes; or what `Engine.generate` returned.
        factor : float, optional
            How many times wider and higher, from 1 to the third power of the network's own factor. None: that one.
            The network knows no other, so for a larger one it is run again on its own picture, up to three times, and
            what is then too large is resized by Pillow's Lanczos filter.
        timeout : float, optional
            Seconds that the call may take, waiting for its turn included. None: any time.
        on_log, on_progress : callable, optional
            For this call, in place of the upscaler's own.

        Returns
        -------
        UpscaleResult, or Result
            Of a `Result`, the same with other `arrays`, and with the time added to its `seconds`. Its record tells of
            the network; what is enlarged a second time has none.

        Raises
        ------
        TypeError, ValueError
            For a bad argument, before anything native runs; also where the picture would have more than 2**31 bytes.
        GenerationError, OutOfMemoryError, NativeError, NativeCrashError, CancelledError, GenerationTimeoutError
            As for `Engine.generate`.
        """
        pictures = image.arrays if isinstance(image, Result) else [as_rgb(image, "image")]
        check_number("factor", factor, 1)
        listeners = self._listeners.overridden(on_log, on_progress)
        started = time.perf_counter()
        with self._calls.call(listeners, timeout) as call:
            own = self._own_factor(call)
            wanted, passes = _plan(factor, own)
            _check_size(pictures, own**passes)
            enlarged = self._enlarge(call, pictures, passes)
        arrays = [_resized(large, small, wanted) for large, small in zip(enlarged, pictures, strict=True)]
        seconds = time.perf_counter() - started
        if isinstance(image, Result):
            return replace(image, arrays=arrays, seconds=image.seconds + seconds, origin=self._origin(image, wanted))
        return UpscaleResult(arrays[0], wanted, seconds)

    def _origin(self, result: Result, factor: float) -> Origin | None:
        if result.origin is None or result.origin.upscaling is not None:
            return None  # a record tells of one network
        upscaling = Upscaling(self._params.path, factor, self._params.tile_size)
        return replace(result.origin, upscaling=upscaling, states={**result.origin.states, **self._states})

    aupscale = as_coroutine(
        upscale,
        """Enlarge without blocking the event loop; parameters, result and errors are those of `upscale`.

        Cancelling the task stops the call. The caller's functions are called on another thread.
        """,
    )

    def _enlarge(self, call: Call, pictures: Sequence[Pixels], passes: int) -> list[Pixels]:
        """Run the network `passes` times: over all pictures, then again, so that the tiles of a run never get fewer."""
        on_progress, runs = call.listeners.on_progress, passes * len(pictures)
        enlarged = list(pictures)
        for run in range(runs):
            if on_progress:
                call.listeners = replace(call.listeners, on_progress=_of_several(on_progress, run, runs))
            index = run % len(pictures)
            enlarged[index] = self._calls.run(call, "upscale", enlarged[index])
        return enlarged


def _of_several(on_progress: ProgressFunction, done: int, runs: int) -> Callable[[Progress], object]:
    """Let the progress of one run count as a part of all; that a later one begins is not told."""

    def tell(event: Progress) -> None:
        if event.step or not done:
            on_progress(replace(event, step=event.step + done * event.steps, steps=runs * event.steps))

    return tell


def _plan(factor: float | None, own: int) -> tuple[float, int]:
    """Give the factor that is wanted, and how often a network of factor `own` must be run for it."""
    if factor is None:
        return own, 1
    if factor > own**MOST_PASSES:
        legal = f"from 1 to {own**MOST_PASSES}" if own > 1 else "1"
        raise ValueError(
            f"factor must be {legal} with a network that makes pictures {own} times as wide, not {factor!r}"
        )
    return factor, next(count for count in range(1, MOST_PASSES + 1) if own**count >= factor)


def _check_size(pictures: Sequence[Pixels], factor: int) -> None:
    for picture in pictures:
        height, width = (side * factor for side in picture.shape[:2])
        if height * width * 3 > _MOST_BYTES:
            raise ValueError(
                f"image is {picture.shape[1]}x{picture.shape[0]} pixels; {factor} times as large it would be"
                f" {width}x{height}, of which the engine can count at most {_MOST_BYTES // 3} pixels"
            )


def _resized(large: Pixels, small: Pixels, factor: float) -> Pixels:
    import numpy as np
    from PIL import Image

    height, width = (max(1, math.floor(side * factor + 0.5)) for side in small.shape[:2])
    if large.shape[:2] == (height, width):
        return large
    return np.asarray(to_pillow(large).resize((width, height), Image.Resampling.LANCZOS))
