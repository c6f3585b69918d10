"""Calls into the native library past the package's own checks: for what Python refuses before the engine sees it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tiny_model import write_model

from sdcffi._bindings.library import load
from sdcffi._bindings.lora_plans import fill_plans
from sdcffi._bindings.marshal import Marshaller, adopt_images, adopt_pixels
from sdcffi._bindings.plugins import plugins_of
from sdcffi._machine.backends import CPU
from sdcffi._models.headers import read_header
from sdcffi.params.lora_plan import LoraPlan, Module, Place

library = load()
plugins_of(library).use(CPU, tuple)
ffi, lib = library.ffi, library.lib
lines: list[str] = []
alive: list[Any] = []


@ffi.callback("sd_log_cb_t")  # type: ignore[untyped-decorator]
def on_log(_level: int, text: Any, _data: Any) -> None:
    lines.append(library.text(text))


lib.sdg_set_callbacks(on_log, ffi.NULL, ffi.NULL)


class Outcome(NamedTuple):
    """What a guarded call gave back."""

    status: str
    text: str
    value: Any = None


def call(function: Any, *arguments: Any) -> Outcome:
    """Make a guarded call; its status is named without ``SDG_``."""
    error = ffi.new("sdg_error *")
    names = ffi.typeof("enum sdg_status").elements
    status = names[function(*arguments, error)]
    return Outcome(status.removeprefix("SDG_"), library.text(error.text))


def new(ctype: str, *value: Any) -> Any:
    """Give C memory that lives as long as the process."""
    alive.append(ffi.new(ctype, *value))
    return alive[-1]


def path(value: str | os.PathLike[str]) -> Any:
    return new("char[]", os.fsencode(value))


def context_params(directory: str | Path) -> Any:
    """The engine's defaults with the tiny model of `directory`, on one thread."""
    model = write_model(directory)
    params = new("sd_ctx_params_t *")
    lib.sd_ctx_params_init(params)
    params.diffusion_model_path = path(model.diffusion_model)
    params.llm_path = path(model.llm)
    params.taesd_path = path(model.taesd)
    params.n_threads = 1
    for name in {"vae_decode_only", "free_params_immediately"} & set(dir(params)):  # which newer engines don't have
        setattr(params, name, False)
    return params


def open_context(params: Any) -> Outcome:
    out = new("sd_ctx_t **")
    outcome = call(lib.sdg_new_context, params, out)
    return outcome._replace(value=out[0])


def image_params(prompt: str = "a cat", size: int = 64, steps: int = 1) -> Any:
    params = new("sd_img_gen_params_t *")
    lib.sd_img_gen_params_init(params)
    params.prompt, params.seed = path(prompt), 1
    params.width = params.height = size
    params.sample_params.sample_steps = steps
    params.sample_params.guidance.txt_cfg = 1
    return params


def draw(context: Any, params: Any) -> Outcome:
    """Generate; the value is the first image."""
    images, count = new("sd_image_t **"), new("int *")
    outcome = call(lib.sdg_generate_image, context, params, images, count)
    return outcome._replace(value=adopt_images(library, images[0], count[0])[0] if count[0] else None)


def open_upscaler(file: Any, direct: bool = False) -> Outcome:
    out = new("upscaler_ctx_t **")
    outcome = call(lib.sdg_new_upscaler, file, False, direct, 1, 0, out)
    return outcome._replace(value=out[0])


def enlarge(upscaler: Any, picture: tuple[Any, ...] | None) -> Outcome:
    """Upscale; the value is the image."""
    image = ffi.NULL if picture is None else new("sd_image_t *", picture)
    upscaled = new("sd_image_t *")
    outcome = call(lib.sdg_upscale, upscaler, image, upscaled)
    return outcome._replace(value=adopt_pixels(library, upscaled[0]) if upscaled.data else None)


def check_lora(context: Any, file: str | Path) -> Outcome:
    """Hand over the plan of a LoRA file whose pairs have the tiny model's own names."""
    marshaller = Marshaller(library)
    plans = fill_plans(library, marshaller, [_plan(Path(file))])
    alive.append(marshaller)
    return call(lib.sdg_check_loras, context, plans, 1, new("sdg_lora_report **"))


def _plan(file: Path) -> LoraPlan:
    _, tensors = read_header(file)
    modules = []
    for up, tensor in tensors.items():
        if up.endswith(".lora_B.weight"):
            module = up.removesuffix(".lora_B.weight")
            names = {"up": up, "down": f"{module}.lora_A.weight"}
            rows = {"up": tensor.shape[0], "down": tensor.shape[1]}
            modules.append(Module(module, "lora", names, rows, (Place(f"model.{module}.weight"),)))
    return LoraPlan(str(file), False, tuple(modules), len(tensors), ())


def same(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> bool:
    return bool(np.array_equal(first, second))
