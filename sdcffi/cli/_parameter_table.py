"""The table of the built engine's parameters: each C name with its Python name, its flag and its default."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .._bindings.requests import Opening
from .._bindings.words import WORDS
from .._machine.backends import CPU
from .._process.calls import run_alone
from ..engine.engine import Engine
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.names import Parameter, parameters
from ..params.struct import StrPath, Struct
from ..params.video import VideoParams

__all__ = ["FUNCTIONS", "NEWER", "STRUCTS", "UNREACHED", "parameter_table"]

# Each struct that a call takes, with the call.
STRUCTS: dict[type[Struct], Any] = {
    ContextParams: Engine,
    ImageParams: Engine.generate,
    VideoParams: Engine.generate_video,
}
# The functions of stable-diffusion.h, and the names in Python that use them.
FUNCTIONS = {
    "new_sd_ctx": "Engine",
    "free_sd_ctx": "Engine.close",
    "generate_image": "Engine.generate",
    "generate_video": "Engine.generate_video",
    "sd_ctx_supports_image_generation": "Engine.capabilities",
    "sd_ctx_supports_video_generation": "Engine.capabilities",
    "sd_get_default_sample_method": "Engine.capabilities",
    "sd_get_default_scheduler": "Engine.capabilities",
    "sd_sample_method_name": "Engine.capabilities",
    "sd_scheduler_name": "Engine.capabilities",
    "sd_set_log_callback": "Engine",
    "sd_set_progress_callback": "Engine",
    "sd_set_preview_callback": "Engine.generate",
    "new_upscaler_ctx": "Upscaler",
    "free_upscaler_ctx": "Upscaler.close",
    "upscale": "Upscaler.upscale",
    "get_upscale_factor": "Upscaler.factor",
    "preprocess_canny": "canny",
    "convert": "convert",
    "sd_commit": "Engine.commit",
    "sd_ctx_params_init": "Engine",
    "sd_img_gen_params_init": "Engine.generate",
    "sd_vid_gen_params_init": "Engine.generate_video",
    "sd_sample_params_init": "SampleParams",
    "sd_cache_params_init": "Cache",
    "sd_hires_params_init": "Hires",
    **{
        f"{kind}_name": "Engine.capabilities"
        for kind in ("sd_type", "sd_rng_type", "sd_prediction", "sd_preview", "sd_lora_apply_mode", "sd_hires_upscaler")
    },
}
_LENGTH, _ARRAY = "length of the sequence", "the array itself"
_NAMED = "names are read from the header and looked up in Python, which refuses unknown ones"
_TEXT = "text for logs; `Result.record` returns the same values, and more"
# Names in C without a name of their own in Python, and the reason.
UNREACHED = {
    "sd_ctx_params_t.embedding_count": _LENGTH,
    "sd_slg_params_t.layer_count": _LENGTH,
    "sd_sample_params_t.custom_sigmas_count": _LENGTH,
    "sd_pm_params_t.id_images_count": _LENGTH,
    "sd_img_gen_params_t.lora_count": _LENGTH,
    "sd_img_gen_params_t.ref_images_count": _LENGTH,
    "sd_vid_gen_params_t.lora_count": _LENGTH,
    "sd_vid_gen_params_t.control_frames_size": _LENGTH,
    "sd_image_t.width": _ARRAY,
    "sd_image_t.height": _ARRAY,
    "sd_image_t.channel": _ARRAY,
    "sd_image_t.data": _ARRAY,
    "sd_ctx_params_to_str": _TEXT,
    "sd_sample_params_to_str": _TEXT,
    "sd_img_gen_params_to_str": _TEXT,
    "sd_get_num_physical_cores": "Python counts the cores that the process may use, see `Engine(threads=)`",
    "sd_get_system_info": "the instruction sets; `sdcffi info` shows them as options of the build",
    "sd_version": "the version of the source package; `sdcffi info` shows it, from the manifest",
    **{
        f"str_to_{kind}": _NAMED
        for kind in (
            *("sd_type", "rng_type", "sample_method", "scheduler", "prediction", "preview", "lora_apply_mode"),
            "sd_hires_upscaler",
        )
    },
}
_TEXT_OF_MANY = "takes the fields that it replaced, see above, and nothing else yet"
_FAMILY = "for models that May's engine does not know"
_CONTROL_SWAP = "another ControlNet without loading the model again"
_DETAILS, _IMPORTANCE = "faces and hands drawn anew (ADetailer)", "importance matrices for quantising"
# What only newer headers have, and what it is. Nothing in Python offers it yet, so the engine's own defaults hold.
# A header has all of these or none: what a newer one adds belongs here, or into the dataclasses.
NEWER = {
    "sd_ctx_params_t.backend": _TEXT_OF_MANY,
    "sd_ctx_params_t.params_backend": _TEXT_OF_MANY,
    "sd_ctx_params_t.model_args": _TEXT_OF_MANY,
    "sd_img_gen_params_t.ref_image_args": _TEXT_OF_MANY,
    "sd_img_gen_params_t.circular_x": "`ContextParams.circular_x`, see above",
    "sd_img_gen_params_t.circular_y": "`ContextParams.circular_y`, see above",
    "sd_vid_gen_params_t.circular_x": "`ContextParams.circular_x`, see above",
    "sd_vid_gen_params_t.circular_y": "`ContextParams.circular_y`, see above",
    "sd_ctx_params_t.eager_load": "set by the guard: weights are read when the engine opens",
    "sd_ctx_params_t.stream_layers": "weights streamed from main memory, with `max_vram`",
    "sd_ctx_params_t.split_mode": "weights on several GPUs, by layers or rows",
    "sd_ctx_params_t.auto_fit": "placement by free memory",
    "sd_ctx_params_t.rpc_servers": "devices of other machines",
    "sd_ctx_params_t.vae_format": "kind of a VAE that cannot be told from its weights",
    "sd_ctx_params_t.uncond_diffusion_model_path": _FAMILY,
    "sd_ctx_params_t.embeddings_connectors_path": _FAMILY,
    "sd_ctx_params_t.audio_vae_path": _FAMILY,
    "sd_ctx_params_t.motion_module_path": "AnimateDiff",
    "sd_ctx_params_t.ip_adapter_path": "IP-Adapter",
    "sd_ctx_params_t.pulid_weights_path": "PuLID",
    "sd_img_gen_params_t.ip_adapter_image": "IP-Adapter",
    "sd_img_gen_params_t.ip_adapter_strength": "IP-Adapter",
    "sd_img_gen_params_t.pulid_params": "PuLID",
    "sd_pulid_params_t.id_embedding_path": "PuLID",
    "sd_pulid_params_t.id_weight": "PuLID",
    "sd_img_gen_params_t.qwen_image_layers": "number of layers of Qwen-Image Layered",
    "sd_vid_gen_params_t.fps": "frame rate that some video models are told",
    "sd_vid_gen_params_t.hires": "second pass of videos",
    "sd_vid_gen_params_t.ref_images": "references of videos",
    "sd_vid_gen_params_t.ref_images_count": _LENGTH,
    "sd_vid_gen_params_t.ref_videos": "references of videos",
    "sd_vid_gen_params_t.ref_videos_count": _LENGTH,
    "sd_vid_gen_params_t.ref_audios": "references of videos",
    "sd_vid_gen_params_t.ref_audios_count": _LENGTH,
    "sd_ref_video_t.frames": "references of videos",
    "sd_ref_video_t.frame_count": _LENGTH,
    "sd_ref_video_t.fps": "references of videos",
    "sd_ref_video_t.audio": "references of videos",
    "sd_audio_t.sample_rate": "sound",
    "sd_audio_t.channels": "sound",
    "sd_audio_t.sample_count": _LENGTH,
    "sd_audio_t.data": "sound",
    "sd_sample_params_t.extra_sample_args": "more settings of samplers, schedulers and guidance",
    "sd_tiling_params_t.temporal_tiling": "videos decoded in pieces of time",
    "sd_tiling_params_t.extra_tiling_args": "more settings of tiling",
    "sd_hires_params_t.custom_sigmas": "noise levels of the second pass",
    "sd_hires_params_t.custom_sigmas_count": _LENGTH,
    "sd_adetailer_params_t.prompt": _DETAILS,
    "sd_adetailer_params_t.negative_prompt": _DETAILS,
    "sd_adetailer_params_t.extra_ad_args": _DETAILS,
    "new_adetailer_ctx": _DETAILS,
    "free_adetailer_ctx": _DETAILS,
    "adetail_image": _DETAILS,
    "load_imatrix": _IMPORTANCE,
    "save_imatrix": _IMPORTANCE,
    "enable_imatrix_collection": _IMPORTANCE,
    "disable_imatrix_collection": _IMPORTANCE,
    "convert_with_components": "one file from several",
    "free_sd_audio": "sound",
    "free_sd_images": "the guard frees images on every engine alike",
    "sd_cancel_generation": "`Engine.cancel` stops within a step",
    "sd_ctx_load_control_net": _CONTROL_SWAP,
    "sd_ctx_unload_control_net": _CONTROL_SWAP,
    "sd_ctx_has_control_net": _CONTROL_SWAP,
    "sd_list_devices": "`list_devices` asks ggml itself",
    "sd_set_backend_eval_callback": "for debuggers of graphs",
}
_TABLES = ("tiling", "cache", "hires", "slg", "high_noise")  # keywords that take a whole struct
_OF_OURS = {  # defaults that sdcffi sets
    "n_threads": "the physical cores that the process may use",
    "vae_decode_only": "off (the engine's own: on)",
    "free_params_immediately": "off (the engine's own: on)",
    "mask_blur": "4",
    "paste_back": "on",
    "comma_backtrack": "20",
    "precision": "`exact`",
}

_HEAD = """\
# Parameters

This page lists every parameter of the engine, with its name in C and in Python, its flag, and its default.

```python
import sdcffi

sampling = sdcffi.SampleParams(custom_sigmas=[1.0, 0.75, 0.5, 0.25, 0.0])
with sdcffi.Engine(**sdcffi.demo_model(), context=sdcffi.ContextParams(n_threads=2)) as engine:
    params = sdcffi.ImageParams(sample_params=sampling)
    engine.generate("a red heart", width=128, height=128, cfg_scale=2, params=params)
```

If the second column is `Engine(...)`, `generate(...)` or `generate_video(...)`, the parameter is a keyword. Otherwise
it is a field of a dataclass: `ContextParams` is for `context=` of `Engine`, `ImageParams` and `VideoParams` are for
`params=` of a call, and the others are fields of these. Keywords win over fields.

Parameters mean the same on every verified revision of the engine. If the header that was built lacks a field, its value
is told in that engine's own words, see [Replaced in newer engines](#replaced-in-newer-engines).

This page is the output of `sdcffi info --parameters`, made from the header that was built: stable-diffusion.cpp
{commit}."""

_REPLACED = """\
The engine of August 2026 has none of these fields, or has them as text. Python's names stay, and values are translated
as upstream's own command line does. Other values than the default are refused where there is no translation."""
_ONLY_THERE = """\
The engine of August 2026 has these; sdcffi does not offer them yet."""


def parameter_table(library: StrPath | None = None) -> Iterator[str]:
    """Return the lines of the table as Markdown, with the defaults of the engine that was built.

    Parameters
    ----------
    library : path, optional
        See `Engine`.
    """
    opening = Opening(library, CPU)
    found = run_alone(opening, "describe")
    defaults = run_alone(opening, "defaults", [struct() for struct in STRUCTS])
    yield from _HEAD.format(commit=found.upstream_commit).splitlines()
    for (struct, call), values in zip(STRUCTS.items(), defaults, strict=True):
        yield from ("", f"## {struct.C_STRUCT}", "", "| C | Python | flag | default |", "| --- | --- | --- | --- |")
        keywords = inspect.signature(call).parameters
        for item in parameters(struct):
            name = ".".join(item.path)
            python, default = _python(item, call, keywords), _default(item, values.get(name, ""))
            in_c = name if item.path[-1] not in item.struct.NOT_IN_C else ""
            yield f"| {in_c} | `{python}` | `{item.flag}` | {default} |"
    yield from ("", "## Functions", "", "| C | Python |", "| --- | --- |")
    yield from (f"| {name} | `{python}` |" for name, python in sorted(FUNCTIONS.items()))
    yield from ("", "## Without a name in Python", "", "| C | why |", "| --- | --- |")
    yield from (f"| {name} | {reason} |" for name, reason in sorted(UNREACHED.items()))
    yield from ("", "## Replaced in newer engines", "", *_REPLACED.splitlines(), "")
    yield from ("| C | in a newer engine | default there |", "| --- | --- | --- |")
    yield from (f"| {word.struct}.{word.name} | {word.meaning} | {_shown(word.default)} |" for word in WORDS)
    yield from (
        "",
        "## Only in newer engines",
        "",
        *_ONLY_THERE.splitlines(),
        "",
        "| C | what it is |",
        "| --- | --- |",
    )
    yield from (f"| {name} | {meaning} |" for name, meaning in sorted(NEWER.items()))


def _python(item: Parameter, call: Any, keywords: Mapping[str, Any]) -> str:
    if item.name in keywords and item.name not in _TABLES:
        return f"{call.__name__}({item.name}=)"
    return f"{item.struct.__name__}.{item.path[-1]}"


def _default(item: Parameter, value: Any) -> str:
    if item.path[-1] in _OF_OURS:
        return _OF_OURS[item.path[-1]]
    return "chosen by the engine" if value is None else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "chosen by the engine"
    return str(value) or "none"
