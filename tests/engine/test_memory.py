"""Who owns the pictures: arrays are views on the engine's memory, which lives and dies with them.

And what the estimates of memory are worth on this build.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sdcli import Pixels
from tiny_model import TinyModel

from sdcffi import Engine, ImageParams, Lora
from sdcffi._bindings import marshal as _marshal
from sdcffi._bindings import session as _session
from sdcffi._bindings.library import load
from sdcffi._models.memory import compute_bytes, weight_bytes

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 1, "cfg_scale": 1.0}
PICTURE = 64 * 64 * 3  # bytes
MIB = 1 << 20


class _Mallinfo2(ctypes.Structure):
    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def bytes_in_use() -> int:
    """Bytes that malloc has handed out (glibc); elsewhere the peak of the process's memory, which is coarser."""
    gc.collect()
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform != "win32" else None
    if mallinfo2 is not None:
        mallinfo2.restype = _Mallinfo2
        info = mallinfo2()
        return int(info.uordblks + info.hblkhd)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class NativePictures:
    """Pictures as the engine returns them, with a record of what was freed."""

    def __init__(self, count: int) -> None:
        self.ffi = load().ffi
        self.freed: list[Any] = []
        self.library = SimpleNamespace(ffi=self.ffi, lib=SimpleNamespace(sdg_free=self.freed.append))
        self.array = self.ffi.new("sd_image_t[]", count)
        self.data = [self.ffi.new("uint8_t[]", bytes(range(24))) for _ in range(count)]
        for image, data in zip(self.array, self.data, strict=True):
            image.width, image.height, image.channel, image.data = 4, 2, 3, data

    def adopt(self) -> list[Pixels]:
        return _marshal.adopt_images(self.library, self.array, len(self.data))  # type: ignore[arg-type]


@pytest.fixture
def native_addresses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the engine itself put the pixels of the pictures drawn during the test."""
    addresses: list[int] = []

    def adopt(library: Any, images: Any, count: int) -> list[Pixels]:
        addresses.extend(int(library.ffi.cast("uintptr_t", images[i].data)) for i in range(count))
        return _marshal.adopt_images(library, images, count)

    monkeypatch.setattr(_session, "adopt_images", adopt)
    return addresses


def test_arrays_are_views_on_the_engines_memory(
    native_addresses: list[int], open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    result = open_engine(tiny_model, isolated=False).generate(**DRAW, batch_count=2)
    assert [array.ctypes.data for array in result.arrays] == native_addresses
    for array in result.arrays:
        assert array.shape == (64, 64, 3)
        assert array.dtype == np.uint8
        assert (array.flags.owndata, array.flags.writeable, array.flags.c_contiguous) == (False, True, True)
    assert not np.shares_memory(result.arrays[0], result.arrays[1])


def test_memory_of_each_picture_is_freed_with_its_last_view() -> None:
    native = NativePictures(3)
    arrays = native.adopt()
    assert native.freed == [native.array], "the list of pictures is freed at once, the pictures are not"
    row = arrays[1][0]
    del arrays[1]
    assert len(native.freed) == 1, "a view on the picture is left"
    assert row.tolist() == np.arange(12).reshape(4, 3).tolist()
    del row
    assert native.freed[1:] == [native.data[1]]
    arrays.clear()
    assert len(native.freed) == 4
    assert all(data in native.freed for data in native.data)


@pytest.mark.parametrize("side", [64, 256, pytest.param(512, marks=pytest.mark.slow)])
def test_estimates_are_near_what_this_build_logs(side: int, open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    """Its formulas were fitted to the oldest verified revision; see tests/_models/test_memory_estimate.py."""
    log: list[str] = []
    engine = open_engine(tiny_model, isolated=False, on_log=lambda line: log.append(line.text))
    engine.generate(**{**DRAW, "width": side, "height": side})
    text = "\n".join(log)
    weights = float(re.search(r"total params memory size = ([\d.]+)MB", text)[1])  # type: ignore[index]
    buffers = [float(size) for size in re.findall(r"compute buffer size: ([\d.]+) MB", text)]
    context, model = engine._memory.params, engine._model
    assert weight_bytes(model, context) / MIB == pytest.approx(weights, rel=0.02)
    needed = compute_bytes(model, ImageParams(width=side, height=side), context)
    assert needed
    assert 1 / 1.5 < needed / MIB / max(buffers) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize(("with_lora", "calls"), [(False, 200), (True, 10)], ids=["plain", "lora"])
def test_generating_leaves_no_memory_in_use(
    with_lora: bool, calls: int, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    assert growth(open_engine(tiny_model, isolated=False), tiny_model, with_lora, calls) < 5 * PICTURE


def growth(engine: Engine, model: TinyModel, with_lora: bool, calls: int) -> int:
    """Bytes that are in use after so many calls, and were not before them."""
    loras = (Lora(model.lora),) if with_lora else ()

    def generate() -> None:
        engine.generate(**DRAW, loras=loras)

    for _ in range(6):  # caches and pools fill up
        generate()
    before = bytes_in_use()
    for _ in range(calls):
        generate()
    return bytes_in_use() - before


def test_closing_gives_the_models_memory_back(tiny_model: TinyModel) -> None:
    def use() -> None:
        with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=False):
            pass

    use()
    before = bytes_in_use()
    for _ in range(3):
        use()
    assert bytes_in_use() - before < 1_000_000  # the weights take 27 MB
