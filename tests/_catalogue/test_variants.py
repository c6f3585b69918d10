"""Which variant of a model is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdcffi import ContextParams, Default, Device
from sdcffi._catalogue import variants as module
from sdcffi._catalogue.entries import File, ModelEntry, Variant
from sdcffi._catalogue.variants import Room, choose, needed, room_of

GB = 10**9
GPU = Device("CUDA0", "A GPU", "cuda", "gpu", 8 * GB, 16 * GB)


def entry(directory: Path, **sizes: int | None) -> ModelEntry:
    """A model whose variants have one file each of these sizes, in bytes."""
    found = {
        name: Variant(name, {"model": File(str(directory / name), size), "llm": File(str(directory / "llm"), GB)})
        for name, size in sizes.items()
    }
    about = {"title": "", "licence": "", "good_at": "", "page": ""}
    return ModelEntry(name="m", **about, family="krea2", engines=(), variants=found, options={}, parameters={})


@pytest.mark.parametrize(
    ("free", "name", "reason"),
    [
        (20 * GB, "f16", "the best that fits: about 11.0 GB of 20.0 GB that are free on here"),
        (10 * GB, "q8_0", "the best that fits: about 6.0 GB"),
        (4 * GB, "q4_0", "the best that fits"),
        (1 * GB, "q4_0", "the smallest, but none fits: about 4.0 GB of 1.0 GB"),
        (None, "q4_0", "the smallest, because the free memory of here is unknown"),
    ],
)
def test_the_best_that_fits_is_taken(free: int | None, name: str, reason: str, tmp_path: Path) -> None:
    model = entry(tmp_path, f16=10 * GB, q8_0=5 * GB, q4_0=3 * GB)
    variant, said = choose(model, Room(free, "here"))
    assert variant.name == name
    assert said.startswith(reason)


def test_of_several_that_fit_one_that_is_there_is_taken(tmp_path: Path) -> None:
    model = entry(tmp_path, f16=10 * GB, q8_0=5 * GB, q4_0=3 * GB)
    (tmp_path / "q4_0").touch()
    assert choose(model, Room(20 * GB, "here"))[0].name == "f16"  # its other file is not there
    (tmp_path / "llm").touch()
    variant, said = choose(model, Room(20 * GB, "here"))
    assert variant.name == "q4_0"
    assert said.startswith("the best of those that are downloaded and fit: about 4.0 GB")
    (tmp_path / "f16").touch()
    assert choose(model, Room(20 * GB, "here"))[0].name == "f16"
    assert choose(model, Room(7 * GB, "here"))[0].name == "q4_0"


def test_one_of_unknown_size_does_not_fit(tmp_path: Path) -> None:
    model = entry(tmp_path, f16=None, q8_0=5 * GB)
    assert needed(model, model.variants["f16"], Room(None, "")) is None
    assert choose(model, Room(20 * GB, "here"))[0].name == "q8_0"


def test_an_image_counts_where_its_family_is_known(tmp_path: Path) -> None:
    from dataclasses import replace

    room = Room(None, "")
    model = entry(tmp_path, f16=10 * GB)
    assert needed(model, model.variants["f16"], room) == 11 * GB
    known = replace(model, family="flux2")
    small = needed(known, model.variants["f16"], room)
    size = {name: Default(1024, "") for name in ("width", "height")}
    large = needed(replace(known, parameters=size), model.variants["f16"], room)
    assert 11 * GB < (small or 0) < (large or 0) < 15 * GB


def test_the_memory_is_that_of_the_device_that_keeps_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 30 * GB)
    assert room_of(GPU, ContextParams()) == Room(8 * GB, "A GPU")
    assert room_of(None, ContextParams()).free == 30 * GB
    assert room_of(GPU, ContextParams(offload_params_to_cpu=True)).free == 30 * GB
    room = room_of(GPU, ContextParams(keep_clip_on_cpu=True))
    model = entry(tmp_path, f16=5 * GB)
    assert needed(model, model.variants["f16"], room) == 5 * GB  # without the language model
