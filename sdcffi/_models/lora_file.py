"""Read and check the header of a LoRA file before native code reads the file.

On a faulty adapter the engine mostly logs an error and generates without it, or ends the process. Names are split as in
`convert_tensor_name` of name_conversion.cpp: each tensor is a part (``up``, ``down``, ``alpha``, ...) of a module.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from ..errors import LoraError, LoraNotFoundError
from .headers import INTEGERS, HeaderError, Tensor, read_header
from .lora_families import Shape, guess_architecture, guess_naming

__all__ = ["LoraFile", "read_lora"]

_PAIRS = {  # down, up
    ".lora_down.weight": ".lora_up.weight",
    ".lora.down.weight": ".lora.up.weight",
    "_lora.down.weight": "_lora.up.weight",
    ".lora_A.weight": ".lora_B.weight",
    ".lora_A.default.weight": ".lora_B.default.weight",
    ".weight.lora_down": ".weight.lora_up",
    ".lora_linear_layer.down.weight": ".lora_linear_layer.up.weight",  # the engine ignores this pair
}
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
_SUFFIXES = {
    **{down: "down" for down in _PAIRS},
    **{up: "up" for up in _PAIRS.values()},
    **{suffix: "mid" for suffix in (".lora_mid.weight", ".lora.mid.weight", "_lora.mid.weight", ".weight.lora_mid")},
    **{f".{part}": part for part in (*_HADA, "hada_t1", "hada_t2", *_LOKR, "lokr_t2", "scale", "diff", "diff_b")},
    ".alpha": "alpha",
    ".lora_linear": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "dora_scale",
    ".lora_magnitude_vector.weight": "dora_scale",
    ".lora_magnitude_vector.default.weight": "dora_scale",
}
_NUMBERS = ("alpha", "scale")
_SCALAR = {"F32": "<f", "F16": "<e", "F64": "<d", "I32": "<i", "I64": "<q"}

_Parts = dict[str, tuple[str, Tensor]]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file as its header describes it.

    Attributes
    ----------
    path : Path
        Absolute path, symbolic links followed.
    format : str
        ``"safetensors"``, ``"gguf"``, or ``"torch"``, whose contents are not read.
    size : int
        Size of the file, in bytes.
    tensors : mapping of str to (str, tuple of int)
        dtype and shape (rows first), by name.
    kinds : tuple of str
        Kinds that it has: ``"lora"``, ``"locon"`` (on convolutions), ``"loha"``, ``"lokr"``, ``"diff"``, ``"dora"``.
        ``("unknown",)`` for ``"torch"``. Empty if nothing in the file is an adapter.
    targets : tuple of str
        Modules that it changes, as the file spells them.
    ranks : mapping of str to int
        Rank of each module that has one.
    alphas : mapping of str to float
        Alpha of each module that has one.
    unused : tuple of str
        Tensors whose names the engine does not recognise as part of an adapter.
    architecture : str or None
        Family of models, see `guess_architecture`. None: unknown.
    architecture_reason : str
        The evidence for it, or the reason why it is unknown.
    naming : str or None
        ``"kohya"``, ``"diffusers"``, ``"lycoris"``, ``"underscore"``, ``"native"``. None: another naming.
    """

    path: Path
    format: str
    size: int
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    kinds: tuple[str, ...]
    targets: tuple[str, ...]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    unused: tuple[str, ...]
    architecture: str | None
    architecture_reason: str
    naming: str | None

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors by dtype, the most frequent first."""
        return dict(Counter(dtype for dtype, _ in self.tensors.values()).most_common())


def read_lora(path: Path) -> LoraFile:
    """Read and check a LoRA file's header. The result is kept until the file changes.

    Parameters
    ----------
    path : Path
        The file. Symbolic links are followed, ``~`` is expanded.

    Returns
    -------
    LoraFile

    Raises
    ------
    LoraError
        If it is not a regular file, if its header is malformed or describes more data than the file has, or if the
        tensors of a module do not fit together. The message has the path, the tensor and the reason.
    """
    try:
        resolved = path.expanduser().resolve()
        if not resolved.exists():
            raise LoraNotFoundError(f"LoRA {path} does not exist")
        if not resolved.is_file():
            raise LoraError(f"LoRA {path} is not a file")
        status = resolved.stat()
        if status.st_size == 0:
            raise LoraError(f"LoRA {path} is empty")
        return _read(resolved, status.st_size, status.st_mtime_ns)
    except LoraError:
        raise
    except (OSError, ValueError, RuntimeError, struct.error) as error:  # RuntimeError: symbolic links that form a loop
        raise LoraError(f"LoRA {path} cannot be used: {error}") from error


@lru_cache(maxsize=32)
def _read(path: Path, size: int, mtime_ns: int) -> LoraFile:
    kind, tensors = read_header(path)
    if kind == "torch":
        return _opaque(path, size)
    if not tensors:
        raise HeaderError("it has no tensors")
    modules, unused = _by_module(tensors)
    shapes: dict[str, Shape | None] = {}
    ranks: dict[str, int] = {}
    kinds: set[str] = set()
    for module, parts in modules.items():
        found = _check_module(parts)
        kinds |= found
        shapes[module] = _weight_shape(parts)
        if rank := _rank(parts):
            ranks[module] = rank
    architecture, reason = guess_architecture(shapes)
    return LoraFile(
        path=path,
        format=kind,
        size=size,
        tensors=MappingProxyType({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}),
        kinds=tuple(sorted(kinds)),
        targets=tuple(modules),
        ranks=MappingProxyType(ranks),
        alphas=MappingProxyType(_alphas(path, modules)),
        unused=tuple(unused),
        architecture=architecture,
        architecture_reason=reason,
        naming=guess_naming(modules),
    )


def _opaque(path: Path, size: int) -> LoraFile:
    nothing: Mapping[str, int] = MappingProxyType({})
    reason = "the contents of PyTorch files are not read"
    return LoraFile(
        path, "torch", size, MappingProxyType({}), ("unknown",), (), nothing, nothing, (), None, reason, None
    )


def _by_module(tensors: Mapping[str, Tensor]) -> tuple[dict[str, _Parts], list[str]]:
    """Sort tensors into modules; return the modules and the tensors that belong to none."""
    modules: dict[str, _Parts] = {}
    for name, tensor in tensors.items():
        module, part = _split(name)
        parts = modules.setdefault(module, {}) if part else {}
        if part in parts:
            raise HeaderError(f"tensor {name!r} and {parts[part][0]!r} are the same part of the same module")
        parts[part] = name, tensor
    bare = {module for module, parts in modules.items() if not parts.keys() - {"alpha", "scale", "dora_scale"}}
    used = {name for module, parts in modules.items() if module not in bare for name, _ in parts.values()}
    return {name: parts for name, parts in modules.items() if name not in bare}, [n for n in tensors if n not in used]


def _split(name: str) -> tuple[str, str]:
    """Return module and part; the part is empty if the tensor is not part of an adapter."""
    for suffix, part in _SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace(".processor", "", 1), part
    return name, ""


def _check_module(parts: _Parts) -> set[str]:
    """Check that the tensors of a module fit together; return the kinds of adapter that they form."""
    for part, (name, tensor) in parts.items():
        if tensor.dtype in INTEGERS and part not in _NUMBERS:
            raise HeaderError(
                f"tensor {name!r} has type {tensor.dtype}, but only {' and '.join(_NUMBERS)} may be integers"
            )
    kinds = set()
    if parts.keys() & {"down", "up", "mid"}:
        _check_pair(parts)
        kinds.add("locon" if len(parts["down"][1].shape) > 2 else "lora")
    if parts.keys() & {*_HADA, "hada_t1", "hada_t2"}:
        _check_loha(parts)
        kinds.add("loha")
    if parts.keys() & {*_LOKR, "lokr_t2"}:
        _check_lokr(parts)
        kinds.add("lokr")
    if parts.keys() & {"diff", "diff_b"}:
        kinds.add("diff")
    if "dora_scale" in parts:
        kinds.add("dora")
    for part in parts.keys() & {"alpha", "scale"} if kinds - {"diff"} else ():
        name, tensor = parts[part]
        if math.prod(tensor.shape) != 1:
            raise HeaderError(f"tensor {name!r}: {part} must be a single number, not of shape {list(tensor.shape)}")
    return kinds


def _check_pair(parts: _Parts) -> None:
    if not {"down", "up"} <= parts.keys():
        name = next(parts[part][0] for part in ("down", "up", "mid") if part in parts)
        missing = "up" if "down" in parts else "down"
        raise HeaderError(f"tensor {name!r}: the matching {missing} tensor{_partner(name)} is missing")
    rank = _check_inner(parts, "up", "down")
    if "mid" in parts:
        name, tensor = parts["mid"]
        if len(tensor.shape) < 2 or tensor.shape[:2] != (rank, rank):
            raise HeaderError(
                f"tensor {name!r}: shape must begin with {[rank, rank]}, twice the rank, not be {list(tensor.shape)}"
            )


def _partner(name: str) -> str:
    for down, up in _PAIRS.items():
        for suffix, other in ((down, up), (up, down)):
            if name.endswith(suffix):
                return f" {name.removesuffix(suffix) + other!r}"
    return ""


def _check_inner(parts: _Parts, left: str, right: str) -> int:
    """Check that ``left @ right`` is defined; return the dimension that they share, the rank."""
    left_name, (_, rank) = parts[left][0], _matrix(parts[left])[:2]
    right_rank = _matrix(parts[right])[0]
    if rank != right_rank:
        raise HeaderError(
            f"tensor {left_name!r} has rank {rank} (shape {list(parts[left][1].shape)}), but {parts[right][0]!r} has"
            f" rank {right_rank} (shape {list(parts[right][1].shape)})"
        )
    return rank


def _matrix(part: tuple[str, Tensor]) -> tuple[int, ...]:
    """Return a factor's shape. ggml drops a first dimension of 1, so gguf files lack it."""
    name, tensor = part
    shape = (1, *tensor.shape) if len(tensor.shape) in (1, 3) else tensor.shape
    if len(shape) < 2:
        raise HeaderError(
            f"tensor {name!r}: a factor must be a matrix or a convolution, not of shape {list(tensor.shape)}"
        )
    return shape


def _check_loha(parts: _Parts) -> None:
    _check_complete(parts, _HADA)
    if ("hada_t1" in parts) != ("hada_t2" in parts):
        _check_complete(parts, ("hada_t1", "hada_t2"))
    sizes = []
    for index in "12":
        left, right, core = f"hada_w{index}_a", f"hada_w{index}_b", f"hada_t{index}"
        if core in parts:
            _check_core(parts, core, left, right)
            sizes.append((_matrix(parts[left])[1], _matrix(parts[right])[1:], parts[core][1].shape[2:]))
        else:
            _check_inner(parts, left, right)
            sizes.append((_matrix(parts[left])[0], _matrix(parts[right])[1:], ()))
    if sizes[0] != sizes[1]:
        raise HeaderError(f"tensor {parts['hada_w2_a'][0]!r}: hada_w1 and hada_w2 give weights of different shapes")


def _check_core(parts: _Parts, core: str, left: str, right: str) -> None:
    name, tensor = parts[core]
    expected = _matrix(parts[left])[0], _matrix(parts[right])[0]
    if tensor.shape[:2] != expected:
        raise HeaderError(
            f"tensor {name!r}: shape must begin with the ranks {list(expected)}, not be {list(tensor.shape)}"
        )


def _check_lokr(parts: _Parts) -> None:
    if "lokr_t2" in parts:
        raise HeaderError(f"tensor {parts['lokr_t2'][0]!r}: the engine does not support LoKr's Tucker core")
    for whole in ("lokr_w1", "lokr_w2"):
        factors = (f"{whole}_a", f"{whole}_b")
        if whole not in parts:
            _check_complete(parts, factors, instead=whole)
            _check_inner(parts, *factors)
        elif both := [part for part in factors if part in parts]:
            raise HeaderError(
                f"tensor {parts[both[0]][0]!r}: the module also has {whole} itself; one of the two must be removed"
            )


def _check_complete(parts: _Parts, wanted: tuple[str, ...], instead: str = "") -> None:
    missing = [part for part in wanted if part not in parts]
    if missing:
        name = next((parts[part][0] for part in wanted if part in parts), next(iter(parts.values()))[0])
        whole = f" (or {instead})" if instead else ""
        raise HeaderError(f"tensor {name!r}: the module lacks {', '.join(missing)}{whole}")


def _rank(parts: _Parts) -> int | None:
    for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if part in parts:
            return _matrix(parts[part])[0]
    return None


def _weight_shape(parts: _Parts) -> Shape | None:
    """Return rows and columns of the weight that a module changes; None if its factors do not say."""
    if "up" in parts:
        return _matrix(parts["up"])[0], _matrix(parts["down"])[1]
    if "hada_w1_a" in parts and "hada_t1" not in parts:
        return _matrix(parts["hada_w1_a"])[0], _matrix(parts["hada_w1_b"])[1]
    if "diff" in parts and len(parts["diff"][1].shape) == 2:
        rows, columns = parts["diff"][1].shape
        return rows, columns
    return None


def _alphas(path: Path, modules: Mapping[str, _Parts]) -> dict[str, float]:
    """Read alpha and scale of each module; a value that is not finite would turn the image white."""
    alphas = {}
    with path.open("rb") as file:
        for module, parts in modules.items():
            for part in ("alpha", "scale"):
                if part not in parts or math.prod(parts[part][1].shape) != 1:
                    continue
                name, tensor = parts[part]
                file.seek(tensor.begin)
                value = _decode(tensor.dtype, file.read(tensor.size))
                if value is not None and not math.isfinite(value):
                    raise HeaderError(f"tensor {name!r}: {part} must be finite, not {value}")
                if value is not None and part == "alpha":
                    alphas[module] = value
    return alphas


def _decode(dtype: str, content: bytes) -> float | None:
    if dtype == "BF16":
        dtype, content = "F32", b"\0\0" + content
    return float(struct.unpack(_SCALAR[dtype], content)[0]) if dtype in _SCALAR else None
