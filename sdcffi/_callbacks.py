"""The one set of trampolines between the engine's callbacks and Python.

    engine thread, in C                     Python
    -------------------                     ------
    sd_log_cb       --> _on_log       -->   Events.log       --> caller's on_log(Log)
    sd_progress_cb  --> _on_progress  -->   Events.progress  --> caller's on_progress(Progress)

The engine has one slot for each callback in the whole process, so `listening` fills them for the time of one call,
under the library's lock, and resets them after it. Log lines also come from the engine's loader threads; progress
comes on the calling thread only.

The callbacks return void: an exception in one cannot travel through C. cffi hands it to `onerror`, it is kept (the
first one wins), the guard is told to cancel, and `listening` raises it again when the native call has returned.
Ctrl-C takes the same way, as the KeyboardInterrupt that Python raises inside a trampoline.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import SDError
from .events import Log, Progress

if TYPE_CHECKING:
    from ._library import Library

__all__ = ["Events", "LogFunction", "ProgressFunction", "listening"]

LogFunction = Callable[[Log], object]
ProgressFunction = Callable[[Progress], object]

_KEPT_LINES = 50
_LEVELS = ("debug", "info", "warn", "error")

# The engine sends every phase's progress through one callback without a tag; its log says when the phase changes.
_PHASES = (
    (re.compile(r"loading LoRA from|loading tensors from"), "lora"),
    (re.compile(r"loading tensors completed"), "sample"),
    (re.compile(r"generating image: "), "sample"),
    (re.compile(r"decoding \d+ latents"), "decode"),
)


class Events:
    """Receives what the trampolines bring during one native call."""

    def __init__(self, phase: str, on_log: LogFunction | None, on_progress: ProgressFunction | None) -> None:
        self.phase = phase
        self.error: BaseException | None = None
        self._one_phase = phase != "sample"
        self._on_log = on_log
        self._on_progress = on_progress
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)

    def lines(self) -> tuple[str, ...]:
        """Give the last lines of the native log, oldest first, without debug lines."""
        return tuple(self._kept)

    def log(self, level: int, text: str) -> None:
        """Take a log line."""
        record = Log(_LEVELS[level] if 0 <= level < len(_LEVELS) else _LEVELS[-1], text.rstrip())
        if record.level != "debug":
            self._kept.append(f"{record.level}: {record.text}")
        if not self._one_phase:
            self.phase = next((phase for pattern, phase in _PHASES if pattern.search(record.text)), self.phase)
        if self._on_log and self.error is None:
            self._on_log(record)

    def progress(self, step: int, steps: int, seconds: float) -> None:
        """Take a progress report."""
        if self._on_progress and self.error is None:
            self._on_progress(Progress(self.phase, step, steps, seconds))


class _Trampolines:
    """C function pointers that lead to the `Events` of the call in progress."""

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

        self.on_log = on_log
        self.on_progress = on_progress

    def _keep(self, _kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if self.events is not None and self.events.error is None:
            self.events.error = error
            self._library.lib.sdg_cancel()


_installed: dict[int, _Trampolines] = {}


@contextmanager
def listening(
    library: Library,
    phase: str = "load",
    on_log: LogFunction | None = None,
    on_progress: ProgressFunction | None = None,
) -> Iterator[Events]:
    """Send the engine's callbacks to new `Events` for the time of the block; the caller holds `library.lock`.

    Freeing (phase ``"free"``) may happen inside another call, when the garbage collector runs in a callback.

    Raises
    ------
    SDError
        If a callback makes another native call: the engine cannot be entered twice.
    BaseException
        What a caller's function raised, in place of whatever the block raised because of it.
    """
    if id(library) not in _installed:
        _installed[id(library)] = _Trampolines(library)
    trampolines = _installed[id(library)]
    events = Events(phase, on_log, on_progress)
    outer, lib, null = trampolines.events, library.lib, library.ffi.NULL
    if outer is None:
        lib.sdg_reset_cancel()
        lib.sdg_set_callbacks(trampolines.on_log, trampolines.on_progress, null)
    elif phase != "free":
        raise SDError("a callback cannot call the engine: it is at work on this thread")
    trampolines.events = events
    try:
        yield events
    except Exception:
        if events.error is None:
            raise
    finally:
        trampolines.events = outer
        if outer is None:
            lib.sdg_set_callbacks(null, null, null)
    if events.error is not None:
        raise events.error
