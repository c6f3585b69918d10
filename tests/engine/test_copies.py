"""Where a picture's memory is shared and where copied: each row of the docs' tables 'What is copied', in both modes."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_model import TinyModel

from sdcffi import Engine, ImageParams, PhotoMaker, Preview
from sdcffi._bindings.library import load
from sdcffi._bindings.marshal import Marshaller
from sdcffi._checks.inputs import take_images
from sdcffi._models.files import Model
from sdcffi._process import channel as _channel
from sdcffi._process.channel import Channel

OpenEngine = Callable[..., Engine]

SIDE = 64
DRAW: dict[str, Any] = {"prompt": "a cat", "width": SIDE, "height": SIDE, "steps": 2, "seed": 3, "cfg_scale": 1.0}
NAMES = ["init_image", "mask_image", "control_image", "ref_images", "id_images"]


@pytest.fixture
def pixels() -> Any:
    return np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def call(name: str, picture: Any) -> ImageParams:
    """A call with the picture in one place."""
    fields: dict[str, Any] = {
        "init_image": {"init_image": picture},
        "mask_image": {"init_image": np.zeros((SIDE, SIDE, 3), np.uint8), "mask_image": picture},
        "control_image": {"control_image": picture},
        "ref_images": {"ref_images": [picture]},
        "id_images": {"pm_params": PhotoMaker(id_images=[picture])},
    }[name]
    return take_images(ImageParams(**fields), Model())


def place(name: str, params: Any) -> Any:
    """The picture in a call, or in its C struct."""
    if name == "id_images":
        return params.pm_params.id_images[0]
    return params.ref_images[0] if name == "ref_images" else getattr(params, name)


def address(marshaller: Marshaller, name: str, params: ImageParams) -> int:
    """Where the C struct says that the pixels are."""
    data = place(name, marshaller.struct(params)).data
    return int(load().ffi.cast("uintptr_t", data))


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """Addresses of the shared memory that has come from the other end during the test."""
    addresses: list[range] = []
    receive = _channel._receive_memory

    def spied(*arguments: Any) -> Any:
        whole = receive(*arguments)
        begin = np.frombuffer(whole, np.uint8).ctypes.data
        addresses.append(range(begin, begin + whole.nbytes))
        return whole

    monkeypatch.setattr(_channel, "_receive_memory", spied)
    return addresses


# In.


@pytest.mark.parametrize("writeable", [True, False], ids=["writeable", "read-only"])
@pytest.mark.parametrize("name", NAMES)
def test_an_array_in_is_what_the_engine_reads(name: str, writeable: bool, pixels: Any) -> None:
    picture = pixels[..., 0].copy() if name == "mask_image" else pixels
    picture.flags.writeable = writeable
    assert address(Marshaller(load()), name, call(name, picture)) == picture.ctypes.data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pillow", "float", "strided", "gray"])
def test_what_must_be_converted_is_copied_once(name: str, kind: str, pixels: Any) -> None:
    gray = pixels[..., 0].copy()
    source = gray if name == "mask_image" else pixels
    converted: Any = {
        "pillow": Image.fromarray(source),
        "float": source / 255,
        "strided": source[::-1],
        "gray": gray[:, ::-1],
    }[kind]
    params = call(name, converted)
    assert not np.shares_memory(place(name, params), np.asarray(converted))
    assert address(Marshaller(load()), name, params) == place(name, params).ctypes.data, "a second copy"


@pytest.mark.parametrize("name", NAMES)
def test_an_array_is_copied_once_on_its_way_to_the_child(
    name: str, pixels: Any, mapped: list[range], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = pixels[..., 0].copy() if name == "mask_image" else pixels
    copied: list[int] = []
    fill = _channel.shared_memory.fill

    def spied(buffers: Any) -> Any:
        copied.extend(np.frombuffer(buffer, np.uint8).ctypes.data for buffer in buffers)
        return fill(buffers)

    monkeypatch.setattr(_channel.shared_memory, "fill", spied)
    ours, theirs = (Channel(end) for end in multiprocessing.Pipe())
    ours.send(call(name, picture))
    received = theirs.receive()
    arrived = place(name, received)
    assert copied.count(picture.ctypes.data) == 1, "from the caller's own memory into the shared one"
    assert np.array_equal(arrived.reshape(picture.shape), picture)
    assert arrived.ctypes.data in mapped[0], "copied out of the shared memory"
    assert address(Marshaller(load()), name, received) == arrived.ctypes.data, "the child copies it again"
    for end in (ours, theirs):
        end.close()


def test_the_engine_in_this_process_reads_the_callers_arrays(
    pixels: Any, open_engine: OpenEngine, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, reference = pixels[..., 1].copy(), pixels.copy()
    given = [pixels.ctypes.data, mask.ctypes.data, reference.ctypes.data]
    before = [pixels.copy(), mask.copy(), reference.copy()]
    seen: list[int] = []
    struct = Marshaller.struct

    def spied(self: Marshaller, params: Any) -> Any:
        target = struct(self, params)
        if isinstance(params, ImageParams) and params.init_image is not None:
            data = [target.init_image.data, target.mask_image.data, target.ref_images[0].data]
            seen.extend(int(load().ffi.cast("uintptr_t", item)) for item in data)
        return target

    monkeypatch.setattr(Marshaller, "struct", spied)
    engine = open_engine(tiny_model, isolated=False)
    engine.generate(**DRAW, init_image=pixels, mask_image=mask, ref_images=[reference])
    assert seen == given
    assert all(np.array_equal(item, old) for item, old in zip((pixels, mask, reference), before, strict=True))


# Out. That arrays are the engine's own memory in one process, and when it is freed, is seen in test_memory.


def test_pictures_and_previews_are_the_callers_for_good(
    isolated: bool, open_engine: OpenEngine, tiny_model: TinyModel, mapped: list[range]
) -> None:
    previews: list[tuple[Preview, bytes]] = []
    engine = open_engine(tiny_model, isolated=isolated)
    result = engine.generate(
        **DRAW, batch_count=2, on_preview=lambda event: previews.append((event, event.frames[0].tobytes()))
    )
    first, second = result.arrays
    assert not any(array.flags.owndata for array in result.arrays), "a copy that nobody needs"
    assert not isolated or all(array.ctypes.data in mapped[-1] for array in result.arrays)
    assert first.flags.writeable
    assert not np.shares_memory(first, second)

    assert "images" not in vars(result), "made before they were asked for"
    image = result.images[0]
    assert result.images[0] is image
    drawn = first.copy(), second.copy()
    first[:] = 0
    assert np.array_equal(np.asarray(image), drawn[0]), "Pillow's image is no copy"
    assert np.array_equal(second, drawn[1])

    corner = second[8:16, 8:16]
    del result, first, second
    engine.generate(**DRAW)  # would reuse memory that was freed
    engine.close()
    gc.collect()
    assert np.array_equal(corner, drawn[1][8:16, 8:16])
    assert len(previews) == 4
    frames = [event.frames[0] for event, _ in previews]
    assert isolated or all(frame.base is None for frame in frames)
    assert [frame.tobytes() for frame in frames] == [seen for _, seen in previews]
    assert len({seen for _, seen in previews}) == 4, "one memory for all of them"
