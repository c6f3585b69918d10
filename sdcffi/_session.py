"""One native library, one backend and at most one context, as they are used by one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._callbacks import PreviewOptions, listening
from ._library import Device, load
from ._marshal import Marshaller, adopt_images
from .errors import GenerationError, LoraError, ModelLoadError, NativeError, SDError
from .lora import Lora
from .result import LoraReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ._job import Job
    from .params import ContextParams, ImageParams, StrPath

__all__ = ["Conversion", "Description", "Opening", "Session"]


@dataclass(frozen=True)
class Opening:
    """What a session is opened with, at first and again after a crash.

    Attributes
    ----------
    library : path or None
        See `_locate.locate`.
    backend : str
        See `Library.use_backend`; ``"auto"`` gives way to the environment variable SDCFFI_BACKEND.
    params : ContextParams or None
        The model; None opens the backend only.
    weights : bool
        False reads only which tensors the model has: the session can then check adapters, not draw.
    lora_cache : int
        Bytes of adapters to keep between calls.
    """

    library: StrPath | None = None
    backend: str = "auto"
    params: ContextParams | None = None
    weights: bool = True
    lora_cache: int = 0


@dataclass(frozen=True)
class Conversion:
    """A model file to be written with other weight types, see `conversion.convert`."""

    input: Path
    output: Path
    type: str
    vae: Path | None
    tensor_type_rules: str
    convert_name: bool


@dataclass(frozen=True)
class Description:
    """What was built, and what it finds on this machine.

    Attributes
    ----------
    directory : Path
        Where the native library lies.
    manifest : dict
        What the build wrote about itself.
    upstream_commit, ggml_version : str
        As the library tells them.
    device : Device
        The one that is computed on.
    devices : tuple of Device
        Of the backends that could be loaded.
    skipped : dict of str to str
        The other backends, with the reason.
    """

    directory: Path
    manifest: dict[str, Any]
    upstream_commit: str
    ggml_version: str
    device: Device
    devices: tuple[Device, ...]
    skipped: dict[str, str]


class Session:
    """What an engine uses natively; each public method is an operation that can be asked for by name.

    After a native exception or a failed assertion the context's state is unknown: it is never used again, and not
    freed either, since its destructor would walk the same state.

    Parameters
    ----------
    own_process : bool
        Whether the process is there for this session only, so that its signals may be caught to tell of a crash.
    """

    def __init__(self, own_process: bool = False) -> None:
        self._own_process = own_process
        self._opening = Opening()
        self._context: Any = None
        self._poison: NativeError | None = None

    def open(self, job: Job, opening: Opening) -> Device:
        """Load library and backend; give the device that the engine computes on."""
        self._library = load(opening.library)
        if self._own_process:
            self._library.lib.sdg_catch_crashes()
        self._opening = opening
        self._device = self._use_backend(job, opening.backend)
        return self._device

    def load(self, job: Job) -> None:
        """Load the model."""
        library, params = self._library, self._opening.params
        assert params is not None
        marshaller = Marshaller(library)
        struct = marshaller.struct(params)
        out = library.ffi.new("sd_ctx_t **")
        create = library.lib.sdg_new_context if self._opening.weights else library.lib.sdg_new_empty_context
        with listening(library, job) as events:
            library.check(
                lambda error: create(struct, out, error),
                ModelLoadError,
                "the model could not be loaded",
                events.lines,
            )
        self._context = out[0]
        library.lib.sdg_set_lora_cache(self._context, self._opening.lora_cache)

    def _use_backend(self, job: Job, backend: str) -> Device:
        if backend == "auto":
            backend = os.environ.get("SDCFFI_BACKEND") or "auto"
        with listening(self._library, job) as events:
            return self._library.use_backend(backend, events.lines)

    def generate_image(
        self, job: Job, params: ImageParams, preview: PreviewOptions | None = None
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
        context = self._usable()
        if not self._opening.weights:
            raise SDError("the engine was opened without weights: it cannot draw")
        if preview:
            marshaller.enum(library.ffi.typeof("enum preview_t"), preview.mode, "preview")
        with listening(library, job, "sample", preview) as events:
            self._guarded(
                lambda error: library.lib.sdg_generate_image(context, struct, images, count, error),
                GenerationError,
                "the picture could not be drawn",
                events.lines,
            )
            arrays = adopt_images(library, images[0], count[0])
            return arrays, self._lora_reports(context)

    def check_loras(self, job: Job, loras: Sequence[Lora]) -> list[LoraReport]:
        """Tell what adapters would do to the weights, without changing any. The files are read, and kept for use."""
        library = self._library
        marshaller = Marshaller(library)
        array = marshaller.array(Lora.C_STRUCT, loras)
        rows = library.ffi.new("sdg_lora_report **")
        context = self._usable()
        with listening(library, job, "lora") as events:
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

    def supports(self, job: Job) -> dict[str, bool]:
        """Tell what the loaded model can make: ``"image"`` and ``"video"``."""
        context, lib = self._usable(), self._library.lib
        with job.using(self._library):
            return {"image": lib.sdg_supports_image(context), "video": lib.sdg_supports_video(context)}

    def convert(self, job: Job, request: Conversion) -> None:
        """Write a model with other weight types."""
        library = self._library
        marshaller = Marshaller(library)
        number = marshaller.enum(library.ffi.typeof("enum sd_type_t"), request.type, "type")
        with listening(library, job) as events:
            library.check(
                lambda error: library.lib.sdg_convert(
                    marshaller.text(request.input, "input"),
                    library.ffi.NULL if request.vae is None else marshaller.text(request.vae, "vae"),
                    marshaller.text(request.output, "output"),
                    number,
                    marshaller.text(request.tensor_type_rules, "tensor_type_rules"),
                    request.convert_name,
                    error,
                ),
                SDError,
                f"{request.input} could not be converted",
                events.lines,
            )

    def describe(self, job: Job) -> Description:
        """Tell what was built and what it finds here."""
        library = self._library
        with job.using(library):
            return Description(
                library.build.directory,
                library.build.manifest,
                library.text(library.lib.sd_commit()),
                library.text(library.lib.sdg_ggml_version()),
                self._device,
                tuple(library.devices()),
                dict(library.skipped),
            )

    def _usable(self) -> Any:
        if self._context is None:
            raise SDError("the engine is closed")
        if self._poison is not None:
            raise NativeError(f"the engine cannot be used after: {self._poison.message}", self._poison.log)
        return self._context

    def close(self, job: Job) -> None:
        """Free the context; a second call does nothing."""
        context, self._context = self._context, None
        if context is None or self._poison is not None:
            return
        with listening(self._library, job) as events:
            self._library.check(
                lambda error: self._library.lib.sdg_free_context(context, error),
                NativeError,
                "the model could not be freed",
                events.lines,
            )
