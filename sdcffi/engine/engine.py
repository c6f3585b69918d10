"""`Engine`: a loaded model that draws pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .._bindings.requests import Edges, Opening
from .._checks.context import check_context, check_lora_options, resolve_seed
from .._checks.image import check_image
from .._checks.inputs import take_images
from .._checks.memory import MemoryCheck
from .._machine.backends import backend_choice
from .._models.loras import as_loras
from .._process.aio import as_coroutine, as_stream
from .._process.calls import GRACE
from .._records.origin import Origin
from .._warnings import warn
from ..events import Listeners, LogFunction, PreviewFunction, ProgressFunction
from ..images.convert import Alpha, ImageLike, MaskLike
from ..images.resize import Resize
from ..params.context import ContextParams, Embedding
from ..params.image import Hires, ImageParams
from ..params.lora import Lora, LoraLike, LoraReport
from ..params.sampling import Cache, Guidance, SampleParams, SkipLayerGuidance, Tiling
from ..params.struct import StrPath
from .capabilities import Capabilities, describe
from .results import Result
from .tuned import with_stored_choice
from .video import VideoGeneration

if TYPE_CHECKING:
    from .._bindings.requests import Opened
    from .._records.digests import FileState

__all__ = ["Engine"]

# The engine's defaults of these two crash it on image input and on the second call.
_USABLE = ContextParams(vae_decode_only=False, free_params_immediately=False)


class Engine(VideoGeneration):
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
        CPU threads, 1 to 512. None: one for each physical core that the process that computes may use, by its affinity
        and the quotas of its control groups; the result's record tells the number.
    lora_apply_mode : str, optional
        ``"immediately"`` merges adapters into the weights, ``"at_runtime"`` computes them beside, ``"auto"`` (what
        None means too) takes the latter where weights are quantised.
    rng, sampler_rng : str, optional
        Random numbers: ``"cuda"`` (the engine's default, as PyTorch on a GPU), ``"cpu"`` (as PyTorch on a CPU) or
        ``"std_default"``.
    prediction : str, optional
        What the model predicts. None: told from the model.
    offload_to_cpu, clip_on_cpu, vae_on_cpu, control_net_cpu : bool, optional
        Keep all weights in main memory while they are not computed with; compute the text encoders, the autoencoder, or
        the ControlNet on the CPU, where their weights then are.
    mmap : bool, optional
        Leave weights that the CPU uses as they are stored in a memory map of their file: loaded when first needed, and
        shared by processes. Such a file may be replaced meanwhile, but not be written to.
    fa, diffusion_fa : bool, optional
        Flash attention everywhere, or in the diffusion model.
    diffusion_conv_direct, vae_conv_direct : bool, optional
        Convolutions without a matrix of patches, which take less memory; the first acts on UNets only. On the CPU
        each one is done so anyway.
    circular : bool, optional
        Pad around the edges, so that pictures tile; in one direction only with ``circular_x`` or ``circular_y`` of
        `context`.
    max_vram : float, optional
        Gigabytes of GPU memory within which a graph is to run, in parts; acts on a GPU with `offload_to_cpu`. 0 is no
        limit, as None.
    context : ContextParams, optional
        Anything else, by its C name; the keywords above win.
    lora_dir : path, optional
        Where adapters given by name, and those in prompts, are looked up.
    lora_cache : int
        Bytes of adapters to keep in memory between calls, where the model's weights are.
    load_weights : bool
        False reads only which tensors the model has: `check_loras` then works at once, and nothing can be drawn.
    tune : bool
        Take from what `tune` has measured for this model on this device, and stored, what is left None here; a warning
        where nothing is stored.
    backend : str
        ``"auto"``: the best GPU that was built and is here, else the CPU. ``"cpu"``, ``"cuda"``, ``"metal"``,
        ``"vulkan"``, ``"hip"``, ``"sycl"``, ``"opencl"`` or ``"musa"``: its best device. ``"cuda:1"``: that device,
        counted from 0. ``"cpu:haswell"``: that variant of a portable build. An explicit one is had or is an error.
        `device` tells what was taken, and why. The environment variable SDCFFI_BACKEND takes the place of ``"auto"``.
    library : path, optional
        The native build to use; see 'Which library is loaded' in ``docs/building.md``.
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
        diffusion_conv_direct: bool | None = None,
        vae_conv_direct: bool | None = None,
        circular: bool | None = None,
        max_vram: float | None = None,
        context: ContextParams | None = None,
        lora_dir: StrPath | None = None,
        lora_cache: int = 1 << 30,
        load_weights: bool = True,
        tune: bool = False,
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
            diffusion_conv_direct=diffusion_conv_direct,
            vae_conv_direct=vae_conv_direct,
            circular_x=circular,
            circular_y=circular,
            max_vram=max_vram,
        )
        given, self._model = check_context(_USABLE.updated(context).updated(keywords))
        if not isinstance(tune, bool):
            raise TypeError(f"tune must be True or False, not {tune!r}")
        self._lora_dir = check_lora_options(lora_dir, lora_cache)
        self._standing: tuple[Lora, ...] = ()
        self._told_of_coarse_weights = False
        self._memory = MemoryCheck(memory_check, self._model, given)
        opening = Opening(library, backend_choice(backend), given, load_weights, lora_cache)
        self._states = Origin.look(given)
        prepare = _Preparation(opening, given, self._memory, self._states if tune else None)
        self._open(opening, isolated, restart, grace, timeout, Listeners(on_log, on_progress, on_preview), prepare)

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
        mask_image: MaskLike | None = None,
        strength: float | None = None,
        control_image: ImageLike | None = None,
        control_strength: float | None = None,
        canny: bool = False,
        ref_images: Sequence[ImageLike] | None = None,
        resize: Resize = "error",
        alpha: Alpha = "refuse",
        tiling: Tiling | None = None,
        cache: Cache | None = None,
        hires: Hires | None = None,
        slg: SkipLayerGuidance | None = None,
        params: ImageParams | None = None,
        preview: str | None = None,
        preview_interval: int = 1,
        preview_noisy: bool = False,
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
            Pixels, at least 1. None: a given picture's, see Notes, else the engine's 512. The engine rounds up to what
            the model needs (a multiple of 8, 16 or 64); a result of another size comes with a warning.
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
            Picture to start from; ControlNet's hint. A Pillow image, a path, a file's bytes, or an array (torch's on
            the CPU too) of shape (H, W) or (H, W, 1|3|4), uint8 or floats from 0 to 1; see `images.as_rgb`.
        mask_image : picture or box, optional
            White is drawn anew, black kept; needs `init_image`, of the same size. As those, or bool, or a box
            ``(left, top, right, bottom)`` in pixels of `init_image` that is white inside. The engine takes what is
            128 or more for white, and each latent pixel (8 or 16 pixels a side) with white in it for white.
        strength : float, optional
            How far to go away from `init_image`, 0 to 1. None: the engine's 0.75.
        control_strength : float, optional
            Weight of ControlNet. None: the engine's 0.9.
        canny : bool
            Take the edges of `control_image` in its place, as `sdcffi.canny` gives them; they then stand in the
            result's parameters.
        ref_images : sequence of pictures, optional
            Reference pictures of editing models, of any size that has multiples of 16 pixels, at least 64, a side.
        resize : str
            What to do with a picture of another size than the result's; see Notes.
        alpha : str or tuple
            What to do with a transparent picture: ``"refuse"`` it, ``"ignore"`` its alpha channel and take the colours
            as they are, or lay it on a colour: ``"white"``, ``"#ff8000"``, ``(255, 128, 0)``.
        tiling, cache, hires, slg : optional
            Decoding in tiles, reuse between steps, a second pass at a larger size, skip-layer guidance.
        params : ImageParams, optional
            Anything else, by its C name; the keywords above win.
        preview : str, optional
            How previews are made: ``"proj"`` (a rough projection, cheap, one pixel for 8 x 8), ``"tae"`` (by
            the tiny autoencoder) or ``"vae"`` (a whole decode at each of them, by the autoencoder that decodes the
            result; with ``tae_preview_only`` in the context the tiny one). None: ``"proj"`` where something listens,
            else none.
        preview_interval : int
            A preview of every so many steps, at least 1, counted anew for each picture and each pass.
        preview_noisy : bool
            Show the noisy latent that goes into the step, not what the model predicts behind it.
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

        Notes
        -----
        The size that is drawn is `width` x `height`, rounded up to multiples that the model demands (8, 16 or 64).
        Where neither is given it is that of `init_image`, else of the first of `ref_images`, else of
        `control_image`; one that is not given follows from the other by that picture's aspect.

        =============  =================================================  ===================================
        `resize`       `init_image`, `mask_image`, `control_image`        the result's size
        =============  =================================================  ===================================
        ``"error"``    taken as they are; another size is refused         as above
        ``"stretch"``  scaled to it, the aspect not kept                  as above
        ``"crop"``     scaled to cover it, cut equally at both ends       as above
        ``"pad"``      scaled to fit within, amid black bars              as above
        ``"fit"``      scaled to fit within (a hint beside `init_image`:  what `init_image`, else the hint, has
                       cut to its aspect)                                 then, to the nearest multiples
        =============  =================================================  ===================================

        Reference pictures keep their own size; all but ``"error"`` bring it to the nearest multiples of 16, at least
        64. Pictures are scaled by Lanczos' kernel, masks by area. A mask becomes what `init_image` becomes; bars are
        black in it, which is kept.
        """
        prompt, checked = self._adapters(prompt, loras, params, lora_tags)
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
            init_image=init_image,
            mask_image=mask_image,
            control_image=control_image,
            ref_images=ref_images,
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
        given = take_images((params or ImageParams()).updated(keywords), self._model, resize, alpha)
        given = check_image(given, self._model)
        if not isinstance(canny, bool):
            raise TypeError(f"canny must be True or False, not {canny!r}")
        if canny and given.control_image is None:
            raise ValueError("canny=True needs control_image")
        self._memory.check_image(given, self.device)
        first_seed = resolve_seed(given.seed, given.batch_count)
        listeners, previews = self._hearing(preview, preview_interval, preview_noisy, on_log, on_progress, on_preview)
        given = replace(given, seed=first_seed)
        edges = Edges() if canny else None
        drawn = self._draw("generate_image", given, checked, strict, listeners, previews, timeout, edges)
        if self._model.pixel_multiple is None:
            _warn_of_size(drawn.params, drawn.arrays[0].shape)
        seeds = [first_seed + index for index in range(len(drawn.arrays))]
        return Result(drawn.arrays, seeds, drawn.params, drawn.loras, drawn.seconds, drawn.origin)

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

    def capabilities(self) -> Capabilities:
        """Tell what this build can do with this model: what it takes and makes, and the legal names.

        Returns
        -------
        Capabilities
            Plain data; ``as_dict()`` goes into JSON.
        """
        with self._calls.call(self._listeners) as call:
            return describe(self._calls.run(call, "offer"), self._model, self.device)


class _Preparation:
    """What is done when the device is known, before the model is loaded on it: at first, and again after a crash.

    It knows no engine, since `Calls`, which has it, outlives one that is dropped.
    """

    def __init__(
        self,
        opening: Opening,
        params: ContextParams,
        memory: MemoryCheck,
        states: Mapping[Path, FileState | None] | None,
    ) -> None:
        self._opening, self._memory, self._states = opening, memory, states
        self._params = params

    def __call__(self, opened: Opened) -> ContextParams:
        if self._states is not None:
            self._params = with_stored_choice(self._params, self._states, opened, self._opening)
            self._states = None  # a child that is started again computes as the first one
        self._memory.params = self._params
        if self._opening.weights:
            self._memory.check_weights(opened.device)
        return self._params


def _warn_of_size(params: ImageParams, shape: tuple[int, ...]) -> None:
    asked = params.height or shape[0], params.width or shape[1]
    if params.hires is None and asked != shape[:2]:
        warn(f"asked for {asked[1]}x{asked[0]} pixels, the engine rounded up to {shape[1]}x{shape[0]}")
