"""The engine's samplers and schedules by themselves: on a denoiser of the test's, and without a model's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcffi._bindings.library import load
from sdcffi._bindings.marshal import Marshaller
from sdcffi._bindings.plugins import plugins_of
from sdcffi._machine.backends import CPU
from sdcffi.params.context import ContextParams
from sdcffi.params.sampling import SampleParams

Array = npt.NDArray[np.float64]
Denoiser = Callable[[Array, float], Array]


class RefusedError(Exception):
    """The engine's reason why it does not sample so."""


def names(enum: str) -> tuple[str, ...]:
    """The names of an enumeration in the built header."""
    library = load()
    return tuple(library.enum(library.ffi.typeof(f"enum {enum}")))


def run_sampler(
    name: str,
    denoiser: Denoiser,
    x: Array,
    sigmas: Array,
    *,
    is_flow: bool = False,
    eta: float = 0.0,
    seed: int = 1,
    calls: list[tuple[float, int]] | None = None,
) -> Array:
    """Run a sampler of the engine; `calls` receives the noise level and the step of each call of the denoiser."""
    library = load()
    ffi, error = library.ffi, library.ffi.new("sdg_error *")

    def denoise(at: Any, sigma: float, step: int, denoised: Any, _data: Any) -> None:
        if calls is not None:
            calls.append((sigma, step))
        latent = np.frombuffer(ffi.buffer(at, 4 * x.size), np.float32).astype(float)
        ffi.buffer(denoised, 4 * x.size)[:] = denoiser(latent, sigma).astype(np.float32).tobytes()

    callback = ffi.callback("sdg_denoise_cb_t", denoise)
    levels = ffi.new("float[]", [float(sigma) for sigma in sigmas])
    latent = ffi.new("float[]", [float(value) for value in x])
    method = library.enum(ffi.typeof("enum sample_method_t"))[name]
    status = library.lib.sdg_run_sampler(
        method, levels, len(sigmas), is_flow, eta, seed, callback, ffi.NULL, latent, x.size, error
    )
    if status != library.lib.SDG_OK:
        raise RefusedError(library.text(error.text))
    return np.frombuffer(ffi.buffer(latent), np.float32).astype(float)


def noises(size: int, count: int, seed: int = 1) -> Array:
    """The first noises that a sampler adds: lcm, which denoises to nothing, has nothing else."""
    found: list[Array] = []

    def to_nothing(x: Array, _sigma: float) -> Array:
        found.append(x.copy())
        return np.zeros_like(x)

    run_sampler("lcm", to_nothing, np.zeros(size), np.ones(count + 2), seed=seed)
    return np.array(found[1 : count + 1])


@contextmanager
def context_of(files: dict[str, Any], **options: Any) -> Iterator[Any]:
    """A model without its weights."""
    library, marshaller = load(), Marshaller(load())
    plugins_of(library).use(CPU, tuple)
    fields = {"model": "model_path", "diffusion_model": "diffusion_model_path", "vae": "vae_path"}
    fields |= {key: f"{key}_path" for key in ("taesd", "clip_l", "clip_g", "t5xxl", "llm", "clip_vision")}
    fields["high_noise_diffusion_model"] = "high_noise_diffusion_model_path"
    params = ContextParams(**{fields[key]: value for key, value in files.items() if key in fields}, **options)
    out, error = library.ffi.new("sd_ctx_t **"), library.ffi.new("sdg_error *")
    library.lib.sdg_set_callbacks(library.ffi.NULL, library.ffi.NULL, library.ffi.NULL)
    status = library.lib.sdg_new_empty_context(marshaller.struct(params), out, error)
    assert status == library.lib.SDG_OK, library.text(error.text)
    try:
        yield out[0]
    finally:
        library.lib.sdg_free_context(out[0], error)


def prediction(context: Any) -> str:
    """How the output of a model is meant."""
    return load().text(load().lib.sdg_prediction(context))


def schedule(
    context: Any, scheduler: str | None, steps: int, size: tuple[int, int] = (1024, 1024), **more: Any
) -> Array:
    """The noise levels of an image."""
    library, marshaller = load(), Marshaller(load())
    sample = marshaller.struct(SampleParams(scheduler=scheduler, sample_steps=steps, **more))
    sigmas, count = library.ffi.new("float[]", steps + 16), library.ffi.new("int *", steps + 16)
    error = library.ffi.new("sdg_error *")
    status = library.lib.sdg_schedule(context, sample, *size, sigmas, count, error)
    if status != library.lib.SDG_OK:
        raise RefusedError(library.text(error.text))
    return np.array(list(sigmas[0 : count[0]]))
