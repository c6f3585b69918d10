"""Trampolines between the engine's callbacks and Python.

    engine thread, in C                     Python
    -------------------                     ------
    sd_log_cb       --> on_log        -->   Events.log       --> job.emit(Log)
    sd_progress_cb  --> on_progress   -->   Events.progress  --> Phases --> job.emit(Progress)
    sd_preview_cb   --> on_preview    -->   Events.preview   --> job.emit(Preview)

The engine has one slot per callback in the whole process. So `listening` sets them for the time of one call, under the
library's lock, and resets them afterwards. Log lines also come from the engine's loader threads; progress and previews
only come from the calling thread. `emit` puts the event into a queue or a pipe: the caller's functions run on the
caller's thread, see `_process.calls`.

The callbacks return void, so an exception in one cannot pass through C. cffi passes it to `onerror`, which keeps the
first exception and cancels the native call. `listening` raises it again when the native call has returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..events import Log, Preview
from .causes import KeptLines, unused_tensor
from .phases import Phases

if TYPE_CHECKING:
    from .job import Job
    from .library import Library

__all__ = ["Events", "PreviewOptions", "listening"]

_LEVELS = ("debug", "info", "warn", "error")


@dataclass(frozen=True)
class PreviewOptions:
    """Which previews to make.

    Attributes
    ----------
    mode : str
        A name of the engine's `preview_t`: ``"proj"``, ``"tae"``, ``"vae"``.
    interval : int
        One preview every `interval` steps, at least 1. The engine ignores its own setting.
    noisy : bool
        Whether to show the noisy latent instead of the model's prediction.
    """

    mode: str
    interval: int = 1
    noisy: bool = False


class Events:
    """Receives the callbacks of one native call and emits events.

    Attributes
    ----------
    error : BaseException or None
        The first exception in a callback.
    unused : list of str
        Tensors of the model's files that no part of it has.
    """

    def __init__(self, job: Job, phase: str, preview_interval: int) -> None:
        self.error: BaseException | None = None
        self._job = job
        self._phases = Phases(phase, job.emit)
        self._preview_interval = preview_interval
        self._previewed = 0, 0  # the sampling's number, and its step
        self._kept = KeptLines()
        self.unused: list[str] = []

    def lines(self) -> tuple[str, ...]:
        """Return the last lines of the native log, oldest first, without debug lines."""
        return self._kept.lines()

    def log(self, level: int, text: str) -> None:
        """Receive a log line."""
        record = Log(_LEVELS[level] if 0 <= level < len(_LEVELS) else _LEVELS[-1], text.rstrip())
        if record.level != "debug":
            self._kept.add(record.level, record.text)
            if name := unused_tensor(record.text):
                self.unused.append(name)
        self._job.emit(record)
        self._phases.read_line(record.text)

    def progress(self, step: int, steps: int, seconds: float) -> None:
        """Receive a progress report; `seconds` is the time per step."""
        self._phases.report(step, steps, seconds)

    def wants_preview(self, step: int) -> bool:
        """Return whether to emit a preview for the step with this number of the engine.

        Samplers of second order report each step twice, first with the negative number. One preview is emitted.
        """
        done = abs(step)
        if done % self._preview_interval:
            return False
        before, self._previewed = self._previewed, (self._phases.begun, done)
        return before != self._previewed

    def preview(self, step: int, frames: tuple[Any, ...], is_noisy: bool) -> None:
        """Receive a preview; the frames are copies."""
        self._job.emit(Preview(abs(step), frames, is_noisy, self._phases.image, self._phases.images))


class _Trampolines:
    """C function pointers that call the `Events` of the call in progress."""

    def __init__(self, library: Library) -> None:
        ffi = library.ffi
        self.events: Events | None = None
        self._library = library

        @ffi.callback("sd_log_cb_t", onerror=self._keep)  # type: ignore[untyped-decorator]
        def on_log(level: int, text: Any, _data: Any) -> None:
            if self.events is not None:
                self.events.log(level, library.text(text))

        @ffi.callback("sd_progress_cb_t", onerror=self._keep)  # type: ignore[untyped-decorator]
        def on_progress(step: int, steps: int, seconds: float, _data: Any) -> None:
            if self.events is not None:
                self.events.progress(step, steps, seconds)

        @ffi.callback("sd_preview_cb_t", onerror=self._keep)  # type: ignore[untyped-decorator]
        def on_preview(step: int, count: int, frames: Any, is_noisy: bool, _data: Any) -> None:
            if self.events is not None and self.events.wants_preview(step):
                copies = tuple(_copied(ffi, frames[index]) for index in range(count))
                self.events.preview(step, copies, bool(is_noisy))

        self.on_log = on_log
        self.on_progress = on_progress
        self.on_preview = on_preview

    def _keep(self, _kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if self.events is not None and self.events.error is None:
            self.events.error = error
            self._library.lib.sdg_cancel()


def _copied(ffi: Any, image: Any) -> Any:
    shape = image.height, image.width, image.channel
    pixels = ffi.buffer(image.data, image.height * image.width * image.channel)
    return np.frombuffer(pixels, np.uint8).reshape(shape).copy()  # the engine frees it when the callback returns


_installed: dict[int, _Trampolines] = {}


@contextmanager
def listening(
    library: Library, job: Job, phase: str = "load", preview: PreviewOptions | None = None
) -> Iterator[Events]:
    """Send the engine's callbacks to a job during the block, which holds the library's lock.

    Raises
    ------
    CancelledError
        If the job was cancelled before the block began.
    BaseException
        The exception of a callback, which replaces any exception that it caused in the block.
    """
    with job.using(library):
        if id(library) not in _installed:
            _installed[id(library)] = _Trampolines(library)
        trampolines = _installed[id(library)]
        events = trampolines.events = Events(job, phase, preview.interval if preview else 1)
        lib, null = library.lib, library.ffi.NULL
        lib.sdg_set_callbacks(trampolines.on_log, trampolines.on_progress, null)
        if preview:
            mode = library.enum(library.ffi.typeof("enum preview_t"))[preview.mode]
            lib.sdg_set_preview(trampolines.on_preview, mode, not preview.noisy, preview.noisy, null)
        try:
            yield events
        except Exception:
            if events.error is None:
                raise
        finally:
            trampolines.events = None
            lib.sdg_set_callbacks(null, null, null)
            if preview:
                lib.sdg_set_preview(null, 0, False, False, null)
        if events.error is not None:
            raise events.error
