"""Check that the tensors of a module of a LoRA file fit together, before native code multiplies them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .headers import INTEGERS, HeaderError
from .lora_families import Shape
from .lora_roles import KINDS, partner

__all__ = ["Part", "Parts", "check_module", "is_old_glora", "rank_of", "weight_shape"]

_NUMBERS = ("alpha", "scale", "scalar", "on_input")


@dataclass(frozen=True)
class Part:
    """One tensor of a module.

    Attributes
    ----------
    name : str
        As in the file.
    dtype : str
        The file's name of the type.
    shape : tuple of int
        Rows first.
    value : float or None
        Its value, if it has one element and was read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    value: float | None = None


Parts = Mapping[str, Part]


def check_module(parts: Parts) -> list[str]:
    """Check a module.

    Parameters
    ----------
    parts : mapping of str to Part
        Its tensors by role.

    Returns
    -------
    list of str
        Kinds of adapter that the tensors form, in the order of `KINDS`.

    Raises
    ------
    HeaderError
        If a tensor is missing, or shapes do not fit. The message has the tensor and the reason.
    """
    for role, part in parts.items():
        if part.dtype == "U8" or (part.dtype in INTEGERS and role not in _NUMBERS):
            legal = f"{', '.join(_NUMBERS[:-1])} and {_NUMBERS[-1]}"
            raise HeaderError(f"tensor {part.name!r} has type {part.dtype}, but only {legal} may be integers")
    kinds = [kind for kind, roles in KINDS.items() if roles & parts.keys()]
    for kind in kinds:
        if kind in _CHECKS:
            _CHECKS[kind](parts)
    for role in _NUMBERS if set(kinds) - {"diff"} else ():
        if role in parts:
            _check_number(role, parts[role])
    return kinds


def _check_number(role: str, part: Part) -> None:
    if math.prod(part.shape) != 1:
        raise HeaderError(f"tensor {part.name!r}: {role} must be a single number, not of shape {list(part.shape)}")
    if part.value is not None and not math.isfinite(part.value):
        raise HeaderError(f"tensor {part.name!r}: {role} must be finite, not {part.value}")


def _check_pair(parts: Parts) -> None:
    pairs = [pair for pair in (("down", "up"), ("embedding_down", "embedding_up")) if {*pair} & parts.keys()]
    for down, up in pairs or [("down", "up")]:
        if down not in parts or up not in parts:
            name = next(parts[role].name for role in (down, up, "mid", "up_bias") if role in parts)
            missing = "up" if down in parts else "down"
            other = f" {partner(name)!r}" if partner(name) else ""
            raise HeaderError(f"tensor {name!r}: the matching {missing} tensor{other} is missing")
        rank = _check_inner(parts, up, down)
    if "mid" in parts:
        part = parts["mid"]
        if len(part.shape) < 2 or part.shape[:2] != (rank, rank):
            raise HeaderError(
                f"tensor {part.name!r}: shape must begin with {[rank, rank]}, twice the rank, not be {list(part.shape)}"
            )


def _check_inner(parts: Parts, left: str, right: str) -> int:
    """Check that ``left @ right`` is defined; return the dimension that they share, the rank."""
    rank, right_rank = _matrix(parts[left])[1], _matrix(parts[right])[0]
    if rank != right_rank:
        raise HeaderError(
            f"tensor {parts[left].name!r} has rank {rank} (shape {list(parts[left].shape)}), but"
            f" {parts[right].name!r} has rank {right_rank} (shape {list(parts[right].shape)})"
        )
    return rank


def _matrix(part: Part) -> tuple[int, ...]:
    """Return a factor's shape. ggml drops a first dimension of 1, so gguf files lack it."""
    shape = (1, *part.shape) if len(part.shape) in (1, 3) else part.shape
    if len(shape) < 2:
        raise HeaderError(
            f"tensor {part.name!r}: a factor must be a matrix or a convolution, not of shape {list(part.shape)}"
        )
    return shape


def _check_loha(parts: Parts) -> None:
    _check_complete(parts, ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    if ("hada_t1" in parts) != ("hada_t2" in parts):
        _check_complete(parts, ("hada_t1", "hada_t2"))
    sizes = []
    for index in "12":
        left, right, core = f"hada_w{index}_a", f"hada_w{index}_b", f"hada_t{index}"
        if core in parts:
            _check_core(parts, core, left, right)
            sizes.append((_matrix(parts[left])[1], _matrix(parts[right])[1:], parts[core].shape[2:]))
        else:
            _check_inner(parts, left, right)
            sizes.append((_matrix(parts[left])[0], _matrix(parts[right])[1:], ()))
    if sizes[0] != sizes[1]:
        raise HeaderError(f"tensor {parts['hada_w2_a'].name!r}: hada_w1 and hada_w2 give weights of different shapes")


def _check_core(parts: Parts, core: str, left: str, right: str) -> None:
    part, expected = parts[core], (_matrix(parts[left])[0], _matrix(parts[right])[0])
    if part.shape[:2] != expected:
        raise HeaderError(
            f"tensor {part.name!r}: shape must begin with the ranks {list(expected)}, not be {list(part.shape)}"
        )


def _check_lokr(parts: Parts) -> None:
    for whole in ("lokr_w1", "lokr_w2"):
        factors = (f"{whole}_a", f"{whole}_b")
        if whole in parts:
            if both := [role for role in factors if role in parts]:
                raise HeaderError(
                    f"tensor {parts[both[0]].name!r}: the module also has {whole} itself; one of the two must be"
                    " removed"
                )
            _matrix(parts[whole])
            continue
        _check_complete(parts, factors, instead=whole)
        if whole == "lokr_w2" and "lokr_t2" in parts:
            _check_core(parts, "lokr_t2", *factors)
        else:
            _check_inner(parts, *factors)
    if "lokr_t2" in parts and "lokr_w2" in parts:
        raise HeaderError(f"tensor {parts['lokr_t2'].name!r}: the module has lokr_w2 itself, which needs no core")


def _check_complete(parts: Parts, wanted: Iterable[str], instead: str = "") -> None:
    missing = [role for role in wanted if role not in parts]
    if missing:
        name = next((parts[role].name for role in wanted if role in parts), next(iter(parts.values())).name)
        whole = f" (or {instead})" if instead else ""
        raise HeaderError(f"tensor {name!r}: the module lacks {', '.join(missing)}{whole}")


def _check_glora(parts: Parts) -> None:
    _check_complete(parts, ("glora_a1", "glora_a2", "glora_b1", "glora_b2"))
    left, right = ("2", "1") if is_old_glora(parts) else ("1", "2")
    for half in "ab":
        _check_inner(parts, f"glora_{half}{left}", f"glora_{half}{right}")


def is_old_glora(parts: Parts) -> bool:
    """Return whether ``x1`` is the factor that reads, as in LyCORIS before 1.9, and not ``x2``."""
    a1, a2, b1, b2 = (_matrix(parts[f"glora_{role}"]) for role in ("a1", "a2", "b1", "b2"))
    is_old = b2[1] == b1[0] == a1[0] == a2[1]
    is_new = b2[0] == b1[1] == a1[1] == a2[0]
    return is_old and (not is_new or b1[0] < b1[1])  # where both are possible, the rank is the smaller one


def _check_oft(parts: Parts) -> None:
    if "oft_packed" in parts:
        part = parts["oft_packed"]
        size = (1 + math.isqrt(1 + 8 * part.shape[-1])) // 2 if part.shape else 0
        if len(part.shape) != 2 or size * (size - 1) // 2 != part.shape[-1]:
            raise HeaderError(
                f"tensor {part.name!r}: rows must be upper triangles of square blocks, not of shape {list(part.shape)}"
            )
        return
    is_boft = bool({"boft_R", "boft_s"} & parts.keys())
    _check_complete(parts, ("boft_R", "boft_s") if is_boft else ("oft_blocks",))
    part = parts["boft_R" if is_boft else "oft_blocks"]
    if len(part.shape) not in (3, 4) or part.shape[-1] != part.shape[-2]:
        raise HeaderError(f"tensor {part.name!r}: blocks must be square matrices, not of shape {list(part.shape)}")
    rows = math.prod(part.shape[-3:-1])
    if "rescale" in parts and math.prod(parts["rescale"].shape) != rows:
        rescale = parts["rescale"]
        raise HeaderError(f"tensor {rescale.name!r} must have {rows} elements, not shape {list(rescale.shape)}")


def _check_ia3(parts: Parts) -> None:
    if "ia3_l" not in parts:
        _check_complete(parts, ("ia3_weight",))


_CHECKS = {
    "lora": _check_pair,
    "loha": _check_loha,
    "lokr": _check_lokr,
    "glora": _check_glora,
    "oft": _check_oft,
    "ia3": _check_ia3,
}


def rank_of(parts: Parts) -> int | None:
    """Return the rank of a module. None: its kind has none."""
    if "glora_a2" in parts and "glora_b2" in parts:
        return _matrix(parts["glora_b1" if is_old_glora(parts) else "glora_b2"])[0]
    for role in ("down", "embedding_down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if role in parts:
            return _matrix(parts[role])[0]
    return None


def weight_shape(parts: Parts) -> Shape | None:
    """Return rows and columns of the weight that a module changes; None if its factors do not say."""
    if "up" in parts:
        return _matrix(parts["up"])[0], _matrix(parts["down"])[1]
    if "hada_w1_a" in parts and "hada_t1" not in parts:
        return _matrix(parts["hada_w1_a"])[0], _matrix(parts["hada_w1_b"])[1]
    if "glora_b1" in parts:
        rows, columns = ("glora_b2", "glora_b1") if is_old_glora(parts) else ("glora_b1", "glora_b2")
        return _matrix(parts[rows])[0], _matrix(parts[columns])[1]
    if "lokr_w1" in parts or "lokr_w1_a" in parts:
        return _kronecker_shape(parts)
    if "diff" in parts and len(parts["diff"].shape) == 2:
        rows_, columns_ = parts["diff"].shape
        return rows_, columns_
    return None


def _kronecker_shape(parts: Parts) -> Shape:
    sizes = []
    for whole in ("lokr_w1", "lokr_w2"):
        if whole in parts:
            sizes.append(_matrix(parts[whole])[:2])
        else:
            left, right = _matrix(parts[f"{whole}_a"]), _matrix(parts[f"{whole}_b"])
            has_core = whole == "lokr_w2" and "lokr_t2" in parts
            sizes.append((left[1] if has_core else left[0], right[1]))
    (rows, columns), (more_rows, more_columns) = sizes
    return rows * more_rows, columns * more_columns
