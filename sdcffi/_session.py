"""One native context in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._callbacks import LogFunction, ProgressFunction, listening
from ._marshal import Marshaller, adopt_images
from .errors import GenerationError, LoraError, ModelLoadError, NativeError, SDError
from .lora import Lora
from .result import LoraReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ._library import Device, Library
    from .params import ContextParams, ImageParams

__all__ = ["Session", "open_backend"]


def open_backend(library: Library, backend: str, on_log: LogFunction | None = None) -> Device:
    """Load a backend's plug-ins, see `Library.use_backend`."""
    with library.lock, listening(library, on_log=on_log) as events:
        return library.use_backend(backend, events.lines)


class Session:
    """A native context with its model.

    Calls from several threads wait for each other. After a native exception or a failed assertion the context's
    state is unknown: it is never used again, and not freed either, since its destructor would walk the same state.
    Without weights it can only check adapters.
    """

    def __init__(
        self,
        library: Library,
        params: ContextParams,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        weights: bool = True,
    ) -> None:
        self._library = library
        self._weights = weights
        self._context: Any = None
        self._poison: NativeError | None = None
        marshaller = Marshaller(library)
        struct = marshaller.struct(params)
        out = library.ffi.new("sd_ctx_t **")
        create = library.lib.sdg_new_context if weights else library.lib.sdg_new_empty_context
        with library.lock, listening(library, "load", on_log, on_progress) as events:
            library.check(
                lambda error: create(struct, out, error),
                ModelLoadError,
                "the model could not be loaded",
                events.lines,
            )
        self._context = out[0]

    def generate_image(
        self, params: ImageParams, on_log: LogFunction | None = None, on_progress: ProgressFunction | None = None
    ) -> tuple[list[NDArray[np.uint8]], list[LoraReport]]:
        """Draw pictures.

        Returns
        -------
        list of uint8 arrays (H, W, 3)
            Views on native memory that they own.
        list of LoraReport
            What became of each adapter.
        """
        library = self._library
        marshaller = Marshaller(library)
        struct = marshaller.struct(params)
        images = library.ffi.new("sd_image_t **")
        count = library.ffi.new("int *")
        with library.lock, listening(library, "sample", on_log, on_progress) as events:
            context = self._usable()
            if not self._weights:
                raise SDError("the engine was opened without weights: it cannot draw")
            self._guarded(
                lambda error: library.lib.sdg_generate_image(context, struct, images, count, error),
                GenerationError,
                "the picture could not be drawn",
                events.lines,
            )
            arrays = adopt_images(library, images[0], count[0])
            return arrays, self._lora_reports(context)

    def check_loras(
        self, loras: Sequence[Lora], on_log: LogFunction | None = None, on_progress: ProgressFunction | None = None
    ) -> list[LoraReport]:
        """Tell what adapters would do to the weights, without changing any. The files are read, and kept for use."""
        library = self._library
        marshaller = Marshaller(library)
        array = marshaller.array(Lora.C_STRUCT, loras)
        rows = library.ffi.new("sdg_lora_report **")
        with library.lock, listening(library, "lora", on_log, on_progress) as events:
            context = self._usable()
            try:
                library.check(
                    lambda error: library.lib.sdg_check_loras(context, array, len(loras), rows, error),
                    LoraError,
                    f"the adapters could not be read: {', '.join(str(lora.path) for lora in loras)}",
                    events.lines,
                )
            except NativeError as error:  # nothing was changed: the context is as before
                raise LoraError(error.message, error.log) from error
            return [self._report(row) for row in library.ffi.unpack(rows[0], len(loras))]

    def _lora_reports(self, context: Any) -> list[LoraReport]:
        library = self._library
        rows = library.ffi.new("sdg_lora_report **")
        count = library.ffi.new("size_t *")
        library.check(
            lambda error: library.lib.sdg_lora_reports(context, rows, count, error),
            NativeError,
            "the adapters' counts could not be read",
            tuple,
        )
        return [self._report(row) for row in library.ffi.unpack(rows[0], count[0])] if count[0] else []

    def set_lora_cache(self, size: int) -> None:
        """Set how many bytes of adapters are kept between calls."""
        with self._library.lock:
            self._library.lib.sdg_set_lora_cache(self._usable(), size)

    def _report(self, row: Any) -> LoraReport:
        text = self._library.text

        def texts(array: Any, count: int) -> tuple[str, ...]:
            return tuple(text(array[index]) for index in range(count))

        return LoraReport(
            text(row.path),
            float(row.multiplier),
            bool(row.is_high_noise),
            int(row.applied),
            int(row.total),
            texts(row.skipped, row.skipped_count),
            "immediately" if row.immediately else "at_runtime",
            texts(row.types, row.type_count),
            float(row.seconds),
            texts(row.misfits, row.misfit_count),
        )

    def _guarded(
        self, call: Callable[[Any], int], failure: type[SDError], message: str, log: Callable[[], tuple[str, ...]]
    ) -> None:
        try:
            self._library.check(call, failure, message, log)
        except NativeError as error:
            self._poison = error
            raise

    def supports(self) -> dict[str, bool]:
        """Tell what the loaded model can make: ``"image"`` and ``"video"``."""
        with self._library.lock:
            context = self._usable()
            lib = self._library.lib
            return {"image": lib.sdg_supports_image(context), "video": lib.sdg_supports_video(context)}

    def _usable(self) -> Any:
        if self._context is None:
            raise SDError("the engine is closed")
        if self._poison is not None:
            raise NativeError(f"the engine cannot be used after: {self._poison.message}", self._poison.log)
        return self._context

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        library = self._library
        with library.lock:
            context, self._context = self._context, None
            if context is None or self._poison is not None:
                return
            with listening(library, "free") as events:
                library.check(
                    lambda error: library.lib.sdg_free_context(context, error),
                    NativeError,
                    "the model could not be freed",
                    events.lines,
                )
