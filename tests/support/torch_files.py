"""Files as ``torch.save`` writes them, without PyTorch: an archive of a pickle and one file for each storage."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage"}


class _Storage:
    """Stands for a tensor's storage, which the pickle names only."""

    def __init__(self, kind: type, key: str, count: int) -> None:
        self.id = ("storage", kind, key, "cpu", count)


class _Tensor:
    def __init__(self, rebuild: Any, arguments: tuple[Any, ...]) -> None:
        self.reduced = rebuild, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        return obj.id if isinstance(obj, _Storage) else None


def write_torch(tensors: Mapping[str, npt.NDArray[Any]], path: Path) -> Path:
    """Write arrays of float32 or float16 as PyTorch's archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/data.pkl", _pickled(tensors))
        archive.writestr("archive/version", "3\n")
    return path


def write_old_torch(tensors: Mapping[str, npt.NDArray[Any]], path: Path) -> Path:
    """Write arrays as PyTorch did before version 1.6: five pickles, then the storages in the order of their keys."""
    keys = sorted(str(key) for key in range(len(tensors)))
    arrays = [list(tensors.values())[int(key)] for key in keys]
    with path.open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, protocol=2)
        file.write(_pickled(tensors))
        pickle.dump(keys, file, protocol=2)
        for array in arrays:
            file.write(array.size.to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
    return path


def _pickled(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for name in _STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    content = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        values: OrderedDict[str, Any] = OrderedDict()
        for key, (name, array) in enumerate(tensors.items()):
            storage = _Storage(getattr(torch, _STORAGES[array.dtype.name]), str(key), array.size)
            strides = tuple(stride // array.itemsize for stride in array.strides)
            arguments = (storage, 0, array.shape, strides, False, OrderedDict())
            values[name] = _Tensor(_rebuild_tensor_v2, arguments)
        _Pickler(content, protocol=2).dump(values)
    return content.getvalue()
