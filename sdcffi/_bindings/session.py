"""A native session: one library, one backend and at most one context, used by one thread."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._machine.backends import BackendChoice
from .._machine.devices import Device
from .._machine.limits import usable_cores
from ..errors import GenerationError, LoraError, ModelLoadError, NativeError, SDError
from ..params.context import PRECISIONS
from ..params.image import Hires, ImageParams
from ..params.lora import LoraReport
from ..params.lora_plan import LoraPlan
from ..params.sampling import Cache
from ..params.video import VideoParams
from .callbacks import PreviewOptions, listening
from .job import Job
from .library import load
from .lora_plans import as_report, fill_plans
from .marshal import Marshaller, adopt_images, adopt_pixels, beside
from .plugins import plugins_of
from .prompts import COMMA_BACKTRACK, read_notes, read_tokens
from .requests import (
    Conversion,
    Defaults,
    Description,
    Edges,
    NativeTensor,
    Offer,
    Opened,
    Opening,
    Resolved,
    UpscalerParams,
)
from .words import BESIDE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..params.context import ContextParams
    from ..params.prompt_tokens import PromptTokens
    from ..params.struct import Struct

__all__ = ["Session"]

# Enumerations whose names are legal values of parameters.
_ENUMS = (
    *("lora_apply_mode_t", "prediction_t", "preview_t", "rng_type_t", "sample_method_t", "scheduler_t"),
    *("sd_cache_mode_t", "sd_hires_upscaler_t", "sd_type_t"),
)


class Session:
    """The native side of an engine. Each public method is an operation that can be requested by name.

    After a native exception or a failed assertion the state of the context is unknown. It is never used again, and it
    is not freed, since its destructor would access the same state.

    Parameters
    ----------
    own_process : bool
        Whether the process serves only this session, so that its signals may be caught to report a crash.
    """

    def __init__(self, own_process: bool = False) -> None:
        self._own_process = own_process
        self._opening = Opening()
        self._context: Any = None
        self._per_call: dict[str, Any] = {}
        self._poison: NativeError | None = None
        self._plans: dict[tuple[str, bool], LoraPlan] = {}

    def open(self, job: Job, opening: Opening) -> Opened:
        """Load the library and the backend, and return their properties."""
        self._cores = usable_cores()
        self._library = load(opening.library)
        if self._own_process:
            self._library.lib.sdg_catch_crashes()
        self._opening = opening
        self._device = self._use_backend(job, opening.backend)
        library = self._library
        manifest = library.build.manifest
        commit, build = library.text(library.lib.sd_commit()), str(manifest.get("key", ""))
        names = {name: self._names(name) for name in _ENUMS}
        return Opened(self._device, commit, build, self._defaults(), manifest.get("left_out", {}), names)

    def _defaults(self) -> Defaults:
        marshaller = Marshaller(self._library)
        image, video = marshaller.struct(ImageParams()), marshaller.struct(VideoParams())
        cache = Cache(mode="")
        return Defaults(
            marshaller.read(image[0], ImageParams(cache=cache, hires=Hires())),
            marshaller.read(video[0], VideoParams(cache=cache)),
        )

    def load(self, job: Job, params: ContextParams | UpscalerParams) -> list[str]:
        """Load the model, or the upscaling network. Return the tensors of its files that nothing uses."""
        if isinstance(params, UpscalerParams):
            self._context = self._new_upscaler(job, params)
            return []
        self._context, unused = self._new_context(job, params)
        self._library.lib.sdg_set_lora_cache(self._context, self._opening.lora_cache)
        return unused

    def _new_context(self, job: Job, params: ContextParams) -> tuple[Any, list[str]]:
        library = self._library
        marshaller = Marshaller(library)
        struct = marshaller.struct(params if params.n_threads else replace(params, n_threads=self._cores))
        out = library.ffi.new("sd_ctx_t **")
        create = library.lib.sdg_new_context if self._opening.weights else library.lib.sdg_new_empty_context
        with listening(library, job) as events, plugins_of(library).computing_on(self._device):
            library.check(
                lambda error: create(struct, out, error),
                ModelLoadError,
                "the model could not be loaded",
                events.lines,
            )
        self._resolved = replace(marshaller.read(struct[0], params), precision=params.precision or PRECISIONS[0])
        self._per_call = marshaller.per_call(params)
        return out[0], events.unused

    def _new_upscaler(self, job: Job, params: UpscalerParams) -> Any:
        library = self._library
        path = Marshaller(library).text(params.path, "model")
        threads = params.threads or self._cores
        out = library.ffi.new("upscaler_ctx_t **")
        with listening(library, job) as events, plugins_of(library).computing_on(self._device):
            library.check(
                lambda error: library.lib.sdg_new_upscaler(
                    path, params.offload_to_cpu, params.direct, threads, params.tile_size, out, error
                ),
                ModelLoadError,
                f"the upscaling network {params.path} could not be loaded",
                events.lines,
            )
        return out[0]

    def _use_backend(self, job: Job, choice: BackendChoice) -> Device:
        with listening(self._library, job) as events:
            return plugins_of(self._library).use(choice, events.lines)

    def generate_image(
        self, job: Job, params: ImageParams, preview: PreviewOptions | None = None
    ) -> tuple[list[NDArray[np.uint8]], list[LoraReport], Resolved]:
        """Generate images.

        Returns
        -------
        list of uint8 arrays (H, W, 3)
            Views on native memory, which they own.
        list of LoraReport
            How each adapter was applied.
        Resolved
            Context and call with the engine's defaults filled in.

        Raises
        ------
        SDError
            If the session is closed, was opened without weights, or generation fails.
        """
        return self._generate(job, params, preview, self._library.lib.sdg_generate_image, "image")

    def generate_video(
        self, job: Job, params: VideoParams, preview: PreviewOptions | None = None
    ) -> tuple[list[NDArray[np.uint8]], list[LoraReport], Resolved]:
        """Generate a video; the result is that of `generate_image`, with one array for each frame."""
        return self._generate(job, params, preview, self._library.lib.sdg_generate_video, "video")

    def _generate(
        self, job: Job, params: Struct, preview: PreviewOptions | None, function: Any, what: str
    ) -> tuple[list[NDArray[np.uint8]], list[LoraReport], Resolved]:
        library = self._library
        marshaller = Marshaller(library)
        struct = marshaller.struct(params)
        for name, value in self._per_call.items():
            setattr(struct, name, value)
        images = library.ffi.new("sd_image_t **")
        count = library.ffi.new("int *")
        context = self._usable()
        if not self._opening.weights:
            raise SDError("an engine without weights cannot generate: open it without load_weights=False")
        if preview:
            marshaller.enum(library.ffi.typeof("enum preview_t"), preview.mode, "preview")
        with listening(library, job, preview=preview) as events:
            self._set_precision()
            self._set_beside(params)
            backtrack = self._set_backtrack(params.comma_backtrack if isinstance(params, ImageParams) else None)
            self._guarded(
                lambda error: function(context, struct, images, count, error),
                GenerationError,
                f"{what} generation failed",
                events.lines,
            )
            arrays = adopt_images(library, images[0], count[0])
            self._fill_defaults(context, struct.sample_params)
            resolved = marshaller.read(struct[0], params)
            if isinstance(resolved, ImageParams):
                resolved = replace(resolved, comma_backtrack=backtrack)
            outcome = Resolved(self._resolved, resolved, read_notes(library), self._cached_steps())
            return arrays, self._lora_reports(context), outcome

    def tokens(self, job: Job, prompt: str, comma_backtrack: int | None) -> PromptTokens:
        """Return what each text encoder gets of a prompt.

        Raises
        ------
        SDError
            If the session is closed.
        NativeError
            If native code fails.
        """
        context, library = self._usable(), self._library
        text = Marshaller(library).text(prompt, "prompt")
        with listening(library, job) as events:
            self._set_backtrack(comma_backtrack)
            return read_tokens(library, functools.partial(library.lib.sdg_tokens, context, text), events.lines)

    def _set_precision(self) -> None:
        """Tell the CPU how to multiply in the next call: the library serves all sessions of the process."""
        params = self._opening.params
        assert params is not None
        self._library.lib.sdg_round_products(params.precision == "fast")

    def _set_backtrack(self, tokens: int | None) -> int:
        """Tell the engine where chunks of CLIP may end, and return it."""
        chosen = COMMA_BACKTRACK if tokens is None else tokens
        self._library.lib.sdg_set_comma_backtrack(chosen)
        return chosen

    def _cached_steps(self) -> tuple[tuple[int, ...], ...]:
        library = self._library
        count = library.ffi.new("size_t *")
        passes: list[tuple[int, ...]] = []
        for index in range(library.lib.sdg_sampling_passes()):
            steps = library.lib.sdg_reused_steps(index, count)
            passes.append(tuple(library.ffi.unpack(steps, count[0])) if count[0] else ())
        return tuple(passes)

    def _set_beside(self, params: Struct) -> None:
        """Hand over what this thread's next generation takes beside its C struct."""
        sample = getattr(params, "sample_params", None)
        given = beside(sample) if sample is not None else {}
        for (_, name), function in BESIDE.items():
            getattr(self._library.lib, function)(given.get(name, 0.0))

    def _fill_defaults(self, context: Any, sample: Any) -> None:
        """Write the engine's choice for the model into the fields of a struct that were not requested."""
        lib = self._library.lib
        if sample.sample_method == lib.SAMPLE_METHOD_COUNT:
            sample.sample_method = lib.sdg_default_sampler(context)
        if sample.scheduler == lib.SCHEDULER_COUNT:
            sample.scheduler = lib.sdg_default_scheduler(context, sample.sample_method)

    def weights(self, job: Job) -> dict[str, NativeTensor]:
        """Return the model's weights, by the engine's names."""
        context, library = self._usable(), self._library
        rows, count = library.ffi.new("sdg_tensor **"), library.ffi.new("size_t *")
        with job.using(library):
            library.check(
                lambda error: library.lib.sdg_weights(context, rows, count, error),
                NativeError,
                "the weights could not be listed",
                tuple,
            )
            return {
                library.text(row.name): NativeTensor(
                    library.text(row.type), tuple(row.shape[index] for index in range(row.dimensions))
                )
                for row in library.ffi.unpack(rows[0], count[0])
            }

    def check_loras(self, job: Job, plans: Sequence[LoraPlan]) -> list[LoraReport]:
        """Take the plans of LoRA files, and report what each would do. No weight changes; the files stay in the cache.

        Raises
        ------
        LoraError
            If a file cannot be read.
        """
        library, marshaller = self._library, Marshaller(self._library)
        array = fill_plans(library, marshaller, plans)
        rows = library.ffi.new("sdg_lora_report **")
        context = self._usable()
        with listening(library, job, "lora") as events, self._no_weight_changes():
            library.check(
                lambda error: library.lib.sdg_check_loras(context, array, len(plans), rows, error),
                LoraError,
                f"the adapters could not be read: {', '.join(plan.path for plan in plans)}",
                events.lines,
            )
        self._plans.update({(plan.path, plan.is_high_noise): plan for plan in plans})
        return [
            as_report(library, row, plan)
            for row, plan in zip(library.ffi.unpack(rows[0], len(plans)), plans, strict=True)
        ]

    @contextmanager
    def _no_weight_changes(self) -> Iterator[None]:
        """Within this, an error leaves the context usable."""
        try:
            yield
        except NativeError as error:
            raise LoraError(error.message, error.log) from error

    def _lora_reports(self, context: Any) -> list[LoraReport]:
        library = self._library
        rows = library.ffi.new("sdg_lora_report **")
        count = library.ffi.new("size_t *")
        library.check(
            lambda error: library.lib.sdg_lora_reports(context, rows, count, error),
            NativeError,
            "the reports on the adapters could not be read",
            tuple,
        )
        found = library.ffi.unpack(rows[0], count[0]) if count[0] else []
        return [as_report(library, row, self._plans[library.text(row.path), bool(row.is_high_noise)]) for row in found]

    def _guarded(
        self, call: Callable[[Any], int], failure: type[SDError], message: str, log: Callable[[], tuple[str, ...]]
    ) -> None:
        try:
            self._library.check(call, failure, message, log)
        except NativeError as error:
            self._poison = error
            raise

    def offer(self, job: Job) -> Offer:
        """Return what the build and the model support."""
        context, library, lib = self._usable(), self._library, self._library.lib
        with job.using(library):
            sampler = lib.sdg_default_sampler(context)
            scheduler = lib.sdg_default_scheduler(context, sampler)
            return Offer(
                bool(lib.sdg_supports_image(context)),
                bool(lib.sdg_supports_video(context)),
                library.text(lib.sd_sample_method_name(sampler)),
                library.text(lib.sd_scheduler_name(scheduler)),
                library.text(lib.sd_commit()),
                {name: self._names(name) for name in _ENUMS},
            )

    def _names(self, enum: str) -> tuple[str, ...]:
        try:
            return tuple(self._library.enum(self._library.ffi.typeof(f"enum {enum}")))
        except self._library.ffi.error:
            return ()

    def upscale_factor(self, job: Job) -> int:
        """Return the factor by which the upscaling network enlarges width and height."""
        context = self._usable()
        with job.using(self._library):
            return int(self._library.lib.sdg_upscale_factor(context))

    def upscale(self, job: Job, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upscale an image by the network's factor; the result is a view on native memory, which it owns."""
        library = self._library
        context, marshaller = self._usable(), Marshaller(library)
        image, upscaled = marshaller.image(pixels), library.ffi.new("sd_image_t *")
        with listening(library, job, "upscale") as events:
            self._set_precision()
            self._guarded(
                lambda error: library.lib.sdg_upscale(context, image, upscaled, error),
                GenerationError,
                "image upscaling failed",
                events.lines,
            )
            return adopt_pixels(library, upscaled[0])

    def canny(self, job: Job, pixels: NDArray[np.uint8], edges: Edges) -> NDArray[np.uint8]:
        """Return the edges of an image as a new array."""
        library = self._library
        marshaller, copy = Marshaller(library), pixels.copy()
        image = marshaller.image(copy)
        thresholds = edges.high_threshold, edges.low_threshold, edges.weak, edges.strong, edges.inverse
        with listening(library, job) as events:
            library.check(
                lambda error: library.lib.sdg_preprocess_canny(image, *thresholds, error),
                GenerationError,
                "edge detection failed",
                events.lines,
            )
        return copy

    def convert(self, job: Job, request: Conversion) -> None:
        """Convert a model file to other weight types."""
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
        """Return the native build and the devices that it finds on this machine."""
        library, chosen = self._library, self._device
        with job.using(library):
            devices = plugins_of(library).devices()
            return Description(
                library.build.directory,
                library.build.manifest,
                library.text(library.lib.sd_commit()),
                library.text(library.lib.sdg_ggml_version()),
                chosen,
                tuple(chosen if device.id == chosen.id else device for device in devices),
                tuple(plugins_of(library).variants()),
                dict(plugins_of(library).skipped),
            )

    def defaults(self, job: Job, structs: Sequence[Struct]) -> list[dict[str, Any]]:
        """Return the engine's values of each struct, see `Marshaller.values`."""
        with job.using(self._library):
            marshaller = Marshaller(self._library)
            return [marshaller.values(marshaller.struct(struct)[0]) for struct in structs]

    def _usable(self) -> Any:
        if self._context is None:
            raise SDError("the engine is closed; open a new one")
        if self._poison is not None:
            raise NativeError(
                f"the engine cannot be used after an error, open a new one; the error was: {self._poison.message}",
                self._poison.log,
            )
        return self._context

    def close(self, job: Job) -> None:
        """Free the context. A second call does nothing."""
        context, self._context = self._context, None
        if context is None or self._poison is not None:
            return
        lib = self._library.lib
        free = lib.sdg_free_upscaler if isinstance(self._opening.params, UpscalerParams) else lib.sdg_free_context
        with listening(self._library, job) as events:
            self._library.check(
                lambda error: free(context, error),
                NativeError,
                "the model could not be freed",
                events.lines,
            )
