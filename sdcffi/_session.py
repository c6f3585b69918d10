"""One native context in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._callbacks import LogFunction, ProgressFunction, listening
from ._marshal import Marshaller, adopt_images
from .errors import GenerationError, ModelLoadError, NativeError, SDError

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
    """

    def __init__(
        self,
        library: Library,
        params: ContextParams,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
    ) -> None:
        self._library = library
        self._context: Any = None
        self._poison: NativeError | None = None
        marshaller = Marshaller(library)
        struct = marshaller.struct(params)
        out = library.ffi.new("sd_ctx_t **")
        with library.lock, listening(library, "load", on_log, on_progress) as events:
            library.check(
                lambda error: library.lib.sdg_new_context(struct, out, error),
                ModelLoadError,
                "the model could not be loaded",
                events.lines,
            )
        self._context = out[0]

    def generate_image(
        self, params: ImageParams, on_log: LogFunction | None = None, on_progress: ProgressFunction | None = None
    ) -> list[NDArray[np.uint8]]:
        """Draw pictures.

        Returns
        -------
        list of uint8 arrays (H, W, 3)
            Views on native memory that they own.
        """
        library = self._library
        marshaller = Marshaller(library)
        struct = marshaller.struct(params)
        images = library.ffi.new("sd_image_t **")
        count = library.ffi.new("int *")
        with library.lock, listening(library, "sample", on_log, on_progress) as events:
            context = self._usable()
            try:
                library.check(
                    lambda error: library.lib.sdg_generate_image(context, struct, images, count, error),
                    GenerationError,
                    "the picture could not be drawn",
                    events.lines,
                )
            except NativeError as error:
                self._poison = error
                raise
        return adopt_images(library, images[0], count[0])

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
