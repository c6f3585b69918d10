"""Read requests of AUTOMATIC1111's web interface: their fields and settings, in the words of `Service`.

A field that would change the image and is not supported is refused by its name, so that no client gets another image
than it asked for. Fields that every client sends are taken at the value with which they do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._quoting import shown
from ..images.convert import as_rgb
from ..images.files import decoded
from ..images.resize import resized
from ..params.other_names import AUTOMATIC
from .exchange import MOST_INPUT
from .fields import Fields
from .inpainting import Region, filled
from .jobs import Rejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .service import Service

__all__ = ["FILTERS", "KNOWN", "LATENT", "STATUS", "Call", "Settings", "read_call", "read_settings"]

KNOWN = "docs/serve.md lists those that it has"
STATUS = 422  # of refusals, as of the web interface's own
LATENT = (
    *("Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)"),
    *("Latent (nearest)", "Latent (nearest-exact)"),
)
_MOST_BLUR = 1000  # as the engine's own
FILTERS = ("Lanczos", "Nearest")  # that enlarge pixels

# Fields with the values at which they do nothing, and what to do instead of another.
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "styles": (([], [""]), "write them into the prompt"),
    "subseed_strength": ((0,), "there are no variation seeds"),
    "seed_resize_from_h": ((0, -1), "there are no variation seeds"),
    "seed_resize_from_w": ((0, -1), "there are no variation seeds"),
    "restore_faces": ((False,), "faces are not restored"),
    "tiling": ((False,), "the server can have a model with circular = true"),
    "s_churn": ((0,), "the samplers add no such noise"),
    "s_noise": ((1,), "the samplers have no such factor"),
    "s_min_uncond": ((0,), "every step has its guidance"),
    "refiner_checkpoint": (("", "None", "none"), "there are no refiners"),
    "disable_extra_networks": ((False,), "leave the tags out of the prompt"),
    "script_name": (("", "None"), "there are no scripts"),
    "infotext": (("",), "send the parameters themselves"),
    "firstpass_image": (("",), "send the first pass alone, then img2img"),
    "latent_mask": (("",), "send it as mask"),
    "mask_round": ((True,), "the engine rounds masks to its latent pixels"),
    "initial_noise_multiplier": ((1,), "change denoising_strength"),
}
# Fields that change no image here: what is saved on the server's disk, what is read only with one of `_ONLY`, what
# says who asks, and what a proxy such as SillyTavern's adds for itself.
_IDLE = (
    *("save_images", "do_not_save_samples", "do_not_save_grid", "subseed", "s_tmin", "s_tmax", "refiner_switch_at"),
    *("script_args", "comments", "force_task_id", "user", "url", "auth", "seed_enable_extras"),
    "sampler_index",
)
_SECOND_PASS = (
    *("hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name"),
    *("hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_additional_modules", "hr_cfg"),
    *("hr_distilled_cfg", "firstphase_width", "firstphase_height"),
)
_SAME = ("", "None", "Use same checkpoint", "Use same sampler", "Use same scheduler")
_MODULES: tuple[Any, ...] = ([], ["Use same choices"], [""])

# Settings besides those of `Settings`, likewise.
_SETTINGS_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "samples_format": (("png",), "images are PNG files"),
    "sd_vae": (("", AUTOMATIC), "each of the server's models has its own"),
    "forge_additional_modules": (_MODULES, "each of the server's models has its own"),
    "eta_noise_seed_delta": ((0,), "the seed of samplers is that of the image"),
    "img2img_color_correction": ((False,), "colours are not corrected"),
    "img2img_fix_steps": ((False,), "denoising_strength is a part of the steps"),
    "img2img_extra_noise": ((0,), "change denoising_strength"),
    "initial_noise_multiplier": ((1,), "change denoising_strength"),
    "inpainting_mask_weight": ((1,), "the mask is used as it is"),
    "token_merging_ratio": ((0,), "tokens are not merged"),
    "face_restoration": ((False,), "faces are not restored"),
    "tiling": ((False,), "the server can have a model with circular = true"),
    "filter_nsfw": ((False,), "images are not filtered"),
    "return_mask": ((False,), "the answer has the images alone"),
    "return_mask_composite": ((False,), "the answer has the images alone"),
}
_SETTINGS_IDLE = (
    *("sd_checkpoint_hash", "save_images_add_number", "samples_save", "grid_save", "return_grid"),
    *("do_not_add_watermark", "enable_pnginfo", "live_previews_enable", "jpeg_quality"),
    *("show_progress_every_n_steps", "show_progress_type", "live_previews_image_format", "webp_lossless"),
)

# Samplers that take eta there, by their names there, here and elsewhere; others ignore it.
_TAKES_ETA = re.compile(r"sde|ancestral|[ _]a(?![a-z])|ddim|tcd", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """Settings of a client, or those that a request overrides; None is not set."""

    model: str | None = None
    clip_skip: int | None = None
    comma_backtrack: int | None = None

    def updated(self, other: Settings) -> Settings:
        """Return these settings with those that are set in `other`."""
        return Settings(**{**vars(self), **{name: value for name, value in vars(other).items() if value is not None}})

    def shown(self, service: Service) -> dict[str, Any]:
        """Return the options that clients see; all of them can be sent back."""
        return {
            "sd_model_checkpoint": self.model or service.models.default,
            "sd_checkpoint_hash": "",
            "sd_vae": AUTOMATIC,
            "CLIP_stop_at_last_layers": self.clip_skip or 1,
            "comma_padding_backtrack": 20 if self.comma_backtrack is None else self.comma_backtrack,
            "samples_format": "png",
            "eta_noise_seed_delta": 0,
            "return_grid": False,
        }


def read_settings(table: Any, name: str, service: Service) -> Settings:
    """Read settings as the web interface names them."""
    given = Fields({} if table is None else table, STATUS, name)
    found = Settings(
        _model_named(given.text("sd_model_checkpoint"), service),
        given.integer("CLIP_stop_at_last_layers"),
        given.integer("comma_padding_backtrack"),
    )
    for setting, (legal, instead) in _SETTINGS_ONLY.items():
        given.only(setting, legal, instead)
    given.drop(*_SETTINGS_IDLE)
    given.refuse_rest(KNOWN)
    return found


def _model_named(title: str | None, service: Service) -> str | None:
    """Return the model that a title means: its name, also with the hash or ending that the web interface writes."""
    if not title or title in service.models.names():
        return title or None
    plain = re.sub(r" \[\w+\]$", "", title)
    for name in (plain, re.sub(r"\.(safetensors|ckpt|gguf)$", "", plain)):
        if name in service.models.names():
            return name
    names = ", ".join(service.models.names())
    raise Rejected(404, "unknown_model", f"there is no model {shown(title)}; the server has {names}")


@dataclass(frozen=True)
class Call:
    """A request, in the words of `Service`."""

    model: str
    parameters: dict[str, Any]
    region: Region | None = None
    sends_images: bool = True
    batch_size: int = 1
    echo: dict[str, Any] = field(default_factory=dict)


def read_call(body: Mapping[str, Any], settings: Settings, service: Service, *, from_image: bool) -> Call:
    """Read a request for images. It decodes images: call it on a thread."""
    given = Fields(body, STATUS)
    settings = settings.updated(read_settings(given.take("override_settings"), "override_settings", service))
    model = settings.model or service.models.default
    batch_size = given.integer("batch_size") or 1
    clip_skip = given.integer("clip_skip") or settings.clip_skip  # a field of SD.Next's
    # A model's own layer is what the web interface calls 1.
    parameters: dict[str, Any] = {
        "prompt": given.text("prompt") or "",
        "negative_prompt": given.text("negative_prompt") or None,
        "seed": given.integer("seed"),
        "steps": given.integer("steps"),
        "cfg_scale": given.number("cfg_scale"),
        "guidance": given.number("distilled_cfg_scale"),
        "width": given.integer("width"),
        "height": given.integer("height"),
        "batch_count": batch_size * (given.integer("n_iter") or 1),
        "clip_skip": clip_skip if clip_skip is not None and clip_skip > 1 else None,
        "comma_backtrack": settings.comma_backtrack,
        **_sampling(given),
    }
    strength, image_guidance = given.number("denoising_strength"), given.take("image_cfg_scale")
    if image_guidance not in (None, 0, 1.5, parameters["cfg_scale"]):
        raise given.wrong("image_cfg_scale", "image_cfg_scale is not supported: leave it out")
    region = None
    if from_image:
        if strength is not None:
            parameters["strength"] = strength
        given.drop(*_SECOND_PASS)
        given.only("enable_hr", (False,), "send txt2img, or an image of the larger size")
        parts, region = _input(given, parameters, model, service)
        parameters |= parts
    else:
        parameters |= _second_pass(given, parameters, strength, model, service)
    for name, (legal, instead) in _ONLY.items():
        given.only(name, legal, instead)
    _refuse_scripts(given)
    sends, includes = given.flag("send_images"), given.flag("include_init_images")
    given.drop(*_IDLE, "override_settings_restore_afterwards")
    given.refuse_rest(KNOWN)
    hidden = () if includes else ("init_images", "mask")
    return Call(
        model,
        {name: value for name, value in parameters.items() if value is not None},
        region,
        sends is not False,
        batch_size,
        {name: None if name in hidden else value for name, value in body.items()},
    )


def _sampling(given: Fields) -> dict[str, Any]:
    sampler, index = given.text("sampler_name"), given.take("sampler_index")
    sampler = sampler or (index if isinstance(index, str) and not index.isdecimal() else None)
    scheduler, eta = given.text("scheduler"), given.number("eta")
    return {
        "sampler": sampler or None,
        "scheduler": None if not scheduler or scheduler.lower() == AUTOMATIC.lower() else scheduler,
        "eta": eta if sampler and _TAKES_ETA.search(sampler) else None,
    }


def _second_pass(
    given: Fields, parameters: Mapping[str, Any], strength: float | None, model: str, service: Service
) -> dict[str, Any]:
    if not given.flag("enable_hr"):
        given.drop(*_SECOND_PASS)
        return {}
    for name, same in {
        "hr_checkpoint_name": (),
        "hr_sampler_name": (parameters["sampler"],),
        "hr_scheduler": (parameters["scheduler"], AUTOMATIC),
        "hr_prompt": (parameters["prompt"],),
        "hr_negative_prompt": (parameters["negative_prompt"],),
    }.items():
        given.only(name, (*_SAME, *same), "the second pass has what the first has")
    given.only("hr_cfg", (parameters["cfg_scale"],), "the second pass has what the first has")
    given.only("hr_distilled_cfg", (parameters["guidance"],), "the second pass has what the first has")
    given.only("hr_additional_modules", _MODULES, "each of the server's models has its own")
    for name in ("firstphase_width", "firstphase_height"):
        given.only(name, (0,), "send width and height of the first pass, and hr_resize_x and hr_resize_y")
    scale, width, height = (
        given.number("hr_scale"),
        given.integer("hr_resize_x") or 0,
        given.integer("hr_resize_y") or 0,
    )
    size = _size(parameters, model, service, (512, 512))
    if width or height:
        width, height = width or round(height * size[0] / size[1]), height or round(width * size[1] / size[0])
        if abs(width * size[1] - height * size[0]) > 8 * max(size):
            raise given.wrong(
                "hr_resize_x",
                f"hr_resize_x and hr_resize_y, {width}x{height}, must have the aspect ratio of width and height,"
                f" {size[0]}x{size[1]}: the engine does not crop",
            )
    return {
        "hires": True,
        **_enlarger(given, service),
        "hires_scale": None if width else scale or 2.0,
        "hires_width": width or None,
        "hires_height": height or None,
        "hires_steps": given.integer("hr_second_pass_steps") or None,
        "hires_denoising_strength": strength,
    }


def _enlarger(given: Fields, service: Service) -> dict[str, Any]:
    name = given.text("hr_upscaler") or "Latent"
    if name == "None":  # the web interface enlarges so
        name = "Lanczos"
    if name in (*LATENT, *FILTERS):
        return {"hires_upscaler": name}
    if name in service.upscalers():
        return {"hires_upscaler": "Model", "hires_model": name}
    legal = ", ".join((*LATENT, *FILTERS, *service.upscalers()))
    raise given.wrong("hr_upscaler", f"hr_upscaler must be one of {legal}, not {shown(name)}")


def _input(
    given: Fields, parameters: Mapping[str, Any], model: str, service: Service
) -> tuple[dict[str, Any], Region | None]:
    """Return the parameters for an input image and its mask; the region if only that part is generated."""
    images = given.take("init_images")
    if not isinstance(images, list) or len(images) != 1:
        raise given.wrong("init_images", "init_images must be a list of one image: send one request for each image")
    content = given.image("init_images", images[0])
    if content is None:
        raise given.wrong("init_images", "init_images must be a list of one image, not of an empty text")
    most_pixels = MOST_INPUT * service.config.most_pixels
    original = as_rgb(decoded(content, "init_images", most_pixels), "init_images", "white")
    rules = {0: "stretch", 1: "crop"}
    mode = given.integer("resize_mode") or 0
    if mode not in rules:
        raise given.wrong("resize_mode", f"resize_mode must be 0 (stretch) or 1 (crop), not {mode}: send it filled")
    mask = given.image("mask")
    blur = given.number("mask_blur")
    sides = given.number("mask_blur_x"), given.number("mask_blur_y")
    fill, only_masked = given.integer("inpainting_fill") or 0, given.flag("inpaint_full_res")
    padding, inverted = given.integer("inpaint_full_res_padding") or 0, given.flag("inpainting_mask_invert")
    rest: dict[str, Any] = {"resize": rules[mode]}
    if mask is None:
        return {"init_image": original, **rest}, None
    if blur is None and sides[0] != sides[1]:
        raise given.wrong("mask_blur_x", "mask_blur_x and mask_blur_y must be the same: send mask_blur")
    blur = next((value for value in (blur, *sides) if value is not None), 4.0)
    if not 0 <= blur <= _MOST_BLUR:
        raise given.wrong("mask_blur", f"mask_blur must be from 0 to {_MOST_BLUR}, not {blur:g}")
    if fill not in (0, 1):
        raise given.wrong(
            "inpainting_fill", f"inpainting_fill must be 0 (the colours around) or 1 (the original), not {fill}"
        )
    painted = _mask(mask, bool(inverted), most_pixels)
    pixels = resized(painted, (original.shape[1], original.shape[0]), "stretch")
    region = None
    if only_masked is not False:  # the web interface's default
        size = _size(parameters, model, service, (original.shape[1], original.shape[0]))
        region = Region.around(original, pixels, max(0, padding), size, blur)
    if region is not None:
        rest |= {"resize": "stretch", "width": size[0], "height": size[1], "paste_back": False}
        original, pixels = region.crop(original), region.crop(pixels)
    else:
        rest["mask_blur"] = blur
    if fill == 0:
        original = filled(original, pixels)
    return {"init_image": original, "mask_image": pixels, **rest}, region


def _size(parameters: Mapping[str, Any], model: str, service: Service, otherwise: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the image that will be generated: as asked for, or as the server has it for the model."""
    defaults = service.models.config(model).arguments.call_values
    width, height = (parameters[name] or defaults.get((name,)) for name in ("width", "height"))
    return int(width or otherwise[0]), int(height or otherwise[1])


def _mask(content: bytes, inverted: bool, most_pixels: int) -> NDArray[np.uint8]:
    """Return a mask as the web interface reads it: what is painted on a transparent ground, else what is bright."""
    import numpy as np

    image = decoded(content, "mask", most_pixels)
    if image.mode == "RGBA" and (alpha := np.asarray(image.getchannel("A"))).min() < 255:
        pixels = np.where(alpha > 128, 255, 0).astype(np.uint8)
    else:
        pixels = np.asarray(image.convert("L"))
    return (255 - pixels if inverted else pixels)[..., None]


def _refuse_scripts(given: Fields) -> None:
    """Refuse scripts of extensions, unless they have no arguments or are switched off."""
    scripts = given.take("alwayson_scripts") or {}
    if not isinstance(scripts, dict):
        raise given.wrong("alwayson_scripts", f"alwayson_scripts must be an object, not {shown(scripts)}")
    for name, script in scripts.items():
        arguments = script.get("args") if isinstance(script, dict) else script
        units = arguments if isinstance(arguments, list) else [arguments] if arguments else []
        if units and units[0] is not False and not all(map(_is_off, units)):
            raise given.wrong(
                "alwayson_scripts",
                f"alwayson_scripts: {shown(name)} is not supported: there are no extensions; switch it off",
            )


def _is_off(unit: Any) -> bool:
    if isinstance(unit, dict):
        return unit.get("enabled", unit.get("enable")) is False
    return unit is None or unit is False or unit == ""
