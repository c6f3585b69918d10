"""The plans of LoRA files as C structs, and what the engine did with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..params.lora import LoraReport
from ..params.lora_plan import LoraPlan, Module, Place

if TYPE_CHECKING:
    from .library import Library
    from .marshal import Marshaller

__all__ = ["as_report", "fill_plans"]


def fill_plans(library: Library, marshaller: Marshaller, plans: Sequence[LoraPlan]) -> Any:
    """Return an array of ``sdg_lora_plan``, which the marshaller owns.

    Raises
    ------
    ValueError
        If a plan has a kind or a role that the library does not know.
    """
    kinds = library.enum(library.ffi.typeof("enum sdg_lora_kind"))
    roles = library.enum(library.ffi.typeof("enum sdg_lora_role"))

    def text(value: str) -> Any:
        return marshaller.text(value, "a name in a LoRA")

    def fill_place(target: Any, place: Place) -> None:
        target.weight = text(place.weight)
        target.weight_row, target.module_row, target.rows = place.weight_row, place.module_row, place.rows
        target.transposed = place.transposed

    def fill_module(target: Any, module: Module) -> None:
        target.kind = _number(kinds, module.kind, "kind of LoRA")
        for role, name in module.tensors.items():
            tensor = target.tensors[_number(roles, role, "role of a LoRA's tensor")]
            tensor.name, tensor.rows = text(name), module.rows.get(role, 0)
        target.scale, target.strength = module.scale, module.strength
        target.constraint, target.offset, target.terms = module.constraint, module.offset, module.terms
        target.on_input, target.inverted = module.on_input, module.inverted
        target.places = marshaller.filled("sdg_lora_place", module.places, fill_place)
        target.place_count = len(module.places)

    def fill_plan(target: Any, plan: LoraPlan) -> None:
        target.path, target.is_high_noise = marshaller.text(plan.path, "LoRA"), plan.is_high_noise
        target.modules = marshaller.filled("sdg_lora_module", plan.modules, fill_module)
        target.module_count = len(plan.modules)

    return marshaller.filled("sdg_lora_plan", plans, fill_plan)


def _number(names: dict[str, int], name: str, what: str) -> int:
    if name not in names:
        raise ValueError(f"the built engine knows no {what} {name!r}; it knows {', '.join(names)}")
    return names[name]


def as_report(library: Library, row: Any, plan: LoraPlan) -> LoraReport:
    """Return what the engine did with a file, in terms of the file's tensors."""

    def texts(array: Any, count: int) -> tuple[str, ...]:
        return tuple(library.text(array[index]) for index in range(count))

    applied = library.ffi.unpack(row.applied, row.module_count) if row.module_count else []
    used = {
        name for module, is_applied in zip(plan.modules, applied, strict=True) if is_applied for name in module.used
    }
    named = [name for module in plan.modules for name in module.used] + [name for name, _ in plan.left_out]
    return LoraReport(
        plan.path,
        float(row.multiplier),
        bool(row.is_high_noise),
        len(used),
        plan.total,
        tuple(dict.fromkeys(name for name in named if name not in used)),
        "immediately" if row.immediately else "at_runtime",
        texts(row.types, row.type_count),
        float(row.seconds),
        texts(row.misfits, row.misfit_count),
    )
