"""`Engine`: a loaded model that draws pictures."""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from ._async import as_coroutine, as_stream
from ._callbacks import PreviewOptions
from ._calls import GRACE, Call, Calls
from ._library import Device
from ._lora_policy import choose_usable, judge_applied, warn_of_coarse_weights
from ._memory import MemoryCheck
from ._ranges import check_integer, check_number
from ._session import Opening
from ._validate import check_context, check_image, check_lora_options, resolve_seed
from .events import Listeners, LogFunction, PreviewFunction, ProgressFunction
from .images import ImageLike, as_mask, as_rgb
from .lora import Lora, LoraLike, as_loras, merge_tags
from .params import (
    Cache,
    ContextParams,
    Embedding,
    Guidance,
    Hires,
    ImageParams,
    SampleParams,
    SkipLayerGuidance,
    StrPath,
    Tiling,
)
from .result import LoraReport, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Engine"]

# The engine's defaults of these two crash it on image input and on the second call.
_USABLE = ContextParams(vae_decode_only=False, free_params_immediately=False)


class Engine:
    """A model, loaded to draw with; keywords are sd-cli's long flags with underscores.

    Parameters
    ----------
    model : path, optional
        A whole checkpoint (safetensors, gguf, ckpt, or a diffusers directory).
    diffusion_model, high_noise_diffusion_model : path, optional
        A diffusion model alone, with text encoders and autoencoder given apart.
    vae, taesd : path, optional
        Autoencoder; tiny autoencoder.
    clip_l, clip_g, t5xxl, llm, clip_vision, llm_vision : path, optional
        Text and vision encoders.
    control_net, photo_maker : path, optional
        ControlNet; PhotoMaker.
    embeddings : mapping of str to path, optional
        Textual-inversion embeddings: the word in the prompt, and its file.
    type : str, optional
        Weight type to convert to while loading, such as ``"q8_0"``. None keeps the file's.
    tensor_type_rules : str, optional
        Weight types by tensor name: ``"regex=type,..."``.
    threads : int, optional
        CPU threads, at least 1. None: the engine's own count of physical cores.
    lora_apply_mode : str, optional
        ``"immediately"`` merges adapters into the weights, ``"at_runtime"`` computes them beside, ``"auto"`` (what
        None means too) takes the latter where weights are quantised.
    rng, sampler_rng : str, optional
        Random numbers: ``"cuda"`` (the engine's default, as PyTorch on a GPU), ``"cpu"`` (as PyTorch on a CPU) or
        ``"std_default"``.
    prediction : str, optional
        What the model predicts. None: told from the model.
    offload_to_cpu, clip_on_cpu, vae_on_cpu, control_net_cpu : bool, optional
        Keep weights, or run a part, outside the GPU.
    mmap : bool, optional
        Read files through a memory map.
    fa, diffusion_fa : bool, optional
        Flash attention everywhere, or in the diffusion model.
    context : ContextParams, optional
        Anything else, by its C name; the keywords above win.
    lora_dir : path, optional
        Where adapters given by name, and those in prompts, are looked up.
    lora_cache : int
        Bytes of adapters to keep in memory between calls, where the model's weights are.
    load_weights : bool
        False reads only which tensors the model has: `check_loras` then works at once, and nothing can be drawn.
    backend : str
        ``"auto"``: the best GPU that was built and is here, else the CPU; or a name such as ``"cpu"``, ``"cuda"``. An
        explicit one is had or is an error. The environment variable SDCFFI_BACKEND takes the place of ``"auto"``.
    library : path, optional
        The native build to use; see README, 'Which library is loaded'.
    isolated : bool
        True does the native work in a child process: whatever happens there, this one goes on. False does it on a
        thread of this process, where a crash of native code ends the program.
    restart : str
        ``"auto"`` starts a child that was lost again at the next call, which loads the model again; ``"never"``
        refuses every later call.
    timeout : float, optional
        Seconds that loading may take. None: any time.
    grace : float
        Seconds that a call has to stop by itself, after Ctrl-C, `cancel` or its timeout, before its process is ended.
    memory_check : str
        What to do where an estimate of the memory that loading, or a call, takes is more than is free: ``"warn"``,
        raise an `OutOfMemoryError` before it begins (``"strict"``), or nothing (``"off"``). On a GPU only weights
        are looked at.
    on_log : callable, optional
        Called with each `Log` line, on the thread that makes the call, as the other two.
    on_progress : callable, optional
        Called with each `Progress`. An exception in it stops the call and comes out of it.
    on_preview : callable, optional
        Called with each `Preview`.

    Raises
    ------
    TypeError, ValueError
        For a bad argument, before anything native runs.
    ModelLoadError
        If the engine cannot load these files; the reasons stand in its log.
    BackendUnavailableError, LibraryNotFoundError, LayoutMismatchError
        If there is nothing to run it on.
    NativeCrashError
        If the child process ended while it loaded.
    GenerationTimeoutError
        If it took longer than `timeout`.

    Notes
    -----
    Calls from several threads wait for each other, first come, first served. Close the engine, or use it in a ``with``
    statement, to give its memory back; pictures already returned live on.
    """

    def __init__(
        self,
        model: StrPath | None = None,
        *,
        diffusion_model: StrPath | None = None,
        high_noise_diffusion_model: StrPath | None = None,
        vae: StrPath | None = None,
        taesd: StrPath | None = None,
        clip_l: StrPath | None = None,
        clip_g: StrPath | None = None,
        t5xxl: StrPath | None = None,
        llm: StrPath | None = None,
        clip_vision: StrPath | None = None,
        llm_vision: StrPath | None = None,
        control_net: StrPath | None = None,
        photo_maker: StrPath | None = None,
        embeddings: Mapping[str, StrPath] | None = None,
        type: str | None = None,
        tensor_type_rules: str | None = None,
        threads: int | None = None,
        lora_apply_mode: str | None = None,
        rng: str | None = None,
        sampler_rng: str | None = None,
        prediction: str | None = None,
        offload_to_cpu: bool | None = None,
        clip_on_cpu: bool | None = None,
        vae_on_cpu: bool | None = None,
        control_net_cpu: bool | None = None,
        mmap: bool | None = None,
        fa: bool | None = None,
        diffusion_fa: bool | None = None,
        context: ContextParams | None = None,
        lora_dir: StrPath | None = None,
        lora_cache: int = 1 << 30,
        load_weights: bool = True,
        backend: str = "auto",
        library: StrPath | None = None,
        isolated: bool = True,
        restart: Literal["auto", "never"] = "auto",
        timeout: float | None = None,
        grace: float = GRACE,
        memory_check: Literal["warn", "strict", "off"] = "warn",
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        on_preview: PreviewFunction | None = None,
    ) -> None:
        keywords = ContextParams(
            model_path=model,
            diffusion_model_path=diffusion_model,
            high_noise_diffusion_model_path=high_noise_diffusion_model,
            vae_path=vae,
            taesd_path=taesd,
            clip_l_path=clip_l,
            clip_g_path=clip_g,
            t5xxl_path=t5xxl,
            llm_path=llm,
            clip_vision_path=clip_vision,
            llm_vision_path=llm_vision,
            control_net_path=control_net,
            photo_maker_path=photo_maker,
            embeddings=[Embedding(name=name, path=path) for name, path in (embeddings or {}).items()] or None,
            wtype=type,
            tensor_type_rules=tensor_type_rules,
            n_threads=threads,
            lora_apply_mode=lora_apply_mode,
            rng_type=rng,
            sampler_rng_type=sampler_rng,
            prediction=prediction,
            offload_params_to_cpu=offload_to_cpu,
            keep_clip_on_cpu=clip_on_cpu,
            keep_vae_on_cpu=vae_on_cpu,
            keep_control_net_on_cpu=control_net_cpu,
            enable_mmap=mmap,
            flash_attn=fa,
            diffusion_flash_attn=diffusion_fa,
        )
        given, self._model = check_context(_USABLE.updated(context).updated(keywords))
        self._lora_dir = check_lora_options(lora_dir, lora_cache)
        self._standing: tuple[Lora, ...] = ()
        self._told_of_coarse_weights = False
        if restart not in ("auto", "never"):
            raise ValueError(f"restart must be 'auto' or 'never', not {restart!r}")
        check_number("grace", grace, 0)
        self._memory = MemoryCheck(memory_check, self._model, given)
        self._listeners = Listeners(on_log, on_progress, on_preview)
        opening = Opening(library, backend, given, load_weights, lora_cache)
        approve = self._memory.check_weights if load_weights else None
        self._calls = Calls(opening, isolated, restart == "auto", grace, approve)
        with self._calls.call(self._listeners, timeout) as call:
            self._calls.open(call)
        # Ended before interpreter exit: after it the engine's callbacks and GPU drivers may be gone.
        self._finalizer = weakref.finalize(self, self._calls.close)

    @property
    def device(self) -> Device:
        """The device that this engine computes on."""
        assert self._calls.device is not None  # __init__ opened it
        return self._calls.device

    @property
    def pid(self) -> int | None:
        """The number of the child process that does the native work; None without one."""
        return self._calls.runner.pid

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        eta: float | None = None,
        seed: int | None = None,
        batch_count: int | None = None,
        clip_skip: int | None = None,
        loras: Iterable[LoraLike] | None = None,
        lora_tags: bool = True,
        strict: bool = True,
        init_image: ImageLike | None = None,
        mask_image: ImageLike | None = None,
        strength: float | None = None,
        control_image: ImageLike | None = None,
        control_strength: float | None = None,
        ref_images: Sequence[ImageLike] | None = None,
        tiling: Tiling | None = None,
        cache: Cache | None = None,
        hires: Hires | None = None,
        slg: SkipLayerGuidance | None = None,
        params: ImageParams | None = None,
        preview: str | None = None,
        preview_interval: int = 1,
        timeout: float | None = None,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        on_preview: PreviewFunction | None = None,
    ) -> Result:
        """Draw pictures.

        Parameters
        ----------
        prompt : str
            What to draw.
        negative_prompt : str, optional
            What to leave out; acts where `cfg_scale` is not 1.
        width, height : int, optional
            Pixels, at least 1. None: the engine's 512. The engine rounds up to what the model needs (a multiple of 8,
            16 or 64); a result of another size comes with a warning.
        steps : int, optional
            Denoising steps, at least 1. None: the engine's 20.
        cfg_scale : float, optional
            Classifier-free guidance; 1 turns it off and halves the work. None: the engine's 7.
        guidance : float, optional
            Guidance input of distilled models (FLUX.1 dev). None: the engine's 3.5.
        sampler, scheduler : str, optional
            Names as in sd-cli (``"euler"``, ``"dpm++2m"``; ``"karras"``). None: the model's own.
        eta : float, optional
            Noise added back at each step, for samplers that do.
        seed : int, optional
            0 to 2**63 - 1; picture `i` of a batch uses ``seed + i``. None or a negative one draws one at random,
            which stands in the result.
        batch_count : int, optional
            Number of pictures, at least 1. None: 1.
        clip_skip : int, optional
            Last layers of CLIP to leave out, at least 1. None: the model's own.
        loras : iterable of Lora, path, or (path, multiplier), optional
            Adapters for this call. None: those of `set_loras`.
        lora_tags : bool
            Take ``<lora:name:weight>`` out of the prompt and add those adapters. False leaves the prompt alone.
        strict : bool
            Whether an adapter that does not fit the model, or that has nothing for it, is an error; else it is left
            out with a `LoraWarning`.
        init_image, control_image : picture, optional
            Picture to start from; ControlNet's hint. A Pillow image, a uint8 array (H, W, 3), a path or bytes; of the
            result's size.
        mask_image : picture, optional
            White is drawn anew, black kept; needs `init_image`, of the same size.
        strength : float, optional
            How far to go away from `init_image`, 0 to 1. None: the engine's 0.75.
        control_strength : float, optional
            Weight of ControlNet. None: the engine's 0.9.
        ref_images : sequence of pictures, optional
            Reference pictures of editing models.
        tiling, cache, hires, slg : optional
            Decoding in tiles, reuse between steps, a second pass at a larger size, skip-layer guidance.
        params : ImageParams, optional
            Anything else, by its C name; the keywords above win.
        preview : str, optional
            How previews are made: ``"proj"`` (a rough projection, cheap), ``"tae"`` (by the tiny autoencoder) or
            ``"vae"`` (a whole decode at each of them). None: ``"proj"`` where something listens, else none.
        preview_interval : int
            A preview every so many steps, at least 1.
        timeout : float, optional
            Seconds that the call may take, waiting for its turn included. None: any time.
        on_log, on_progress, on_preview : callable, optional
            For this call, in place of the engine's own.

        Returns
        -------
        Result
            Its arrays own their native memory.

        Raises
        ------
        TypeError, ValueError
            For a bad argument, before anything native runs.
        LoraError
            If an adapter cannot be used, with file, tensor and reason, before anything is drawn.
        GenerationError
            If the engine reports failure.
        NativeError
            If native code failed in a way after which its process, or without one this engine, cannot be used any more.
        NativeCrashError
            If the process that did the native work has ended.
        CancelledError, GenerationTimeoutError
            If the call was stopped.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a string, not {prompt!r}")
        wanted = loras if loras is not None else (params and params.loras) or self._standing
        if lora_tags:
            prompt, checked = merge_tags(prompt, wanted, self._lora_dir)
        else:
            checked = as_loras(wanted, self._lora_dir)
        keywords = ImageParams(
            prompt=prompt,
            negative_prompt=negative_prompt,
            clip_skip=clip_skip,
            width=width,
            height=height,
            strength=strength,
            seed=seed,
            batch_count=batch_count,
            control_strength=control_strength,
            init_image=None if init_image is None else as_rgb(init_image, "init_image"),
            mask_image=None if mask_image is None else as_mask(mask_image, "mask_image"),
            control_image=None if control_image is None else as_rgb(control_image, "control_image"),
            ref_images=None if ref_images is None else _pictures(ref_images),
            vae_tiling_params=tiling,
            cache=cache,
            hires=hires,
            sample_params=SampleParams(
                guidance=Guidance(txt_cfg=cfg_scale, distilled_guidance=guidance, slg=slg),
                scheduler=scheduler,
                sample_method=sampler,
                sample_steps=steps,
                eta=eta,
            ),
        )
        given = check_image((params or ImageParams()).updated(keywords), self._model)
        self._memory.check_picture(given, self.device)
        first_seed = resolve_seed(given.seed, given.batch_count)
        listeners = Listeners(
            on_log or self._listeners.on_log,
            on_progress or self._listeners.on_progress,
            on_preview or self._listeners.on_preview,
        )
        if preview_interval is None:
            raise TypeError("preview_interval must be an integer, not None")
        check_integer("preview_interval", preview_interval, 1, math.inf)
        if preview is not None and not listeners.on_preview:
            raise ValueError(f"preview={preview!r} needs on_preview=, which is given the previews")
        previews = (
            PreviewOptions("proj" if preview is None else preview, preview_interval) if listeners.on_preview else None
        )
        started = time.perf_counter()
        with self._calls.call(listeners, timeout) as call:
            usable = self._usable_loras(call, checked, strict)
            given = replace(given, seed=first_seed, loras=usable or None)
            arrays, reports = self._calls.run(call, "generate_image", given, previews, parameters=given)
        seconds = time.perf_counter() - started
        judge_applied(reports, strict)
        if self._model.pixel_multiple is None:
            _warn_of_size(given, arrays[0].shape)
        seeds = [first_seed + index for index in range(len(arrays))]
        return Result(arrays, seeds, given, tuple(reports), seconds)

    agenerate = as_coroutine(
        generate,
        """Draw pictures without blocking the event loop; parameters, result and errors are those of `generate`.

        Cancelling the task stops the call. The caller's functions are called on another thread.
        """,
    )
    stream = as_stream(
        generate,
        """Draw pictures as an asynchronous generator of `Log`, `Progress` and `Preview`, and at last the `Result`.

        Parameters and errors are those of `generate`, without its `on_` functions. Leaving the loop stops the call.
        """,
    )

    def cancel(self) -> None:
        """Stop every call that has begun, on whichever thread; each raises `CancelledError`.

        May be called at any time and from any thread. A call that begins later is not stopped.
        """
        self._calls.cancel()

    def set_loras(self, loras: Iterable[LoraLike]) -> None:
        """Set the adapters of calls that do not name their own.

        Parameters
        ----------
        loras : iterable of Lora, path, or (path, multiplier)
            An empty one takes them away.

        Raises
        ------
        TypeError, ValueError, LoraError
            As `generate`; the earlier ones then stay.
        """
        self._standing = as_loras(loras, self._lora_dir)

    def check_loras(self, loras: Iterable[LoraLike], *, timeout: float | None = None) -> list[LoraReport]:
        """Tell what adapters would do to this model's weights, without drawing or changing anything.

        Parameters
        ----------
        loras : iterable of Lora, path, or (path, multiplier)
        timeout : float, optional
            Seconds that the call may take.

        Returns
        -------
        list of LoraReport
            In at_runtime mode `applied` may turn out smaller in a call: there only the drawing shows it.

        Raises
        ------
        TypeError, ValueError, LoraError
            If a file cannot be used with any model.
        """
        checked = as_loras(loras, self._lora_dir)
        with self._calls.call(self._listeners, timeout) as call:
            return self._lora_reports(call, checked)

    def _lora_reports(self, call: Call, loras: tuple[Lora, ...]) -> list[LoraReport]:
        reports: list[LoraReport] = self._calls.run(call, "check_loras", loras, parameters=loras)
        return reports

    def _usable_loras(self, call: Call, loras: tuple[Lora, ...], strict: bool) -> tuple[Lora, ...]:
        if not loras:
            return ()
        usable, coarse = choose_usable(loras, self._lora_reports(call, loras), self.device.backend, strict)
        if coarse and not self._told_of_coarse_weights:
            self._told_of_coarse_weights = True
            warn_of_coarse_weights()
        return usable

    def supports(self) -> dict[str, bool]:
        """Tell what the loaded model can make: ``"image"`` and ``"video"``."""
        with self._calls.call(self._listeners) as call:
            supported: dict[str, bool] = self._calls.run(call, "supports")
        return supported

    def close(self) -> None:
        """Stop every call and give the model's memory back; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pictures(images: Sequence[ImageLike]) -> list[NDArray[np.uint8]]:
    if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
        raise TypeError(f"ref_images must be a sequence of pictures, not {images!r}")
    return [as_rgb(item, "ref_images") for item in images]


def _warn_of_size(params: ImageParams, shape: tuple[int, ...]) -> None:
    asked = params.height or shape[0], params.width or shape[1]
    if params.hires is None and asked != shape[:2]:
        warnings.warn(
            f"asked for {asked[1]}x{asked[0]} pixels, the engine rounded up to {shape[1]}x{shape[0]}", stacklevel=3
        )
