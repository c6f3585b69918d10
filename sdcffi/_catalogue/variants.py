"""Choose the variant of a model that fits the memory, by the sizes of its files and the estimate for an image.

Before a download, the headers of the files cannot be read, so weights count with the sizes of their files.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._machine.devices import Device
from .._machine.limits import free_memory
from .._models.architectures import FAMILIES
from .._models.files import Model
from .._models.memory import compute_bytes
from .._references.weights import size_text
from ..params.context import ContextParams
from ..params.image import ImageParams
from .entries import ModelEntry, Variant
from .files import files_of, has, total

__all__ = ["Room", "choose", "needed", "room_of"]

_SIDE = 512  # pixels, where no size is recommended
_ON_CPU = {"clip_l", "clip_g", "t5xxl", "llm", "clip_vision", "llm_vision"}  # with clip_on_cpu


@dataclass(frozen=True)
class Room:
    """The memory in which a model has to fit.

    Attributes
    ----------
    free : int or None
        In bytes. None: unknown.
    place : str
        Whose memory it is, for people.
    without : frozenset of str
        Keywords of files that are kept elsewhere.
    """

    free: int | None
    place: str
    without: frozenset[str] = frozenset()


def room_of(device: Device | None, params: ContextParams) -> Room:
    """Return the memory that the weights of a model go to.

    Parameters
    ----------
    device : Device or None
        Device that computes. None: the CPU.
    params : ContextParams
        Options that say where weights are kept.
    """
    if device is None or device.type == "cpu" or params.offload_params_to_cpu:
        return Room(free_memory(), "this machine")
    without = _ON_CPU if params.keep_clip_on_cpu else set[str]()
    without |= {"vae", "taesd"} if params.keep_vae_on_cpu else set()
    return Room(device.memory_free or None, device.description, frozenset(without))


def needed(entry: ModelEntry, variant: Variant, room: Room) -> int | None:
    """Estimate the memory for the weights and for one image of the recommended size, in bytes.

    Parameters
    ----------
    entry : ModelEntry
    variant : Variant
        One of its variants.
    room : Room

    Returns
    -------
    int or None
        None if the size of a file is not known. For a family without an estimate, that of the weights alone.
    """
    weights = total(file for role, file in variant.files.items() if role not in room.without)
    if weights is None:
        return None
    architecture = FAMILIES.get(entry.family)
    width, height = (
        int(entry.parameters[name].value or 0) if name in entry.parameters else _SIDE for name in ("width", "height")
    )
    context = ContextParams(taesd_path="taesd" if "taesd" in variant.files else None)
    image = ImageParams(width=width, height=height)
    return weights + (compute_bytes(Model(architecture=architecture), image, context) or 0)


def choose(entry: ModelEntry, room: Room) -> tuple[Variant, str]:
    """Choose the best variant that fits, among those that are on this machine if one of them does.

    So a model that was downloaded once is not downloaded again because there is more memory now.

    Parameters
    ----------
    entry : ModelEntry
    room : Room

    Returns
    -------
    variant : Variant
        If none fits, or the memory is unknown: the smallest.
    reason : str
        Why, for people.
    """
    variants = list(entry.variants.values())
    if len(variants) == 1:
        return variants[0], "the only one"
    sizes = {variant.name: needed(entry, variant, room) for variant in variants}
    if room.free is None:
        return variants[-1], f"the smallest, because the free memory of {room.place} is unknown"
    fitting = [variant for variant in variants if (size := sizes[variant.name]) is not None and size <= room.free]
    free = f"of {size_text(room.free)} that are free on {room.place}"
    for variant in fitting:
        if has(files_of(entry, variant)):
            best = "the best that fits" if variant is fitting[0] else "the best of those that are downloaded and fit"
            return variant, f"{best}: about {size_text(sizes[variant.name])} {free}"
    if fitting:
        return fitting[0], f"the best that fits: about {size_text(sizes[fitting[0].name])} {free}"
    return variants[-1], f"the smallest, but none fits: about {size_text(sizes[variants[-1].name])} {free}"
