"""`Engine`: a loaded model that generates images and videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._bindings.requests import Edges, Opening
from .._checks.context import check_context, check_lora_options, resolve_seed
from .._checks.image import check_image
from .._checks.inputs import requested_size
from .._checks.memory import MemoryCheck
from .._checks.prompt import MOST_BACKTRACK, check_prompt
from .._checks.video import check_video
from .._defaults.recommended import Default, Recommended, recommend
from .._machine.backends import backend_choice
from .._numbers import check_flags, check_integer
from .._process.aio import as_coroutine, as_stream
from .._process.calls import GRACE
from .._process.handle import Handle
from .._public import public
from .._quoting import shown
from .._records.digests import check_unchanged
from .._records.origin import Origin
from .._warnings import warn
from ..events import Listeners, LogFunction, PreviewFunction, ProgressFunction
from ..images.convert import Alpha, ImageLike, MaskLike
from ..images.movies import check_rate
from ..images.paste import paste_original
from ..images.resize import Resize
from ..params.context import ContextParams, Embedding
from ..params.image import Hires, ImageParams
from ..params.lora import LoraLike, LoraReport
from ..params.other_names import with_engine_names
from ..params.prompt_tokens import PromptTokens
from ..params.sampling import Cache, Guidance, SampleParams, SkipLayerGuidance, Tiling
from ..params.struct import StrPath
from ..params.video import VideoParams
from .capabilities import Capabilities, describe
from .catalogue import resolve_names
from .generation import Generation
from .keywords import no_attribute, with_hints
from .results import Result, VideoResult
from .tuned import with_stored_choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .._bindings.requests import Opened
    from .._records.digests import FileState

__all__ = ["USABLE", "Engine"]

# With its own defaults of these two the engine crashes on image input and on the second call.
USABLE = ContextParams(vae_decode_only=False, free_params_immediately=False)


@public
class Engine(Handle):
    """A loaded model that generates images and videos.

    Most keywords are sd-cli's long flags with underscores.

    Parameters
    ----------
    model : path, optional
        Whole checkpoint: a safetensors, gguf or ckpt file, or a diffusers directory. A model in parts is given by one
        of them, its index, or its folder; so are the other files below. Each may be given by reference, as
        ``"hf://OWNER/REPO/FILE"``, and is downloaded then; see 'Files by reference' in ``docs/files.md``.
        ``"catalogue:NAME"`` or ``"catalogue:NAME/VARIANT"``: all files of a model that ``sdcffi models list`` shows.
        Without a variant, it is the best that fits the memory, which the log says.
    diffusion_model : path, optional
        Diffusion model alone. It needs text encoders and an autoencoder from other files.
    high_noise_diffusion_model : path, optional
        Second diffusion model of Wan 2.2, for the steps with high noise.
    vae : path, optional
        Autoencoder.
    taesd : path, optional
        Tiny autoencoder: fast, with less detail.
    clip_l, clip_g, t5xxl, llm : path, optional
        Text encoders.
    clip_vision, llm_vision : path, optional
        Vision encoders.
    control_net : path, optional
        ControlNet.
    photo_maker : path, optional
        PhotoMaker.
    embeddings : mapping of str to path, optional
        Textual-inversion embeddings: the file of each, by its word in the prompt.
    type : str, optional
        Weight type to convert to while loading, such as ``"q8_0"``. None: as in the file.
    tensor_type_rules : str, optional
        Weight types by tensor name: ``"regex=type,..."``.
    precision : str, optional
        How the CPU multiplies matrices and convolves: ``"exact"`` in single precision; ``"fast"`` rounds what is
        multiplied to 13 bits, to 8 beside quantised weights, or to bfloat16, as the processor is faster at, and adds
        up in single precision. None: ``"exact"``. A GPU has its own way.
    threads : int, optional
        Number of CPU threads, 1 to 512. None: one per physical core that the process may use, by its CPU affinity and
        the quotas of its control groups. The result's record has the number.
    lora_apply_mode : str, optional
        How LoRAs are applied: ``"immediately"`` merges them into the weights, in f32 on the CPU; ``"at_runtime"``
        computes them beside the weights, or for some kinds with changed copies of them, which take memory; ``"auto"``
        takes ``"at_runtime"`` if weights are quantised, else ``"immediately"``. None: ``"auto"``.
    rng : str, optional
        Random number generator of the first noise: ``"cuda"`` (as PyTorch on a GPU), ``"cpu"`` (as PyTorch on a CPU)
        or ``"std_default"``. None: ``"cuda"``.
    sampler_rng : str, optional
        Random number generator of the noise that samplers add. None: as `rng`.
    prediction : str, optional
        What the model predicts, such as ``"eps"`` or ``"v"``. None: detected from the model.
    offload_to_cpu : bool, optional
        Keep all weights in main memory, and copy them to the GPU only to compute with them. None: False.
    clip_on_cpu, vae_on_cpu, control_net_on_cpu : bool, optional
        Compute the text encoders, the autoencoder or the ControlNet on the CPU, and keep their weights there. None:
        False.
    mmap : bool, optional
        Map the files into memory instead of reading them, for weights that the CPU uses as they are stored. They are
        loaded on first use and shared between processes. Such a file may be replaced meanwhile, but must not be
        written to. None: False.
    fa, diffusion_fa : bool, optional
        Flash attention everywhere, or in the diffusion model only. The CPU never writes a matrix of scores anyway, and
        stays in single precision. None: False.
    diffusion_conv_direct, vae_conv_direct : bool, optional
        Direct convolution in the diffusion model, or in the autoencoder, which takes less memory. The first affects
        UNets only. The CPU always computes directly. None: False.
    circular : bool, optional
        Wrap around the edges, so that images tile. For one direction only, set ``circular_x`` or ``circular_y`` of
        `context`. None: False.
    max_vram : float, optional
        Limit of GPU memory for one computation, in gigabytes, at least 0. A larger computation is split into parts
        that fit. 0 is no limit. Ignored without `offload_to_cpu`, and on the CPU. None: the engine's 0.
    context : ContextParams, optional
        Any other parameter, by its C name. The keywords above override it.
    lora_dir : path, optional
        Directory of the adapters that prompts and `loras` refer to by name: files, and folders that PEFT or diffusers
        wrote. None: adapters are given by path only.
    lora_cache : int
        Memory for the tensors of adapters that are kept between calls, in bytes, at least 0. It is main memory; what
        is computed beside the weights is on the device, and not counted.
    load_weights : bool
        False reads only which tensors the model has. `check_loras` then works at once, and nothing can be generated.
    defaults : str
        What a call uses where it says nothing. ``"model"``: what suits the model, by its file's metadata and its
        family (``docs/defaults.md``), and the engine's own values where neither has one. ``"engine"``: the engine's
        own. The method `defaults` returns them.
    tuned : bool
        Use the choice that `tune` has measured and stored for this model on this device, for those of its parameters
        that are None here. Without a stored choice there is a warning.
    backend : str
        ``"auto"``: the best GPU that the build supports and this machine has, else the CPU. ``"cpu"``, ``"cuda"``,
        ``"metal"``, ``"vulkan"``, ``"hip"``, ``"sycl"``, ``"opencl"`` or ``"musa"``: the best device of that backend.
        ``"cuda:1"``: that device, counted from 0. ``"cpu:haswell"``: that variant of a portable build. A backend that
        is named and not available is an error. `device` says which one was chosen, and why. The environment variable
        SDCFFI_BACKEND replaces ``"auto"``.
    library : path, optional
        Native build to use. None: see 'Which library is loaded' in ``docs/building.md``.
    isolated : bool
        True does the native work in a child process: if native code crashes, this process continues. False does it on
        a thread of this process, and a crash of native code ends the program.
    restart : str
        What the next call does after the child process was lost: ``"auto"`` starts a new one, which loads the model
        again; ``"never"`` refuses that call and all later ones.
    timeout : float, optional
        Time limit for loading, in seconds, without downloads. None: no limit.
    grace : float
        Time that a call has to stop by itself after Ctrl-C, `cancel` or its timeout, in seconds, at least 0. After it
        the child process is killed.
    memory_check : str
        What to do if the estimated memory of loading, or of a call, is more than is free: ``"warn"``, ``"strict"``
        (raise `OutOfMemoryError` before it begins) or ``"off"``. ``"warn"`` raises it too for an image that needs more
        than one and a half times of what is free, swap included. On a GPU only the weights are estimated.
    on_log : callable, optional
        Function that is called with each `Log`. This one and the next two run on the thread that makes the call.
    on_progress : callable, optional
        Function that is called with each `Progress`. An exception that it raises stops the call and is raised from it.
    on_preview : callable, optional
        Function that is called with each `Preview`.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong. No native code has run then.
    DownloadError
        If a file that is given by reference cannot be downloaded.
    ModelLoadError
        If the engine cannot load these files. The error has the engine's log.
    BackendUnavailableError, LibraryNotFoundError, LayoutMismatchError
        If the backend is not available, there is no native library, or it does not match its declarations.
    OutOfMemoryError
        If the weights need more memory than is free: before loading with ``memory_check="strict"``, else while loading.
    NativeCrashError
        If the child process crashed while it loaded.
    GenerationTimeoutError
        If loading took longer than `timeout`.

    Notes
    -----
    Calls from several threads run one after the other, in the order in which they were made. `close` frees the model's
    memory, as does the end of a ``with`` statement. Images that were returned stay valid.
    """

    @with_hints
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
        precision: str | None = None,
        threads: int | None = None,
        lora_apply_mode: str | None = None,
        rng: str | None = None,
        sampler_rng: str | None = None,
        prediction: str | None = None,
        offload_to_cpu: bool | None = None,
        clip_on_cpu: bool | None = None,
        vae_on_cpu: bool | None = None,
        control_net_on_cpu: bool | None = None,
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
        defaults: Literal["model", "engine"] = "model",
        tuned: bool = False,
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
        check_flags(tuned=tuned, load_weights=load_weights, isolated=isolated)
        if defaults not in ("model", "engine"):
            raise ValueError(f"defaults must be 'model' or 'engine', not {shown(defaults)}")
        listeners = Listeners(on_log, on_progress, on_preview)
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
            embeddings=_embeddings(embeddings),
            wtype=type,
            tensor_type_rules=tensor_type_rules,
            precision=precision,
            n_threads=threads,
            lora_apply_mode=lora_apply_mode,
            rng_type=rng,
            sampler_rng_type=sampler_rng,
            prediction=prediction,
            offload_params_to_cpu=offload_to_cpu,
            keep_clip_on_cpu=clip_on_cpu,
            keep_vae_on_cpu=vae_on_cpu,
            keep_control_net_on_cpu=control_net_on_cpu,
            enable_mmap=mmap,
            flash_attn=fa,
            diffusion_flash_attn=diffusion_fa,
            diffusion_conv_direct=diffusion_conv_direct,
            vae_conv_direct=vae_conv_direct,
            circular_x=circular,
            circular_y=circular,
            max_vram=max_vram,
        )
        given = USABLE.updated(ContextParams.of(context, "context")).updated(keywords)
        given, self._chosen = resolve_names(given, library, backend, listeners)
        given, self._model = check_context(given)
        directory = check_lora_options(lora_dir, lora_cache)
        self._memory = MemoryCheck(memory_check, self._model, given)
        opening = Opening(library, backend_choice(backend), given, load_weights, lora_cache)
        entry = self._chosen.entry.recommended() if self._chosen is not None else None
        recommended = recommend(self._model, given.prediction, entry) if defaults == "model" else Recommended({})
        states = Origin.look(given)
        prepare = _Preparation(opening, given, self._memory, states, tuned)
        self._open(opening, isolated, restart, grace, timeout, listeners, prepare)
        self._fills = defaults == "model"
        self._recommended = recommended.known_to(self._opened.names, listeners.note)
        self._generation = Generation(self._calls, self._model, listeners, directory, states)

    if not TYPE_CHECKING:  # to a type checker an engine has neither

        def __call__(self, *_arguments, **_keywords):
            """Refuse to be called, as pipelines of diffusers are."""
            raise TypeError("an engine is not called itself; use engine.generate(prompt, ...)")

        def __getattr__(self, name):
            raise no_attribute(self, name)

    @with_hints
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
        guidance_rescale: float | None = None,
        seed: int | None = None,
        batch_count: int | None = None,
        clip_skip: int | None = None,
        comma_backtrack: int | None = None,
        loras: Iterable[LoraLike] | None = None,
        lora_tags: bool = True,
        strict: bool = True,
        init_image: ImageLike | None = None,
        mask_image: MaskLike | None = None,
        mask_blur: float | None = None,
        paste_back: bool | None = None,
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
        """Generate images.

        Parameters
        ----------
        prompt : str
            What to generate. ``docs/prompts.md`` has what brackets and BREAK mean, and how long a prompt may be.
        negative_prompt : str, optional
            What to leave out. Ignored when `cfg_scale` is 1. None: nothing.
        width, height : int, optional
            Size in pixels, at least 1. None: that of the model, or by the size of an input image, see Notes. The engine
            rounds up to the model's multiple (8, 16 or 64), with a warning if the result has another size.
        steps : int, optional
            Number of denoising steps, at least 1. None, as for the next four: what suits the model, see `defaults`.
        cfg_scale : float, optional
            Classifier-free guidance: how strictly the image follows the prompt. 1 turns it off and halves the work.
        guidance : float, optional
            Guidance value that distilled models (FLUX.1 dev) take as input.
        sampler : str, optional
            Sampler, named as in sd-cli: ``"euler"``, ``"dpm++2m"``, ``"unipc"``, ..., or as in other tools, where that
            is unambiguous: ``"DPM++ 2M"``, ``"dpmpp_2m"``.
        scheduler : str, optional
            Spacing of the noise levels, named as in sd-cli: ``"karras"``, ``"simple"``, ``"beta"``, ... For flow models
            ``"discrete"`` is the schedule of the model's family.
        eta : float, optional
            Amount of noise added back at each step, for samplers that add noise. None: the sampler's own, see
            `SampleParams`.
        guidance_rescale : float, optional
            Part by which the contrast that guidance adds is taken back, 0 to 1. None: 0.
        seed : int, optional
            Random seed, 0 to 2**63 - 1. Image `i` of a batch uses ``seed + i``. None, or a negative number: a random
            seed below 2**32, which the result has.
        batch_count : int, optional
            Number of images, at least 1. None: the engine's 1.
        clip_skip : int, optional
            Layer of CLIP that is read, counted from the last: 1 to one more than the encoder has layers. None: the
            model's own.
        comma_backtrack : int, optional
            A chunk of 75 tokens for CLIP ends early at a comma among its last so many tokens, 0 to 74, so that words
            which belong together stay together. 0 turns that off. Only Stable Diffusion 1, 2 and XL have chunks. None:
            20, as in AUTOMATIC1111's web interface.
        loras : iterable of Lora, path, or (path, multiplier), or mapping of path to multiplier, optional
            Adapters for this call, in any order: they add up. A path may be a folder of PEFT or diffusers. None: those
            of `set_loras`. ``"catalogue:NAME"`` is a LoRA that ``sdcffi models list`` shows, with its strength there if
            none is given.
        lora_tags : bool
            True removes ``<lora:name:weight>`` from the prompt and adds these adapters; without a weight it is 1.
            ``<lora:name:unet:te>`` and ``<lora:name:1:lbw=OUTALL>`` have strengths of parts and blocks. A tag in the
            negative prompt is an error. False passes both prompts unchanged.
        strict : bool
            True raises `LoraError` for an adapter that does not fit the model, or of which nothing applies to it. False
            leaves it out, with a `LoraWarning`.
        init_image : image, optional
            Image to start from: a Pillow image, a path, a file's bytes (also as base64 or ``data:`` URL), or an array
            (also a torch tensor on the CPU) of shape (H, W) or (H, W, 1|3|4), uint8 or floats from 0 to 1. None: start
            from noise.
        mask_image : image or box, optional
            Part of `init_image` to generate anew: white is generated, black is kept. An image, as `init_image` or of
            bools, of the same size; or a box ``(left, top, right, bottom)`` in pixels of `init_image`, white inside.
            Gray is a mixture. If it has transparent pixels, its alpha channel is the mask. The engine generates every
            latent pixel (8 or 16 pixels a side) that has white in it. Inpainting models know black and white only, from
            128 on. None: all of it.
        mask_blur : float, optional
            Radius in pixels by which the edge of `mask_image` is blurred outwards where the original is put back, as of
            Pillow's GaussianBlur, 0 to 1000. None: 4, as in AUTOMATIC1111's web interface.
        paste_back : bool, optional
            True puts the original back outside of the mask, so that no pixel of it changes; inside, and at its blurred
            edge, is what was generated. False returns the image as the engine decoded it, which differs everywhere.
            None: True.
        strength : float, optional
            How much to change `init_image`, from 0 (little) to 1 (completely). None: the engine's 0.75.
        control_image : image, optional
            Image for the ControlNet, as `init_image`. None: the ControlNet is not used.
        control_strength : float, optional
            Weight of the ControlNet, at least 0. None: the engine's 0.9.
        canny : bool
            True replaces `control_image` by its edges, as `sdcffi.canny` returns them. The result's parameters have
            the edges.
        ref_images : sequence of images, optional
            Reference images for editing models, as `init_image`. Each may have its own size: multiples of 16 pixels, at
            least 64 a side. None: none.
        resize : str
            What to do with an input image that has another size than the result, see Notes.
        alpha : str or tuple
            What to do with transparent pixels: ``"refuse"`` the image, ``"ignore"`` its alpha channel, or blend it with
            a background colour: ``"white"``, ``"#ff8000"``, ``(255, 128, 0)``.
        tiling : Tiling, optional
            Decode and encode in tiles, which takes less memory. None: no tiles.
        cache : Cache, optional
            Reuse results between steps, which is faster and less exact. None: no reuse.
        hires : Hires, optional
            Second pass at a larger size. None: one pass.
        slg : SkipLayerGuidance, optional
            Skip-layer guidance. None: off.
        params : ImageParams, optional
            Any other parameter, by its C name. The keywords above override it.
        preview : str, optional
            How previews are made: ``"proj"`` (a rough projection; fast, one pixel for 8 x 8), ``"tae"`` (decoded by the
            tiny autoencoder) or ``"vae"`` (decoded by the autoencoder that decodes the result; with
            ``tae_preview_only`` of the context by the tiny one). None: ``"proj"`` if there is an `on_preview`, else no
            previews.
        preview_interval : int
            Number of steps from one preview to the next, at least 1. It is counted for each image and pass.
        preview_noisy : bool
            True previews the noisy latent before the step. False previews what the model predicts from it.
        timeout : float, optional
            Time limit for the call, in seconds. It includes the wait for earlier calls. None: no limit.
        on_log, on_progress, on_preview : callable, optional
            Functions for this call, in place of the engine's own. None: the engine's own.

        Returns
        -------
        Result
            Its arrays are views of native memory. The memory lives as long as a view of it, also after the engine was
            closed.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong. No native code has run then.
        LoraError
            If an adapter cannot be used, with file, tensor and reason, before anything is generated.
        GenerationError
            If the engine reports that it failed.
        OutOfMemoryError
            If the call needs more memory than is free: before it begins if that is certain or with
            ``memory_check="strict"``, else during it.
        NativeError
            If native code failed in a way that its process cannot recover from. With ``isolated=False`` this engine
            cannot be used any more.
        NativeCrashError
            If the child process crashed.
        CancelledError, GenerationTimeoutError
            If the call was cancelled, or took longer than `timeout`.

        Notes
        -----
        The size of the result is `width` x `height`, rounded up to the model's multiple (8, 16 or 64). If neither is
        given, it is the size of `init_image`, else of the first of `ref_images`, else of `control_image`. If one is
        given, the other follows from the aspect ratio of that image.

        =============  ==============================================  ==================================
        `resize`       `init_image`, `mask_image`, `control_image`     size of the result
        =============  ==============================================  ==================================
        ``"error"``    used as it is; a different size is refused      as above
        ``"stretch"``  scaled to that size; the aspect ratio changes   as above
        ``"crop"``     scaled to cover that size, cropped equally      as above
        ``"pad"``      scaled to fit into it, centred on black bars    as above
        ``"fit"``      scaled to fit into that size; `control_image`   that of the scaled `init_image` or
                       is cropped if there is an `init_image`          `control_image`, to the nearest
                                                                       multiple
        =============  ==============================================  ==================================

        Reference images keep their own size with ``"error"``. The other rules resize each to the nearest multiples of
        16, at least 64. Images are scaled with Lanczos' kernel, masks by area. A mask is resized as `init_image` is.
        Its bars are black, so the bars of `init_image` are kept.
        """
        params = ImageParams.of(params, "params")
        check_flags(lora_tags=lora_tags, strict=strict, canny=canny)
        prompt, adapters, values = self._generation.adapters(prompt, loras, params, lora_tags, negative_prompt)
        keywords = ImageParams(
            loras=adapters,
            prompt=prompt,
            negative_prompt=negative_prompt,
            clip_skip=clip_skip,
            comma_backtrack=comma_backtrack,
            width=width,
            height=height,
            strength=strength,
            seed=seed,
            batch_count=batch_count,
            control_strength=control_strength,
            init_image=init_image,
            mask_image=mask_image,
            mask_blur=mask_blur,
            paste_back=paste_back,
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
                guidance_rescale=guidance_rescale,
            ),
        )
        defaults = self._opened.defaults.image
        named = with_engine_names(params.updated(keywords), self._opened.names)
        recommended = self._recommended_with(values, on_log)
        whole, sources = recommended.fill(named)
        given = check_image(whole, self._model, defaults, resize, alpha)
        resolved = defaults.updated(given)
        if canny and given.control_image is None:
            raise ValueError("canny=True needs control_image; pass the image whose edges to use")
        self._memory.check_image(resolved, self.device)
        recommended.warn_of_unsuitable(named, requested_size(resolved))
        given = replace(given, seed=resolve_seed(given.seed, given.batch_count))
        options = self._generation.call_options(
            preview, preview_interval, preview_noisy, timeout, on_log, on_progress, on_preview
        )
        edges = Edges() if canny else None
        done = self._generation.run("generate_image", given, strict, options, edges, sources=sources)
        if self._model.pixel_multiple is None:
            _warn_of_size(done.params, done.arrays[0].shape)
        _paste_back(done.arrays, done.params)
        assert done.params.seed is not None
        seeds = [done.params.seed + index for index in range(len(done.arrays))]
        return Result(done.arrays, seeds, done.params, done.loras, done.seconds, done.origin, done.cached_steps)

    agenerate = as_coroutine(
        generate,
        """Generate images without blocking the event loop. Parameters, result and errors are those of `generate`.

        Cancelling the task stops the call. The caller's functions run on another thread.
        """,
    )
    stream = as_stream(
        generate,
        """Generate images as an asynchronous generator of `Log`, `Progress` and `Preview`, and at last the `Result`.

        Parameters and errors are those of `generate`, without its `on_` functions. Leaving the loop stops the call.
        """,
    )

    @with_hints
    def generate_video(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        video_frames: int | None = None,
        fps: float = 16,
        steps: int | None = None,
        cfg_scale: float | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        eta: float | None = None,
        guidance_rescale: float | None = None,
        flow_shift: float | None = None,
        seed: int | None = None,
        init_image: ImageLike | None = None,
        end_image: ImageLike | None = None,
        control_frames: Sequence[ImageLike] | None = None,
        resize: Resize = "error",
        alpha: Alpha = "refuse",
        vace_strength: float | None = None,
        high_noise: SampleParams | None = None,
        high_noise_steps: int | None = None,
        high_noise_cfg_scale: float | None = None,
        high_noise_sampler: str | None = None,
        moe_boundary: float | None = None,
        loras: Iterable[LoraLike] | None = None,
        lora_tags: bool = True,
        strict: bool = True,
        tiling: Tiling | None = None,
        cache: Cache | None = None,
        slg: SkipLayerGuidance | None = None,
        params: VideoParams | None = None,
        preview: str | None = None,
        preview_interval: int = 1,
        preview_noisy: bool = False,
        timeout: float | None = None,
        on_log: LogFunction | None = None,
        on_progress: ProgressFunction | None = None,
        on_preview: PreviewFunction | None = None,
    ) -> VideoResult:
        """Generate a video with a model of the Wan family.

        Parameters
        ----------
        prompt : str
            What to show.
        negative_prompt : str, optional
            What to leave out. Ignored when `cfg_scale` is 1. None: nothing.
        width, height : int, optional
            Size in pixels, at least 1. None: that of the model, or by the size of the first input image. The engine
            rounds up to a multiple of 16 (Wan 2.2 TI2V: 32), with a warning.
        video_frames : int, optional
            Number of frames, at least 1. The engine rounds down to one more than a multiple of 4, with a warning.
            None: what suits the model, see `defaults`.
        fps : float
            Frame rate of the saved file, in frames per second, above 0. The model does not see it. Wan 2.1 was trained
            on 16, Wan 2.2 TI2V on 24.
        steps : int, optional
            Number of denoising steps, at least 1; if there are two models, those of the low-noise model. None: what
            suits the model.
        cfg_scale, guidance, sampler, scheduler, eta, guidance_rescale : optional
            As in `generate`; if there are two models, for the low-noise model.
        flow_shift : float, optional
            Shift of the noise levels, at least 0. None: as the authors' programs have it for the model: 12 for Wan
            2.2 T2V, 16 for VACE and FLF2V, 3 for Wan 2.1 I2V at up to 480p, 5 for others.
        seed : int, optional
            Random seed, 0 to 2**63 - 1. None, or a negative number: a random seed below
            2**32, which the result has.
        init_image : image, optional
            First frame, for I2V and TI2V models; reference image, for VACE models. It is an error for other models.
            None: start from noise.
        end_image : image, optional
            Last frame, for I2V models. It is an error for other models. None: the model decides.
        control_frames : sequence of images, optional
            Frames that a VACE model follows. It is an error for other models. Missing frames are grey; those after the
            last frame of the video are ignored. None: none.
        resize, alpha : optional
            How input images are resized to the video's size, and what to do with transparent pixels, as in `generate`.
            If no size is given, it is that of the first input image.
        vace_strength : float, optional
            Weight of a VACE model's control frames and reference image, at least 0. None: the engine's 1.
        high_noise : SampleParams, optional
            Guidance, sampler, eta and steps of the high-noise model of Wan 2.2 (``high_noise_diffusion_model=`` of
            `Engine`). The keywords below override it. None: not those of the low-noise model.
        high_noise_steps : int, optional
            Number of steps of the high-noise model, in addition to `steps`. None or -1: it does those of `steps` whose
            noise is above `moe_boundary`. 0: it is not used.
        high_noise_cfg_scale : float, optional
            Classifier-free guidance of the high-noise model. None: what suits the model.
        high_noise_sampler : str, optional
            Sampler of the high-noise model. None: the engine's choice for the model.
        moe_boundary : float, optional
            Noise level at which the low-noise model takes over, 0 to 1. None: the engine's 0.875.
        loras, lora_tags, strict : optional
            Adapters, as in `generate`. Those with `is_high_noise`, or in tags ``<lora:|high_noise|name:weight>``, are
            for the high-noise model.
        tiling, cache, slg : optional
            Decoding in tiles, reuse between steps and skip-layer guidance, as in `generate`.
        params : VideoParams, optional
            Any other parameter, by its C name. The keywords above override it.
        preview, preview_interval, preview_noisy : optional
            As in `generate`. A preview has several frames.
        timeout : float, optional
            Time limit for the call, in seconds. It includes the wait for earlier calls. None: no limit.
        on_log, on_progress, on_preview : callable, optional
            Functions for this call, in place of the engine's own. None: the engine's own.

        Returns
        -------
        VideoResult
            Its arrays are views of native memory. The memory lives as long as a view of it, also after the engine was
            closed.

        Raises
        ------
        TypeError, ValueError, LoraError, GenerationError, OutOfMemoryError, NativeError, NativeCrashError
            As in `generate`.
        CancelledError, GenerationTimeoutError
            If the call was cancelled, or took longer than `timeout`.
        """
        check_rate(fps)
        params = VideoParams.of(params, "params")
        check_flags(lora_tags=lora_tags, strict=strict)
        prompt, adapters, values = self._generation.adapters(prompt, loras, params, lora_tags, negative_prompt)
        keywords = VideoParams(
            loras=adapters,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            video_frames=video_frames,
            seed=seed,
            moe_boundary=moe_boundary,
            vace_strength=vace_strength,
            init_image=init_image,
            end_image=end_image,
            control_frames=control_frames,
            vae_tiling_params=tiling,
            cache=cache,
            sample_params=SampleParams(
                guidance=Guidance(txt_cfg=cfg_scale, distilled_guidance=guidance, slg=slg),
                scheduler=scheduler,
                sample_method=sampler,
                sample_steps=steps,
                eta=eta,
                guidance_rescale=guidance_rescale,
                flow_shift=flow_shift,
            ),
            high_noise_sample_params=_high_noise(
                high_noise, high_noise_steps, high_noise_cfg_scale, high_noise_sampler
            ),
        )
        defaults = self._opened.defaults.video
        named = with_engine_names(params.updated(keywords), self._opened.names)
        recommended = self._recommended_with(values, on_log)
        whole, sources = recommended.fill(named)
        given = check_video(whole, self._model, defaults, resize, alpha)
        recommended.warn_of_unsuitable(named, requested_size(defaults.updated(given)))
        given = replace(given, seed=resolve_seed(given.seed, None))
        options = self._generation.call_options(
            preview, preview_interval, preview_noisy, timeout, on_log, on_progress, on_preview
        )
        done = self._generation.run("generate_video", given, strict, options, sources=sources)
        assert done.params.seed is not None
        return VideoResult(
            done.arrays, fps, done.params.seed, done.params, done.loras, done.seconds, done.origin, done.cached_steps
        )

    agenerate_video = as_coroutine(
        generate_video,
        """Generate a video without blocking the event loop. Parameters, result and errors are as of `generate_video`.

        Cancelling the task stops the call. The caller's functions run on another thread.
        """,
    )
    stream_video = as_stream(
        generate_video,
        """Generate a video as an asynchronous generator of `Log`, `Progress` and `Preview`, at last the `VideoResult`.

        Parameters and errors are those of `generate_video`, without its `on_` functions. Leaving the loop stops the
        call.
        """,
    )

    def set_loras(self, loras: Iterable[LoraLike]) -> None:
        """Set the adapters for calls without `loras`.

        Parameters
        ----------
        loras : iterable of Lora, path, or (path, multiplier)
            Adapters. An empty iterable removes those that were set.

        Raises
        ------
        TypeError, ValueError, LoraError
            If an adapter cannot be used, as in `generate`. The earlier adapters then stay set.
        """
        self._generation.set_loras(loras)

    def check_loras(self, loras: Iterable[LoraLike], *, timeout: float | None = None) -> list[LoraReport]:
        """Report what adapters would do to this model's weights, without generating or changing anything.

        Parameters
        ----------
        loras : iterable of Lora, path, or (path, multiplier)
            Adapters to check.
        timeout : float, optional
            Time limit for the call, in seconds. It includes the wait for earlier calls. None: no limit.

        Returns
        -------
        list of LoraReport
            One for each adapter, in the same order. `skipped` has the tensors that match no weight. In mode
            ``"at_runtime"`` a call may apply fewer tensors than `applied` says, because only generation shows which
            weights are used.

        Raises
        ------
        TypeError, ValueError, LoraError
            If a file cannot be used with any model, or strengths of its blocks are for another model.

        Warns
        -----
        LoraWarning
            If an adapter was made for another family of models.
        """
        return self._generation.check_loras(loras, timeout)

    def tokens(
        self,
        prompt: str,
        *,
        comma_backtrack: int | None = None,
        lora_tags: bool = True,
        timeout: float | None = None,
    ) -> PromptTokens:
        """Return what each text encoder gets of a prompt, without computing anything.

        It is what `generate` makes of the prompt: the same code reads it. An engine that was opened with
        ``load_weights=False`` can do it too.

        Parameters
        ----------
        prompt : str
            The prompt, or the negative prompt.
        comma_backtrack, lora_tags
            As for `generate`.
        timeout : float, optional
            Time limit for the call, in seconds. It includes the wait for earlier calls. None: no limit.

        Returns
        -------
        PromptTokens
            Plain data. Its `as_dict` is for JSON.

        Raises
        ------
        TypeError, ValueError, LoraError
            If an argument is wrong, as in `generate`.
        NativeError, NativeCrashError
            If native code failed.
        """
        check_flags(lora_tags=lora_tags)
        text, *_ = self._generation.adapters(prompt, None, None, lora_tags)
        kind = self._model.architecture
        check_prompt("prompt", text, kind is None or kind.is_unet)
        check_integer("comma_backtrack", comma_backtrack, 0, MOST_BACKTRACK)
        with self._calls.call(self._listeners, timeout) as call:
            found: PromptTokens = self._calls.run(call, "tokens", text, comma_backtrack)
        return found

    def _recommended_with(self, values: dict[str, Default], on_log: LogFunction | None) -> Recommended:
        """Return what a call uses where it says nothing, with what its LoRAs change."""
        if not values or not self._fills:
            return self._recommended
        return self._recommended.updated(values).known_to(self._opened.names, self._listeners.overridden(on_log).note)

    def defaults(self) -> dict[str, Default]:
        """Return what a call uses where it says nothing, and where each value comes from.

        Returns
        -------
        dict of str to Default
            By the name of the parameter: ``engine.defaults()["steps"].value``. A value is None where the engine chooses
            it for each call. The size is that of calls without an image.
        """
        own = self._opened.defaults.video if self._model.is_video else self._opened.defaults.image
        with self._calls.call(self._listeners) as call:
            offer = self._calls.run(call, "offer")
        return self._recommended.listed(own, offer.default_sampler, offer.default_scheduler)

    def capabilities(self) -> Capabilities:
        """Return what this build can do with this model: its inputs and outputs, and the legal names.

        Returns
        -------
        Capabilities
            Plain data. Its `as_dict` is for JSON.
        """
        with self._calls.call(self._listeners) as call:
            return describe(self._calls.run(call, "offer"), self._model, self.device)


def _embeddings(paths: Mapping[str, StrPath] | None) -> list[Embedding] | None:
    if paths is not None and not isinstance(paths, Mapping):
        raise TypeError(f"embeddings must be a mapping of names to paths, as {{'word': path}}, not {shown(paths)}")
    return [Embedding(name=name, path=path) for name, path in (paths or {}).items()] or None


def _high_noise(
    given: SampleParams | None, steps: int | None, cfg_scale: float | None, sampler: str | None
) -> SampleParams | None:
    guidance = None if cfg_scale is None else Guidance(txt_cfg=cfg_scale)
    keywords = SampleParams(sample_steps=steps, sample_method=sampler, guidance=guidance)
    sample = SampleParams.of(given, "high_noise").updated(keywords)
    return sample if sample.given() else None


class _Preparation:
    """What is done once the device is known, before the model is loaded on it: when opened, and again after a crash.

    It has no reference to the engine, because `Calls` holds it and may outlive an engine that is no longer referenced.
    """

    def __init__(
        self,
        opening: Opening,
        params: ContextParams,
        memory: MemoryCheck,
        states: Mapping[Path, FileState | None],
        tuned: bool,
    ) -> None:
        self._opening, self._memory, self._states = opening, memory, states
        self._params, self._tuned = params, tuned

    def __call__(self, opened: Opened) -> ContextParams:
        check_unchanged(self._states)
        if self._tuned:
            self._params = with_stored_choice(self._params, self._states, opened, self._opening)
            self._tuned = False  # a restarted child computes as the first one did
        self._memory.params = self._params
        if self._opening.weights:
            self._memory.check_weights(opened.device)
        return self._params


def _paste_back(arrays: list[NDArray[np.uint8]], params: ImageParams) -> None:
    """Put the original back outside of the mask, if there is one and the call wants it."""
    if params.mask_image is None or not params.paste_back:
        return
    original: Any = params.init_image  # arrays, since the call was checked
    mask: Any = params.mask_image
    assert params.mask_blur is not None
    paste_original(arrays, original, mask, params.mask_blur)


def _warn_of_size(params: ImageParams, shape: tuple[int, ...]) -> None:
    asked = params.height or shape[0], params.width or shape[1]
    if params.hires is None and asked != shape[:2]:
        warn(
            f"the result has {shape[1]}x{shape[0]} pixels, not {asked[1]}x{asked[0]}: the engine rounded up to what the"
            " model needs; pass that size to avoid this"
        )
