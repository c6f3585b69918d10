"""`Capabilities`: what a build of the engine can do with a loaded model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .._checks.samplers import refused_samplers, refused_schedulers
from .._models.weight_types import is_writable
from .._public import public

if TYPE_CHECKING:
    from .._bindings.requests import Offer
    from .._machine.devices import Device
    from .._models.files import Model

__all__ = ["Capabilities", "describe"]


@public
@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do, returned by `Engine.capabilities`.

    Names are those that the keywords of `Engine` and `Engine.generate` take. They are read from the header that was
    built; names that have no effect on this model, or are refused for it, are left out. A bool is None if the model's
    architecture is not known.

    Attributes
    ----------
    family, title : str or None
        Architecture of the model: ``"flux2"``, and its title: ``"FLUX.2"``. None: not known.
    image, video : bool
        Whether it can generate images, and videos.
    init_image, mask_image, ref_images, control_image : bool or None
        Whether the model uses these inputs.
    photo_maker : bool
        Whether PhotoMaker is loaded.
    embeddings : bool or None
        Whether the model takes textual-inversion embeddings.
    pixel_multiple : int or None
        Number of pixels to whose multiples width and height are rounded up. None: not known.
    samplers, schedulers : tuple of str
        Names for ``sampler=`` and ``scheduler=``.
    default_sampler, default_scheduler : str
        Those that the engine takes if they are None.
    cache_modes : tuple of str
        Names for ``Cache(mode=)``.
    hires_upscalers : tuple of str
        Names for ``Hires(upscaler=)``.
    preview_modes : tuple of str
        Names for ``preview=``.
    lora_apply_modes, rngs, predictions : tuple of str
        Names for ``lora_apply_mode=``, ``rng=`` and ``prediction=`` of `Engine`.
    weight_types : tuple of str
        Names for ``type=`` of `Engine` and of `convert`.
    engine_commit : str
        Commit of stable-diffusion.cpp that was built.
    backend, device : str
        Backend and device that compute: ``"cuda"``, ``"NVIDIA H200"``.
    """

    family: str | None
    title: str | None
    image: bool
    video: bool
    init_image: bool | None
    mask_image: bool | None
    ref_images: bool | None
    control_image: bool | None
    photo_maker: bool
    embeddings: bool | None
    pixel_multiple: int | None
    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]
    default_sampler: str
    default_scheduler: str
    cache_modes: tuple[str, ...]
    hires_upscalers: tuple[str, ...]
    preview_modes: tuple[str, ...]
    lora_apply_modes: tuple[str, ...]
    rngs: tuple[str, ...]
    predictions: tuple[str, ...]
    weight_types: tuple[str, ...]
    engine_commit: str
    backend: str
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as a dictionary for `json.dumps`; tuples become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def describe(offer: Offer, model: Model, device: Device) -> Capabilities:
    """Return the capabilities, from what the build offers, the model's files, and the device."""
    kind, names = model.architecture, offer.names
    upscalers = names["sd_hires_upscaler_t"]
    return Capabilities(
        family=kind.name if kind else None,
        title=kind.title if kind else None,
        image=offer.image,
        video=offer.video,
        init_image=model.encodes,
        mask_image=model.encodes,
        ref_images=model.encodes and kind.takes_references if kind else None,
        control_image=model.takes_hint,
        photo_maker=any(file.slot == "photo_maker_path" for file in model.files),
        embeddings=kind.takes_embeddings if kind else None,
        pixel_multiple=model.pixel_multiple,
        samplers=_without(names["sample_method_t"], refused_samplers(model)),
        schedulers=_without(names["scheduler_t"], refused_schedulers(model)),
        default_sampler=offer.default_sampler,
        default_scheduler=offer.default_scheduler,
        cache_modes=_without(names["sd_cache_mode_t"], ("disabled", *(kind.idle_caches if kind else ()))),
        hires_upscalers=_without(
            upscalers,
            ("None", *(name for name in upscalers if model.encodes is False and not name.startswith("Latent"))),
        ),
        preview_modes=_without(names["preview_t"], ("none",) if "taesd" in model.parts else ("none", "tae")),
        lora_apply_modes=names["lora_apply_mode_t"],
        rngs=names["rng_type_t"],
        predictions=names["prediction_t"],
        weight_types=tuple(filter(is_writable, names["sd_type_t"])),
        engine_commit=offer.commit,
        backend=device.backend,
        device=device.description,
    )


def _without(names: tuple[str, ...], left_out: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)
