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
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for name in _STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    content = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}), zipfile.ZipFile(path, "w") as archive:
        values: OrderedDict[str, Any] = OrderedDict()
        for key, (name, array) in enumerate(tensors.items()):
            storage = _Storage(getattr(torch, _STORAGES[array.dtype.name]), str(key), array.size)
            strides = tuple(stride // array.itemsize for stride in array.strides)
            arguments = (storage, 0, array.shape, strides, False, OrderedDict())
            values[name] = _Tensor(_rebuild_tensor_v2, arguments)
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        _Pickler(content, protocol=2).dump(values)
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/version", "3\n")
    return path
