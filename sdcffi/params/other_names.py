"""Names that other tools have for parameters and for their values.

A value is taken where it can mean one thing only: ``"Euler a"`` of AUTOMATIC1111's web interface, ``"dpmpp_2m_sde"`` of
ComfyUI, a scheduler class of diffusers, and every name whatever its case. A keyword is refused with the right one, so
that programs have one spelling.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from .._quoting import shown
from .enum_names import EVERY_NAME
from .image import ImageParams
from .names import Parameter, parameters
from .struct import Struct
from .video import VideoParams

__all__ = ["AUTOMATIC", "ENUMS", "check_known", "keyword_hint", "meant", "with_engine_names"]

_S = TypeVar("_S", bound=Struct)

# By `_key`, where a value has another name altogether: k-diffusion's and ComfyUI's schedules that are the engine's
# "discrete" (evenly spaced timesteps, 0 last), classes of diffusers with their default settings, types of torch.
_VALUES = {
    "normal": "discrete",
    "uniform": "discrete",
    "alignyoursteps": "ays",
    "alignyourstepsgits": "gits",
    "eulerdiscretescheduler": "euler",
    "euleradiscretescheduler": "euler_a",
    "flowmatcheulerdiscretescheduler": "euler",
    "heundiscretescheduler": "heun",
    "kdpm2discretescheduler": "dpm2",
    "dpmsolvermultistepscheduler": "dpm++2m",
    "unipcmultistepscheduler": "unipc",
    "deismultistepscheduler": "deis",
    "lcmscheduler": "lcm",
    "lmsdiscretescheduler": "lms",
    "tcdscheduler": "tcd",
    "fp16": "f16",
    "float16": "f16",
    "fp32": "f32",
    "float32": "f32",
    "bfloat16": "bf16",
    "gpu": "cuda",
    "nv": "cuda",
    "epsilon": "eps",
    "vprediction": "v",
}
AUTOMATIC = "Automatic"
"""What AUTOMATIC1111's web interface calls its own choice; in a call it is None, the engine's."""

ENUMS = {
    "sample_method": "sample_method_t",
    "scheduler": "scheduler_t",
    "mode": "sd_cache_mode_t",
    "upscaler": "sd_hires_upscaler_t",
}
"""C fields whose values are names of an enumeration."""

_OF_CONTEXT = {  # the same of `Engine`, which are compared with the engine's when it is opened
    "rng_type": "rng_type_t",
    "sampler_rng_type": "rng_type_t",
    "prediction": "prediction_t",
    "lora_apply_mode": "lora_apply_mode_t",
}

# What other tools call a keyword; text that is no keyword is said as it is.
_KEYWORDS = {
    # diffusers
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale (or guidance, which distilled models such as FLUX.1 dev take)",
    "true_cfg_scale": "cfg_scale",
    "num_images_per_prompt": "batch_count",
    "generator": "seed",
    "image": "init_image (or ref_images, for models that edit)",
    "images": "ref_images",
    "last_image": "end_image",
    "num_frames": "video_frames",
    "frame_rate": "fps",
    "controlnet": "control_net",
    "controlnet_conditioning_scale": "control_strength",
    "cross_attention_kwargs": "loras=[Lora(path, 0.8)]",
    "callback_on_step_end": "on_progress",
    "callback": "on_progress",
    "torch_dtype": "type",
    "dtype": "type",
    "device": "backend",
    "device_map": "backend",
    "pretrained_model_name_or_path": "model, as 'hf://OWNER/REPO' or a path",
    **dict.fromkeys(("unet", "transformer"), "diffusion_model"),
    "text_encoder": "clip_l, t5xxl or llm",
    "text_encoder_2": "clip_g, t5xxl or llm",
    "text_encoder_3": "t5xxl",
    "quantization_config": 'type, such as "q8_0"',
    "cache_dir": "nothing: the environment variable HF_HOME says where downloads are kept",
    "revision": "nothing: write it into the reference, 'hf://OWNER/REPO/FILE@REVISION'",
    "variant": "nothing: write the file into the reference, 'hf://OWNER/REPO/FILE'",
    "local_files_only": "nothing: the environment variable HF_HUB_OFFLINE=1 turns downloads off",
    "token": "nothing: log in with 'hf auth login', or set the environment variable HF_TOKEN",
    "use_safetensors": "nothing: the kind of a file is read from it",
    "low_cpu_mem_usage": "nothing: there is no other way to load",
    "return_dict": "nothing: there is one kind of result",
    "latents": "nothing: the first noise is that of the seed",
    "max_sequence_length": "nothing: it is that of the model's family",
    "output_type": "nothing: a result has arrays and images",
    "safety_checker": "nothing: there is none",
    "ip_adapter_image": "nothing: there are no IP-Adapters",
    # AUTOMATIC1111 and ComfyUI
    "sampler_name": "sampler",
    "sampler_index": "sampler",
    "batch_size": "batch_count",
    **dict.fromkeys(("n_iter", "n", "num_outputs"), "batch_count"),
    "distilled_cfg_scale": "guidance",
    **dict.fromkeys(("size", "image_size"), "width and height"),
    **dict.fromkeys(("lowvram", "medvram"), "offload_to_cpu, with max_vram if that is not enough"),
    "xformers": "diffusion_fa",
    "restore_faces": "nothing: faces are not restored",
    "styles": "nothing: write them into the prompt",
    "denoising_strength": "strength",
    "denoise": "strength",
    "cfg": "cfg_scale",
    "ckpt_name": "model",
    "ckpt": "model",
    "checkpoint": "model",
    "init_images": "init_image",
    "mask": "mask_image",
    "positive": "prompt",
    "negative": "negative_prompt",
    "noise_seed": "seed",
    "enable_hr": "hires=Hires(...)",
    "hr_scale": "hires=Hires(scale=...)",
    "subseed": "nothing: there are no variation seeds",
    # stable-diffusion-cpp-python and sd-cli
    "lora_model_dir": "lora_dir",
    "lora_path": "loras",
    "lora": "loras",
    "embd_dir": "embeddings",
    "progress_callback": "on_progress",
    "preview_callback": "on_preview",
    "log_callback": "on_log",
    "verbose": "on_log=print",
    "upscaler_path": "Upscaler(path)",
    "upscale_factor": "Upscaler(path).upscale(result, factor)",
    "sampling_method": "sampler",
    "method": "sampler",
    "n_steps": "steps",
    "num_steps": "steps",
    "init_img": "init_image",
    "ref_image": "ref_images",
    "control_net_cpu": "control_net_on_cpu",
    **dict.fromkeys(("tae", "tae_path"), "taesd"),
    "stacked_id_embed_dir": "photo_maker",
    "control_cond": "control_image",
    "sample_params": "params=ImageParams(sample_params=...), for a video VideoParams",
    "vae_tiling": "tiling=Tiling()",
    "chroma_use_dit_mask": "context=ContextParams(chroma_use_dit_mask=...)",
}


def _key(name: str) -> str:
    """Return what is left of a name without its tool's habits: ``"dpmpp2sa"`` of ``"DPM++ 2S a"``."""
    plain = (
        name.casefold()
        .removeprefix("torch.")
        .removeprefix("k_")
        .removesuffix("_gpu")
        .replace("ancestral", "a")
        .replace("+", "p")
    )
    return "".join(letter for letter in plain if letter.isalnum())


def meant(value: Any, legal: Iterable[str]) -> Any:
    """Return the one legal name that a value means; the value itself if it is legal, or means none, or several."""
    names = list(legal)
    if not isinstance(value, str) or value in names or not value.isprintable():
        return value
    key = _key(value)
    found = [name for name in names if _key(name) == key] or [name for name in names if name == _VALUES.get(key)]
    return found[0] if len(found) == 1 and key else value


def check_known(where: str, value: Any, field: str) -> None:
    """Refuse a name that no revision of the engine has, before one is chosen.

    Parameters
    ----------
    where : str
        Name of the value in messages.
    value : object
    field : str
        Its C field. One whose values are not names is passed over.

    Raises
    ------
    ValueError
        With the value and the legal set.
    """
    legal = EVERY_NAME.get({**ENUMS, **_OF_CONTEXT}.get(field, ""), (value,))
    if meant(value, legal) not in legal:
        raise ValueError(f"{where} must be one of {', '.join(legal)}, not {shown(value)}")


def with_engine_names(params: _S, legal: Mapping[str, tuple[str, ...]]) -> _S:
    """Return the parameters of a call with the engine's names in place of other tools'.

    Parameters
    ----------
    params : Struct
    legal : mapping of str to tuple of str
        The names of each C enumeration.

    Raises
    ------
    ValueError
        If the sampler's name is one for a scheduler too, and another scheduler is given.
    """
    changes: dict[str, Any] = {}
    for item in fields(params):  # type: ignore[arg-type]
        value = getattr(params, item.name)
        if isinstance(value, Struct):
            changes[item.name] = with_engine_names(value, legal)
        elif isinstance(value, str) and item.name in ENUMS:
            changes[item.name] = None if _is_automatic(value) else meant(value, legal.get(ENUMS[item.name], ()))
    if changes.get("sample_method"):
        changes |= _of_both(changes["sample_method"], changes.get("scheduler"), legal)
    return replace(params, **changes) if changes else params  # type: ignore[type-var]


def _is_automatic(name: str) -> bool:
    return _key(name) == _key(AUTOMATIC)


def _of_both(label: str, given: str | None, legal: Mapping[str, tuple[str, ...]]) -> dict[str, str | None]:
    """Return sampler and scheduler of one label for both, ``"DPM++ 2M Karras"``; nothing for any other label.

    What follows a blank or an underscore may be the scheduler.
    """
    samplers, schedulers = legal.get("sample_method_t", ()), legal.get("scheduler_t", ())
    if label in samplers:
        return {}
    words = label.replace("_", " ").split(" ")
    for count in range(1, len(words)):
        sampler = meant(" ".join(words[:count]), samplers)
        name = " ".join(words[count:]).strip("[]")
        scheduler = None if _is_automatic(name) else meant(name, schedulers)
        if sampler not in samplers or scheduler not in (None, *schedulers):
            continue
        if given not in (None, scheduler):
            named = AUTOMATIC if scheduler is None else scheduler
            raise ValueError(
                f"sampler {shown(label)} names the scheduler {named}, and scheduler= is {shown(given)}: give one"
            )
        return {"sample_method": sampler, "scheduler": scheduler}
    return {}


def keyword_hint(
    name: str, legal: Iterable[str], structs: Iterable[type[Struct]] = (), others: Collection[str] = ()
) -> str:
    """Return what to pass in place of a keyword that a function does not have; empty if nothing is known.

    Parameters
    ----------
    name : str
        The keyword.
    legal : iterable of str
        Those that the function has.
    structs : iterable of type
        Dataclasses whose C fields, and names in `names.parameters`, are known too.
    others : collection of str
        Keywords of other functions.
    """
    own = set(legal)
    if name in _KEYWORDS:
        return _KEYWORDS[name]
    if name in others:
        return name
    fits = [(kind, item) for kind in structs for item in parameters(kind) if name in (item.path[-1], item.name)]
    for keywords in (own, others):
        if found := next((item.name for _, item in fits if item.name in keywords), None):
            return found
    return _field(*fits[0]) if fits else ""


def _field(struct: type[Struct], item: Parameter) -> str:
    """Return the dataclass that has a field, in the words of a call."""
    where = "params" if struct in (ImageParams, VideoParams) else "context"
    field = f"{item.struct.__name__}({item.path[-1]}=...)"
    return f"{where}={field}" if item.struct is struct else f"{field} inside {where}={struct.__name__}(...)"
