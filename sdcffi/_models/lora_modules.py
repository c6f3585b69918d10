"""Sort the tensors of a LoRA file into modules, each with its kind, its strength and the tensors by role."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .companions import read_by
from .headers import HeaderError
from .lora_checks import Part, Parts, check_module, is_old_glora, rank_of, weight_shape
from .lora_families import Shape
from .lora_roles import KINDS, SHARED, split_name, unknown_kind
from .lora_strength import Settings, Strength, settings_for, strength_of

__all__ = ["Adapter", "sort_tensors"]

# Roles in the file that have another name in a plan.
_PLAN_ROLES = {
    "embedding_down": "down",
    "embedding_up": "up",
    "oft_blocks": "blocks",
    "oft_packed": "blocks",
    "boft_R": "blocks",
    "boft_s": "rescale",
    "ia3_l": "vector",
    "ia3_weight": "vector",
    "dora_scale": "magnitude",
}
_OLD_GLORA = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
_MOST_TERMS = 100  # of a series
_RANKED = ("lora", "loha", "lokr", "glora")
_WHOLE = ("diff", "vector", "magnitude", "rescale", "blocks")  # other tensors are matrices, or kernels of convolutions


@dataclass(frozen=True)
class Adapter:
    """What a file has for one weight or bias.

    Attributes
    ----------
    module : str
        The layer, as the file spells it.
    kind : str
        See `params.lora_plan.Module`.
    on : str
        ``"weight"``, ``"bias"`` or ``"embedding"``, whose difference the file has as the transpose.
    tensors : mapping of str to str
        Names of tensors by the roles of a plan.
    used : tuple of str
        Names of all tensors that it stands for, ``alpha`` and the like included.
    strength : Strength
        Factor of the difference.
    rank : int or None
        None: its kind has none.
    shape : (int, int) or None
        Rows and columns of the weight. None: the factors do not say.
    is_convolution : bool
        Whether a factor is stored as a convolution.
    rows : mapping of str to int
        First dimension of each tensor, by role.
    constraint, offset, on_input, inverted, terms
        See `params.lora_plan.Module`.
    """

    module: str
    kind: str
    on: str
    tensors: Mapping[str, str]
    used: tuple[str, ...]
    strength: Strength = field(default_factory=Strength)
    rank: int | None = None
    shape: Shape | None = None
    is_convolution: bool = False
    rows: Mapping[str, int] = field(default_factory=dict)
    constraint: float = 0.0
    offset: float = 0.0
    on_input: bool = False
    inverted: bool = False
    terms: int = 0


def sort_tensors(
    tensors: Iterable[Part], settings: Sequence[Settings], metadata: Mapping[str, str]
) -> tuple[list[Adapter], dict[str, str]]:
    """Sort tensors into modules.

    Parameters
    ----------
    tensors : iterable of Part
        All of the file, with the values of those that have one element.
    settings : sequence of Settings
        See `read_settings`.
    metadata : mapping of str to str
        Of the file.

    Returns
    -------
    adapters : list of Adapter
        In the order of the file.
    unused : dict of str to str
        Name of each other tensor, and the reason.

    Raises
    ------
    HeaderError
        If the tensors of a module do not fit together.
    """
    tensors = list(tensors)
    _refuse_scales([part.name for part in tensors])
    modules: dict[str, dict[str, Part]] = {}
    unused: dict[str, str] = {}
    refused: dict[str, str] = {}  # by module
    for part in tensors:
        if unknown := unknown_kind(part.name):
            unused[part.name] = refused[unknown[1]] = (
                f"it is of an adapter of kind {unknown[0]}, which cannot be computed"
            )
            continue
        module, role = split_name(part.name)
        if not role:
            unused[part.name] = "it is of an unknown kind: its name does not end as a tensor of an adapter does"
            continue
        parts = modules.setdefault(module, {})
        if role in parts:
            raise HeaderError(f"tensor {part.name!r} and {parts[role].name!r} are the same part of the same module")
        parts[role] = part
    adapters = []
    for module, parts in modules.items():
        if module in refused:
            unused |= {part.name: refused[module] for part in parts.values()}
            continue
        unused |= _drop_strays(parts)
        adapters += _adapters(module, parts, settings, metadata)
    return adapters, unused


def _refuse_scales(names: list[str]) -> None:
    found = frozenset(names)
    for name in names:
        factor = read_by(name, found)
        if factor and split_name(factor)[1] not in ("", "ia3_weight"):  # whose layer may have a scale of its own
            raise HeaderError(
                f"tensor {name!r} says how {factor!r} is to be read, as a scale does, which is not done in LoRA files:"
                " get the LoRA in F32, F16 or BF16"
            )


def _drop_strays(parts: dict[str, Part]) -> dict[str, str]:
    """Remove parts that belong to no kind that the module has; return them with the reasons."""
    reasons: dict[str, str] = {}
    if "ia3_weight" in parts and "on_input" not in parts:
        reasons["ia3_weight"] = "it is a whole weight, not a difference"
    if "rescale" in parts and not {"oft_blocks", "oft_packed"} & parts.keys():
        reasons["rescale"] = "its module has no oft_blocks"
    if kinds := {"glora_a1", "glora_a2", "glora_b1", "glora_b2"} & parts.keys():
        if len(kinds) < 4 and not any(KINDS[kind] & parts.keys() for kind in ("lora", "loha", "lokr")):
            reasons |= dict.fromkeys(kinds, "it is part of a GLoRA, whose other factors are missing")
        elif len(kinds) < 4:
            reasons |= dict.fromkeys(kinds, "it is a whole weight, not a difference")
    dropped = {parts.pop(role).name: reason for role, reason in reasons.items()}
    if not parts.keys() - SHARED:
        dropped |= {part.name: "its module has no tensor that it could act on" for part in parts.values()}
        parts.clear()
    return dropped


def _adapters(module: str, parts: Parts, settings: Sequence[Settings], metadata: Mapping[str, str]) -> list[Adapter]:
    found: list[Adapter] = []
    kinds = check_module(parts)
    shared = [part.name for role, part in parts.items() if role in SHARED]
    for kind in kinds:
        own = {role: part for role, part in parts.items() if role in KINDS[kind]}
        strength = strength_of(module, kind, parts, settings, metadata)
        for on, roles in _targets(kind, own).items():
            magnitude = {"magnitude", "dora_scale"} & parts.keys() if on == "weight" else set()
            swapped = _OLD_GLORA if kind == "glora" and is_old_glora(parts) else {}
            named = {swapped.get(_plan_role(role), _plan_role(role)): parts[role] for role in (*roles, *magnitude)}
            used = [parts[role].name for role in (*roles, *own.keys() & {"on_input"})]
            found.append(
                Adapter(
                    module,
                    "diff" if on == "bias" and kind != "ia3" else kind,
                    on,
                    {role: part.name for role, part in named.items()},
                    (*used, *shared),
                    strength,
                    rank_of(parts) if on != "bias" and kind in _RANKED else None,
                    weight_shape(parts) if on == "weight" else None,
                    any(len(part.shape) > 2 for part in own.values()) and on == "weight",
                    {role: _rows(role, part.shape) for role, part in named.items()},
                    _constraint(kind, parts),
                    1.0 if "ia3_weight" in own else 0.0,  # LyCORIS has the difference from 1
                    _on_input(kind, parts),
                    *_turn(module, own, settings),
                )
            )
            shared = []  # counted once
    return found


def _targets(kind: str, own: Parts) -> dict[str, list[str]]:
    """Return the roles of a kind by what they change."""
    bias, embedding = {"up_bias", "diff_b"}, {"embedding_down", "embedding_up"}
    roles = [role for role in own if role not in ("on_input",)]
    targets = {
        "weight": [role for role in roles if role not in bias | embedding],
        "embedding": [role for role in roles if role in embedding],
        "bias": [role for role in roles if role in bias],
    }
    if kind == "ia3" and "ia3_l" in own and not _on_input(kind, own):
        targets["bias"] = ["ia3_l"]  # PEFT multiplies the outputs, with the bias in them
    return {on: roles for on, roles in targets.items() if roles}


def _plan_role(role: str) -> str:
    if role in ("up_bias", "diff_b"):
        return "diff"
    role = _PLAN_ROLES.get(role, role)
    return role.removeprefix("hada_").removeprefix("lokr_").removeprefix("glora_")


def _constraint(kind: str, parts: Parts) -> float:
    if kind != "oft" or "oft_blocks" not in parts or "alpha" not in parts:
        return 0.0
    rows = math.prod(parts["oft_blocks"].shape[-3:-1])
    return max(parts["alpha"].value or 0.0, 0.0) * rows  # alpha is LyCORIS' and kohya's constraint per row


def _turn(module: str, own: Parts, settings: Sequence[Settings]) -> tuple[bool, int]:
    """Return whether PEFT's blocks turn the other way round, and the number of terms of their series."""
    if "boft_R" in own:
        return True, 0
    if "oft_packed" not in own:
        return False, 0
    values = (settings_for(module, settings) or Settings("", "")).values
    if not values.get("use_cayley_neumann", True):
        return True, 0  # the exact one is the inverse of the series, in PEFT
    terms = values.get("num_cayley_neumann_terms", 5)
    if isinstance(terms, bool) or not isinstance(terms, int) or not 1 <= terms <= _MOST_TERMS:
        raise HeaderError(f"num_cayley_neumann_terms must be 1 to {_MOST_TERMS}, not {terms!r}")
    return False, terms


def _rows(role: str, shape: tuple[int, ...]) -> int:
    """Return the first dimension. ggml drops one of 1 before others, so gguf files lack it."""
    if role not in _WHOLE and len(shape) in (1, 3):
        return 1
    return shape[0] if shape else 1


def _on_input(kind: str, parts: Parts) -> bool:
    if kind == "oft":
        return "oft_blocks" not in parts
    if "ia3_l" in parts:
        shape = parts["ia3_l"].shape
        return len(shape) == 2 and shape[0] == 1 and shape[1] > 1  # (1, out, 1, 1) of convolutions: outputs
    if kind == "ia3":
        return bool(parts["on_input"].value)
    scale = parts["dora_scale"].shape if "dora_scale" in parts else ()
    return len(scale) > 1 and scale[0] == 1 and math.prod(scale[1:]) > 1
