"""`Upscaler`: a network that enlarges images."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, overload

from .._bindings.requests import Opened, Opening, UpscalerParams
from .._checks.context import check_precision
from .._files import expanded, replacing
from .._machine.backends import backend_choice
from .._machine.limits import MOST_THREADS
from .._models.upscaler_file import MOST_PASSES, read_network
from .._numbers import check_flags, check_integer, check_number
from .._process.aio import as_coroutine
from .._process.calls import GRACE, Call
from .._process.handle import Handle
from .._public import public
from .._quoting import shown
from .._records.digests import FileState, check_unchanged, file_state
from .._records.origin import Origin, Upscaling
from .._references import local_path
from .._warnings import warn_of_unused
from ..events import Listeners, LogFunction, Progress, ProgressFunction
from ..images.convert import ImageLike, as_rgb, to_pillow
from .results import Result, check_image_path
from .streams import ShownInNotebooks, encoded, format_of, image_format, refuse_format, write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ..params.struct import StrPath

    Pixels = NDArray[np.uint8]

__all__ = ["UpscaleResult", "Upscaler"]

_MOST_TILE = 16384
_MOST_BYTES = (1 << 31) - 1  # the engine counts an image's bytes in an int


@public
@dataclass(frozen=True, eq=False, repr=False)
class UpscaleResult(ShownInNotebooks):
    """An enlarged image. A notebook shows it.

    Attributes
    ----------
    array : uint8 array (H, W, 3)
        The image: a view of native memory, not a copy. The memory lives as long as a view of it. If Pillow resized the
        image, because the network cannot enlarge by this factor, it is a new array.
    factor : float
        Factor on width and height.
    seconds : float
        Wall time of the call, in seconds.
    """

    array: Pixels
    factor: float
    seconds: float

    @cached_property
    def image(self) -> Image.Image:
        """Pillow image, copied from `array` at the first access."""
        return to_pillow(self.array)

    def _shown(self) -> list[Image.Image]:
        return [self.image]

    def __repr__(self) -> str:
        height, width = self.array.shape[:2]
        return f"<UpscaleResult: {width}x{height}, factor {self.factor:g}, {self.seconds:.1f} seconds>"

    def to_bytes(self, format: str = "PNG") -> bytes:
        """Return the image as the bytes of a file.

        Parameters
        ----------
        format : str
            Pillow's name of the format, or an ending: ``"PNG"``, ``"JPEG"``, ``"webp"``, ...

        Returns
        -------
        bytes

        Raises
        ------
        TypeError, ValueError
            If there is no such format.
        """
        return encoded(self.image, image_format(format))

    @overload
    def save(self, path: StrPath, *, format: None = None) -> Path: ...

    @overload
    def save(self, path: IO[bytes], *, format: str | None = None) -> None: ...

    def save(self, path: StrPath | IO[bytes], *, format: str | None = None) -> Path | None:
        """Save the image. An existing file is replaced completely or not at all.

        Parameters
        ----------
        path : path or open file
            File to write. Its ending selects the format (PNG, JPEG, WebP, ...). It may be a file that is open for
            bytes, or an `io.BytesIO`.
        format : str, optional
            Format for an open file, as in `to_bytes`. None: by the ending of its name, or PNG if it has none.

        Returns
        -------
        Path or None
            The file; None for an open file.

        Raises
        ------
        ValueError
            If the ending is not that of an image format, or the directory does not exist.
        """
        if not isinstance(path, (str, os.PathLike)):
            write(path, self.to_bytes(format_of(path, format, "PNG")))
            return None
        refuse_format(format, path)
        target = expanded(path)
        name = check_image_path(target)
        with replacing(target) as temporary:
            self.image.save(temporary, format=name)
        return target


@public
class Upscaler(Handle):
    """A loaded upscaling network (ESRGAN, Real-ESRGAN) that enlarges images.

    Parameters
    ----------
    model : path
        The network: a safetensors, gguf or pth file, or a reference to one, as in `Engine`. It must be an RRDBNet with
        3 channels and 64 features, any number of blocks, and a factor of 1, 2 or 4 on width and height.
    threads : int, optional
        Number of CPU threads, 1 to 512. None: as in `Engine`.
    tile_size : int
        Side of the tiles that a larger image is split into, in pixels. Tiles overlap by a quarter and are blended. 0
        does not split. Memory grows with its square: 128 takes about 420 MiB on the CPU with a factor of 4.
    conv_direct : bool
        True computes convolutions directly, which takes less memory. It is faster or slower, depending on the backend.
    offload_to_cpu : bool
        True keeps the weights in main memory, and copies them to the GPU only to compute with them.
    precision : str, optional
        How the CPU convolves: ``"exact"`` or ``"fast"``, as in `Engine`. None: ``"exact"``.
    backend, library, isolated, restart, grace : optional
        As in `Engine`.
    timeout : float, optional
        Time limit for loading, in seconds. None: no limit.
    on_log : callable, optional
        Function that is called with each `Log`, on the thread that makes the call.
    on_progress : callable, optional
        Function that is called with each `Progress`, on the same thread. Its phase is ``"upscale"``, its steps are
        tiles. An image of one tile has no progress.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or the file is not such a network. No native code has run then.
    ModelLoadError, BackendUnavailableError, LibraryNotFoundError, NativeCrashError, GenerationTimeoutError
        As in `Engine`.

    Notes
    -----
    Calls from several threads run one after the other. `close` frees the network's memory, as does the end of a
    ``with`` statement.
    """

    def __init__(
        self,
        model: StrPath,
        *,
        threads: int | None = None,
        tile_size: int = 128,
        conv_direct: bool = False,
        offload_to_cpu: bool = False,
        precision: str | None = None,
        backend: str = "auto",
        library: StrPath | None = None,
        isolated: bool = True,
        restart: Literal["auto", "never"] = "auto",
        timeout: float | None = None,
        grace: float = GRACE,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
    ) -> None:
        check_integer("threads", threads, 1, MOST_THREADS, "with more, the system may end the process")
        if tile_size is None:
            raise TypeError("tile_size must be an integer, not None")
        check_integer("tile_size", tile_size, 0, _MOST_TILE)
        check_flags(conv_direct=conv_direct, offload_to_cpu=offload_to_cpu)
        precision = check_precision(precision)
        network = read_network("model", local_path(model, "model"))
        warn_of_unused(network.unused, str(network.path))
        self._params = UpscalerParams(
            network.path.absolute(), threads, tile_size, conv_direct, offload_to_cpu, precision
        )
        self._states = {self._params.path: file_state(self._params.path)}
        listeners = Listeners(on_log, on_progress)
        opening = Opening(library, backend_choice(backend), self._params)
        self._open(opening, isolated, restart, grace, timeout, listeners, _Preparation(self._params, self._states))
        self._factor = network.factor

    @property
    def factor(self) -> int:
        """The network's own factor on width and height: 1, 2 or 4."""
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
        """Enlarge an image, or all images of a `Result`.

        Parameters
        ----------
        image : image or Result
            A Pillow image, an array, a path or a file's bytes, as in `Engine.generate`; or a `Result` that it returned.
        factor : float, optional
            Factor on width and height, from 1 to the third power of the network's own factor. For more than its own
            factor the network runs again on its own output, up to three times in all. An output that is then too large
            is resized with Pillow's Lanczos filter. None: the network's own factor.
        timeout : float, optional
            Time limit for the call, in seconds. It includes the wait for earlier calls. None: no limit.
        on_log, on_progress : callable, optional
            Functions for this call, in place of the upscaler's own. None: the upscaler's own.

        Returns
        -------
        UpscaleResult or Result
            For a `Result`, a new one with the enlarged images in `arrays`, and with the time of this call added to
            `seconds`. Its record includes the network; a result that is enlarged a second time has no record. For an
            image, an `UpscaleResult`. Arrays are views of native memory, which lives as long as a view of it, or new
            arrays if Pillow resized them.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or the network's output would have 2**31 bytes or more. The network has not run
            then.
        GenerationError, OutOfMemoryError, NativeError, NativeCrashError, CancelledError, GenerationTimeoutError
            As in `Engine.generate`.
        """
        images = image.arrays if isinstance(image, Result) else [as_rgb(image, "image")]
        check_number("factor", factor, 1)
        listeners = self._listeners.overridden(on_log, on_progress)
        started = time.perf_counter()
        with self._calls.call(listeners, timeout) as call:
            own = self._own_factor(call)
            wanted, passes = _plan(factor, own)
            _check_size(images, own**passes)
            enlarged = self._enlarge(call, images, passes)
        arrays = [_resized(large, small, wanted) for large, small in zip(enlarged, images, strict=True)]
        seconds = time.perf_counter() - started
        if isinstance(image, Result):
            return replace(image, arrays=arrays, seconds=image.seconds + seconds, origin=self._origin(image, wanted))
        return UpscaleResult(arrays[0], wanted, seconds)

    def _origin(self, result: Result, factor: float) -> Origin | None:
        if result.origin is None or result.origin.upscaling is not None:
            return None  # a record has one network
        upscaling = Upscaling(self._params.path, factor, self._params.tile_size)
        return replace(result.origin, upscaling=upscaling, states={**result.origin.states, **self._states})

    aupscale = as_coroutine(
        upscale,
        """Enlarge without blocking the event loop. Parameters, result and errors are those of `upscale`.

        Cancelling the task stops the call. The caller's functions run on another thread.
        """,
    )

    def _enlarge(self, call: Call, images: Sequence[Pixels], passes: int) -> list[Pixels]:
        """Run the network `passes` times over all images, all of them once per pass: the number of tiles only grows."""
        on_progress, runs = call.listeners.on_progress, passes * len(images)
        enlarged = list(images)
        for run in range(runs):
            if on_progress:
                call.listeners = replace(call.listeners, on_progress=_of_several(on_progress, run, runs))
            index = run % len(images)
            enlarged[index] = self._calls.run(call, "upscale", enlarged[index])
        return enlarged


class _Preparation:
    """What is done before the network is loaded, also after a crash. It has no reference to the upscaler."""

    def __init__(self, params: UpscalerParams, states: Mapping[Path, FileState | None]) -> None:
        self._params, self._states = params, states

    def __call__(self, _opened: Opened) -> UpscalerParams:
        check_unchanged(self._states)
        return self._params


def _of_several(on_progress: ProgressFunction, done: int, runs: int) -> Callable[[Progress], object]:
    """Return a function that reports the progress of one run as a part of all runs; a later run's start is skipped."""

    def report(event: Progress) -> None:
        if event.step or not done:
            on_progress(replace(event, step=event.step + done * event.steps, steps=runs * event.steps))

    return report


def _plan(factor: float | None, own: int) -> tuple[float, int]:
    """Return the factor of the result, and the number of passes that a network with factor `own` needs for it."""
    if factor is None:
        return own, 1
    if factor > own**MOST_PASSES:
        legal = f"from 1 to {own**MOST_PASSES}" if own > 1 else "1"
        raise ValueError(f"factor must be {legal} with a network whose own factor is {own}, not {shown(factor)}")
    return factor, next(count for count in range(1, MOST_PASSES + 1) if own**count >= factor)


def _check_size(images: Sequence[Pixels], factor: int) -> None:
    for image in images:
        height, width = (side * factor for side in image.shape[:2])
        if height * width * 3 > _MOST_BYTES:
            raise ValueError(
                f"image is too large: {factor} times {image.shape[1]}x{image.shape[0]} pixels are {width}x{height},"
                f" and the engine can hold at most {_MOST_BYTES // 3} pixels; pass a smaller image or factor"
            )


def _resized(large: Pixels, small: Pixels, factor: float) -> Pixels:
    import numpy as np
    from PIL import Image

    height, width = (max(1, math.floor(side * factor + 0.5)) for side in small.shape[:2])
    if large.shape[:2] == (height, width):
        return large
    return np.asarray(to_pillow(large).resize((width, height), Image.Resampling.LANCZOS))
