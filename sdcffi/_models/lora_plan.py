"""Plan what the engine does with a LoRA file: each module of the file gets its places among the model's weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ..errors import LoraError
from ..params.lora_plan import LoraPlan, Module, Place
from ..params.lora_weights import Weights

if TYPE_CHECKING:
    from ..params.lora import Lora
    from .lora_file import LoraFile
    from .lora_modules import Adapter

__all__ = ["Finder", "plan_lora"]

_SPELLINGS = {"oft_unet_": "lora_unet_", "oft_te": "lora_te"}  # prefixes of kohya's OFT


class Finder(Protocol):
    """Finds a model's weights by the names that tools give to its layers: `lora_names.Names`."""

    def find(self, module: str) -> tuple[Place, ...] | None:
        """Return the places of a module's weight; None if it is unknown."""

    def find_bias(self, module: str) -> tuple[Place, ...] | None:
        """Return the places of a module's bias; None if it is unknown."""

    def explain(self, module: str) -> str:
        """Return why a module is unknown."""


def plan_lora(file: LoraFile, names: Finder, lora: Lora) -> LoraPlan:
    """Plan a LoRA for a model.

    Parameters
    ----------
    file : LoraFile
        The file.
    names : Names
        Finds the model's weights.
    lora : Lora
        What the user asked for: strengths of parts and blocks, and for which model it is.

    Returns
    -------
    LoraPlan
        Every tensor of the file is in a module of it, or left out with a reason.

    Raises
    ------
    LoraError
        If the file is not listed, or has no tensors.
    ValueError
        If the strengths of blocks are for another model, or name a layer that the file does not have.
    """
    if not file.tensors:
        raise LoraError(f"LoRA {file.path} has no tensors that could be applied")
    weights = Weights(lora.weights, f"weights of LoRA {file.path}")
    left_out = dict(file.left_out)
    modules: list[Module] = []
    for adapter in file.adapters:
        places, reason = _places(adapter, names)
        if places is None:
            left_out |= dict.fromkeys(adapter.used, reason)
        else:
            strength = weights.of(places[0].weight, adapter.module)
            modules.append(_module(adapter, places, strength))
    weights.check_matched()
    ordered = tuple((name, left_out[name]) for name in file.tensors if name in left_out)
    return LoraPlan(str(file.path), lora.is_high_noise, tuple(modules), len(file.tensors), ordered)


def _places(adapter: Adapter, names: Finder) -> tuple[tuple[Place, ...] | None, str]:
    module = adapter.module
    for prefix, usual in _SPELLINGS.items():
        if module.startswith(prefix):
            module = usual + module.removeprefix(prefix)
    if adapter.on == "bias":
        places = names.find_bias(module)
        if places is None and names.find(module) is not None:
            return None, "the model's layer has no bias"
    else:
        places = names.find(module)
    if not places:
        return None, names.explain(module)
    if adapter.on == "embedding":
        places = tuple(replace(place, transposed=not place.transposed) for place in places)
    return places, ""


def _module(adapter: Adapter, places: tuple[Place, ...], strength: float) -> Module:
    return Module(
        name=adapter.module,
        kind=adapter.kind,
        tensors=adapter.tensors,
        rows=adapter.rows,
        places=places,
        scale=adapter.strength.scale,
        strength=strength,
        used=adapter.used,
        constraint=adapter.constraint,
        offset=adapter.offset,
        on_input=adapter.on_input,
        inverted=adapter.inverted,
        terms=adapter.terms,
    )
