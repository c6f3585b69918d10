"""Read and check the header of a LoRA file before native code reads the file.

On a faulty adapter the engine mostly logs an error and generates without it, or ends the process. A file's tensors are
sorted into modules here, from its header and its tensors of one element.
"""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from .._files import expanded
from .._quoting import shown
from ..errors import LoraError, LoraNotFoundError
from .headers import HeaderError, Tensor, read_header, read_metadata
from .lora_checks import Part
from .lora_families import Shape, guess_architecture, guess_naming
from .lora_modules import Adapter, sort_tensors
from .lora_strength import ADAPTER_FILES, Settings, read_settings, unsupported
from .places import is_in_parts

__all__ = ["FOLDER_FILES", "LoraFile", "file_of", "has_adapter", "read_lora"]

FOLDER_FILES = tuple(  # of PEFT, of diffusers
    f"{stem}.{ending}" for ending in ("safetensors", "bin") for stem in ("adapter_model", "pytorch_lora_weights")
)
_IN_PARTS = "one of several parts or their index, and LoRAs are read from one file: join the parts, or get it as one"
_SCALAR = {"F32": "<f", "F16": "<e", "F64": "<d", "I32": "<i", "I64": "<q"}


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file as its header describes it.

    Attributes
    ----------
    path : Path
        Absolute path. Symbolic links of folders are followed, one of the file itself is not: links of Hugging Face's
        cache lead to files that are named by their contents, away from PEFT's configuration.
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"torch"``.
    size : int
        Size of the file, in bytes.
    tensors : mapping of str to (str, tuple of int)
        dtype and shape (rows first), by name.
    adapters : tuple of Adapter
        What it has for each weight and bias.
    left_out : mapping of str to str
        Names of tensors that belong to no adapter, and the reason.
    kinds : tuple of str
        Kinds that it has: ``"lora"``, ``"locon"`` (on convolutions), ``"loha"``, ``"lokr"``, ``"glora"``, ``"diff"``,
        ``"oft"``, ``"ia3"``, ``"dora"``. Empty if nothing in the file is an adapter.
    metadata : mapping of str to str
        Of the file.
    architecture : str or None
        Family of models, see `guess_architecture`. None: unknown.
    architecture_reason : str
        The evidence for it, or the reason why it is unknown.
    naming : str or None
        ``"kohya"``, ``"diffusers"``, ``"lycoris"``, ``"underscore"``, ``"native"``. None: another naming.
    is_certain : bool
        Whether no other family has modules of the same names.
    settings : tuple of Settings
        PEFT's settings, from its configuration or the file's metadata.
    """

    path: Path
    format: str
    size: int
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    adapters: tuple[Adapter, ...]
    left_out: Mapping[str, str]
    kinds: tuple[str, ...]
    metadata: Mapping[str, str] = field(repr=False)
    architecture: str | None
    architecture_reason: str
    naming: str | None
    is_certain: bool = False
    settings: tuple[Settings, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Modules that it changes, as the file spells them."""
        return tuple(dict.fromkeys(adapter.module for adapter in self.adapters))

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each module that has one."""
        return {one.module: one.rank for one in self.adapters if one.rank is not None}

    @property
    def alphas(self) -> dict[str, float]:
        """Alpha of each module that has one."""
        return {one.module: one.strength.alpha for one in self.adapters if one.strength.alpha is not None}

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors that are not part of an adapter that can be computed."""
        return tuple(self.left_out)

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors by dtype, the most frequent first."""
        return dict(Counter(dtype for dtype, _ in self.tensors.values()).most_common())


def read_lora(path: Path) -> LoraFile:
    """Read and check a LoRA file's header. The result is kept until the file changes.

    Parameters
    ----------
    path : Path
        The file, or a folder of PEFT (``adapter_model.safetensors``) or of diffusers
        (``pytorch_lora_weights.safetensors``), or the same ending in ``.bin``. Symbolic links are followed, ``~`` is
        expanded.

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
        found = file_of(expanded(path))
        resolved = found.resolve()
        if not resolved.exists():
            raise LoraNotFoundError(f"LoRA {path} does not exist")
        if is_in_parts(found.name):
            raise LoraError(f"LoRA {path} is {_IN_PARTS}")
        if not resolved.is_file():
            raise LoraError(f"LoRA {path} is not a file")
        status = resolved.stat()
        if status.st_size == 0:
            raise LoraError(f"LoRA {path} is empty")
        config = found.with_name("adapter_config.json")
        time = config.stat().st_mtime_ns if found.name in ADAPTER_FILES and config.is_file() else 0
        return _read(found.parent.resolve() / found.name, status.st_size, (*_stamp(status), time))
    except LoraError:
        raise
    except (OSError, ValueError, RuntimeError, struct.error) as error:  # RuntimeError: symbolic links that form a loop
        raise LoraError(f"LoRA {path} cannot be used: {error}") from error


def has_adapter(path: Path) -> bool:
    """Return whether a path is a folder that PEFT or diffusers wrote."""
    return path.is_dir() and any((path / name).exists() for name in FOLDER_FILES)


def file_of(path: Path) -> Path:
    """Return the adapter's file in a folder that PEFT or diffusers wrote, or the path itself if it is no folder.

    Raises
    ------
    LoraError
        If the folder has none.
    """
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).exists():
            return path / name
    if parts := [name for name in sorted(os.listdir(path)) if is_in_parts(name)]:
        raise LoraError(f"LoRA {path} is a folder with {shown(parts[0])}, {_IN_PARTS}")
    raise LoraError(f"LoRA {path} is a folder without {' or '.join(FOLDER_FILES)}; pass the path of a file in it")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file's content, also where its time of modification is copied from another file."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@lru_cache(maxsize=32)
def _read(path: Path, size: int, stamp: tuple[int, ...]) -> LoraFile:
    kind, tensors = read_header(path)
    if not tensors:
        raise HeaderError("it has no tensors")
    metadata = read_metadata(path) if kind == "safetensors" else {}
    values = _read_numbers(path, tensors)
    parts = [Part(name, tensor.dtype, tensor.shape, values.get(name)) for name, tensor in tensors.items()]
    return _described(path, kind, size, parts, metadata)


def _described(path: Path, kind: str, size: int, parts: Sequence[Part], metadata: Mapping[str, str]) -> LoraFile:
    settings: tuple[Settings, ...] = read_settings(path, metadata)
    if reason := unsupported(settings):
        raise HeaderError(f"{reason} cannot be computed")
    adapters, unused = sort_tensors(parts, settings, metadata)
    shapes: dict[str, Shape | None] = {}
    for adapter in adapters:
        shapes[adapter.module] = adapter.shape or shapes.get(adapter.module)
    guess = guess_architecture(shapes)
    return LoraFile(
        path=path,
        format=kind,
        size=size,
        tensors=MappingProxyType({part.name: (part.dtype, part.shape) for part in parts}),
        adapters=tuple(adapters),
        left_out=MappingProxyType({part.name: unused[part.name] for part in parts if part.name in unused}),
        kinds=tuple(sorted({kind for adapter in adapters for kind in _kinds(adapter)})),
        metadata=MappingProxyType(dict(metadata)),
        architecture=guess.architecture,
        architecture_reason=guess.reason,
        is_certain=guess.is_certain,
        naming=guess_naming(shapes),
        settings=settings,
    )


def _kinds(adapter: Adapter) -> set[str]:
    kind = "locon" if adapter.kind == "lora" and adapter.is_convolution else adapter.kind
    return {kind, "dora"} if "magnitude" in adapter.tensors else {kind}


def _read_numbers(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Read the tensors of one element, such as alpha."""
    values = {}
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            if math.prod(tensor.shape) != 1:
                continue
            file.seek(tensor.begin)
            value = _decode(tensor.dtype, file.read(tensor.size))
            if value is not None:
                values[name] = value
    return values


def _decode(dtype: str, content: bytes) -> float | None:
    if dtype == "BF16":
        dtype, content = "F32", b"\0\0" + content
    return float(struct.unpack(_SCALAR[dtype], content)[0]) if dtype in _SCALAR else None
