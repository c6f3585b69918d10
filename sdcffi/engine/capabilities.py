"""What a build of the engine and a loaded model can do together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

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
    """What can be asked of an engine; given by `Engine.capabilities`.

    Names are those that the keywords of `Engine` and `Engine.generate` take: read from the header that was built, less
    what does nothing, or is refused, for this model. A truth value is None where the model's kind is not known.

    Attributes
    ----------
    family, title : str or None
        Kind of model: ``"flux2"``, ``"FLUX.2"``. None where it is not known.
    image, video : bool
        Whether it makes pictures, or videos.
    init_image, mask_image, ref_images, control_image : bool or None
        Whether those keywords act.
    photo_maker, embeddings : bool or None
        Whether PhotoMaker is loaded, and whether the model takes textual inversion.
    pixel_multiple : int or None
        What width and height are rounded up to.
    samplers, schedulers : tuple of str
        For ``sampler=`` and ``scheduler=``.
    default_sampler, default_scheduler : str
        What None stands for.
    cache_modes : tuple of str
        For ``Cache(mode=)``.
    hires_upscalers : tuple of str
        For ``Hires(upscaler=)``.
    preview_modes : tuple of str
        For ``preview=``.
    lora_apply_modes, rngs, predictions : tuple of str
        For ``lora_apply_mode=``, ``rng=`` and ``prediction=`` of `Engine`.
    weight_types : tuple of str
        For ``type=`` of `Engine` and of `convert`.
    engine_commit : str
        Commit of stable-diffusion.cpp that was built.
    backend, device : str
        What it computes on: ``"cuda"``, ``"NVIDIA H200"``.
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
        """Give the attributes as a dictionary that `json.dumps` takes; names are lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def describe(offer: Offer, model: Model, device: Device) -> Capabilities:
    """Put together what the build offers, what the model's files are, and what they run on."""
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
        samplers=names["sample_method_t"],
        schedulers=_without(names["scheduler_t"], () if not kind or kind.has_ays else ("ays",)),
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
