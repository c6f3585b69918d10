"""Upscaling: the network's arithmetic against numpy, pixels against sd-cli, factors, progress, failures, lifetimes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import Pixels, SdCli
from tiny_model import TinyModel
from torch_files import write_torch
from upscaling_networks import forward, in_old_names, random_weights, write_network

from sdcffi import (
    Engine,
    GenerationError,
    GenerationTimeoutError,
    NativeCrashError,
    Progress,
    SDError,
    Upscaler,
    UpscaleResult,
    convert,
)
from sdcffi._models.upscaler_file import read_network


def picture(width: int, height: int, seed: int = 1) -> Pixels:
    """Soft random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


SMALL = picture(20, 14)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks of each factor, as ``"x2"`` under Real-ESRGAN's names, as ``"old-x2"`` under ESRGAN's."""
    directory = tmp_path_factory.mktemp("networks")
    paths = {}
    for factor in (1, 2, 4):
        weights = random_weights(factor)
        paths[f"x{factor}"] = write_network(directory / f"x{factor}.safetensors", weights)
        paths[f"old-x{factor}"] = write_network(directory / f"old-x{factor}.safetensors", in_old_names(weights))
    return paths


def open_upscaler(path: Path, **keywords: Any) -> Upscaler:
    return Upscaler(path, **{"backend": "cpu", "threads": 1, **keywords})


@pytest.fixture(scope="module")
def twice(networks: dict[str, Path]) -> Iterator[Upscaler]:
    """An upscaler of factor 2 with tiles of 16 pixels, for the whole module."""
    with open_upscaler(networks["x2"], tile_size=16) as upscaler:
        yield upscaler


# --- what comes out ---


@pytest.mark.parametrize("name", ["x1", "x2", "x4", "old-x1", "old-x2", "old-x4"])
def test_a_picture_is_what_the_network_makes_of_it(name: str, networks: dict[str, Path]) -> None:
    """Half a step of rounding, and the engine's products of half-precision numbers: within one of 255."""
    factor = int(name[-1])
    with open_upscaler(networks[name], isolated=False) as upscaler:
        assert upscaler.factor == factor
        result = upscaler.upscale(SMALL)
    assert (result.array.shape, result.factor) == ((14 * factor, 20 * factor, 3), factor)
    assert result.array.std() > 10
    assert np.abs(result.array - forward(random_weights(factor), SMALL)).max() < 1


def test_two_blocks_and_direct_convolution_are_the_same_network(tmp_path: Path) -> None:
    weights = random_weights(2, blocks=2)
    with open_upscaler(write_network(tmp_path / "two.safetensors", weights), conv_direct=True) as upscaler:
        assert np.abs(upscaler.upscale(SMALL).array - forward(weights, SMALL)).max() < 1


def test_a_network_in_gguf_gives_the_same(networks: dict[str, Path], twice: Upscaler, tmp_path: Path) -> None:
    path = convert(networks["x2"], tmp_path / "x2.gguf", type="f16", isolated=False)
    with open_upscaler(path, tile_size=16) as upscaler:
        assert np.array_equal(upscaler.upscale(SMALL).array, twice.upscale(SMALL).array)


@pytest.mark.parametrize(
    ("name", "tile_size", "repeats"),
    [
        ("x4", 128, 1),
        ("x2", 16, 1),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in [("x2", 10, 2), ("old-x4", 12, 1)]),
    ],
)
def test_pixels_are_those_of_sd_cli(
    name: str, tile_size: int, repeats: int, networks: dict[str, Path], sd_cli: SdCli, tmp_path: Path
) -> None:
    given = tmp_path / "small.png"
    Image.fromarray(SMALL).save(given)
    flags = {"upscale_model": networks[name], "init_image": given, "upscale_tile_size": tile_size}
    (theirs,) = sd_cli.generate({**flags, "upscale_repeats": repeats}, tmp_path, "--mode", "upscale")
    with open_upscaler(networks[name], tile_size=tile_size) as upscaler:
        ours = upscaler.upscale(given, upscaler.factor**repeats)
    assert np.array_equal(ours.array, theirs)


def test_tiles_come_near_the_picture_taken_whole(networks: dict[str, Path], twice: Upscaler) -> None:
    """They cannot be it: the network sees 18 pixels far, beyond a tile's border."""
    with open_upscaler(networks["x2"], tile_size=0) as upscaler:
        whole = upscaler.upscale(SMALL).array.astype(int)
    tiled = twice.upscale(SMALL).array.astype(int)
    assert 0 < np.abs(tiled - whole).mean() < 1


@pytest.mark.parametrize(("factor", "passes"), [(1, 1), (1.5, 1), (2, 1), (3, 2), (2.2, 2)])
def test_another_factor_repeats_the_network_and_resizes(factor: float, passes: int, twice: Upscaler) -> None:
    large = SMALL
    for _ in range(passes):
        large = twice.upscale(large).array
    size = round(20 * factor), round(14 * factor)
    expected = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.LANCZOS))
    result = twice.upscale(SMALL, factor)
    assert result.factor == factor
    assert np.array_equal(result.array, expected)


@pytest.mark.parametrize("kind", ["pillow", "path", "bytes"])
def test_a_picture_is_taken_as_elsewhere(kind: str, twice: Upscaler, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(SMALL).save(path)
    given: Any = {"pillow": Image.fromarray(SMALL), "path": path, "bytes": path.read_bytes()}[kind]
    assert np.array_equal(twice.upscale(given).array, twice.upscale(SMALL).array)


@pytest.mark.slow
def test_the_pictures_of_a_result_are_enlarged_and_its_record_kept(shared: Engine, twice: Upscaler) -> None:
    drawn = shared.generate("a cat", width=32, height=32, steps=1, cfg_scale=1.0, seed=3, batch_count=2)
    result = twice.upscale(drawn)
    assert [array.shape for array in result.arrays] == [(64, 64, 3)] * 2
    assert (result.seeds, result.parameters, result.loras) == (drawn.seeds, drawn.parameters, drawn.loras)
    assert result.seconds > drawn.seconds
    for small, large, image in zip(drawn.arrays, result.arrays, result.images, strict=True):
        assert np.array_equal(large, twice.upscale(small).array)
        assert image.size == (64, 64)


def test_the_array_is_a_view_that_outlives_the_upscaler(isolated: bool, networks: dict[str, Path]) -> None:
    with open_upscaler(networks["x2"], isolated=isolated) as upscaler:
        result = upscaler.upscale(SMALL)
        before = result.array.copy()
    assert not result.array.flags.owndata
    assert np.array_equal(result.array, before)
    assert np.array_equal(np.asarray(result.image), before)


def test_a_result_is_saved_in_the_format_of_its_ending(tmp_path: Path) -> None:
    result = UpscaleResult(SMALL, 1, 0.0)
    assert np.array_equal(np.asarray(Image.open(result.save(tmp_path / "large.png"))), SMALL)
    with pytest.raises(ValueError, match="does not have the ending of an image file"):
        result.save(tmp_path / "large.txt")


# --- progress ---


@pytest.mark.parametrize("factor", [2, 4])
def test_progress_counts_the_tiles_of_all_runs_and_never_goes_back(factor: int, twice: Upscaler) -> None:
    heard: list[Progress] = []
    twice.upscale(SMALL, factor, on_progress=heard.append)
    assert {event.phase for event in heard} == {"upscale"}
    assert all(later.step >= event.step for event, later in pairwise(heard))
    assert all(later.step * event.steps >= event.step * later.steps for event, later in pairwise(heard))
    assert (heard[0].step, heard[-1].step) == (0, heard[-1].steps)


# --- refusals ---


def without(weights: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if not name.startswith(names)}


def pixel_unshuffled() -> dict[str, Any]:
    """As RealESRGAN_x2plus, which takes a picture as twelve channels of half its size."""
    return {**random_weights(4), "conv_first.weight": np.zeros((64, 12, 3, 3), np.float16)}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (
            lambda: {"double_blocks.0.x": np.ones(4)},
            "it has neither 'conv_first.weight' nor 'model.0.weight', but",
        ),
        (lambda: without(random_weights(4), "conv_hr"), r"2 of 42 tensors are missing: conv_hr.weight, conv_hr.bias$"),
        (lambda: without(in_old_names(random_weights(4)), "model.1.sub.0.RDB2"), "10 of 42 tensors .* and 7 more"),
        (pixel_unshuffled, r"'conv_first.weight' must have shape \(64, 3, 3, 3\) .* not \(64, 12, 3, 3\)"),
        (
            lambda: {**random_weights(2), "body.999999999.x": np.ones(1)},
            "a number within a name may be at most 1000, not '999999999'",
        ),
    ],
)
def test_a_file_that_is_no_such_network_is_refused(weights: Any, said: str, tmp_path: Path) -> None:
    path = write_network(tmp_path / "bad.safetensors", weights())
    with pytest.raises(ValueError, match=said):
        Upscaler(path)


def test_a_malformed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", 4) + b"[1 ]")
    with pytest.raises(ValueError, match=r"model: .*bad.safetensors cannot be read"):
        Upscaler(path)
    with pytest.raises(ValueError, match="model: '/does/not/exist' does not exist"):
        Upscaler("/does/not/exist")


@pytest.mark.parametrize(
    ("keywords", "error", "said"),
    [
        ({"threads": 0}, ValueError, "threads must be from 1 to 512"),
        ({"tile_size": -1}, ValueError, "tile_size must be from 0"),
        ({"tile_size": None}, TypeError, "tile_size must be an integer"),
        ({"conv_direct": 1}, TypeError, "conv_direct must be True or False, not 1"),
        ({"restart": "always"}, ValueError, "restart must be 'auto' or 'never'"),
    ],
)
def test_a_bad_argument_is_refused(
    keywords: dict[str, Any], error: type[Exception], said: str, networks: dict[str, Path]
) -> None:
    with pytest.raises(error, match=said):
        open_upscaler(networks["x2"], **keywords)


@pytest.mark.parametrize(
    ("image", "factor", "error", "said"),
    [
        (SMALL, 0.5, ValueError, "factor must be at least 1, not 0.5"),
        (SMALL, 9, ValueError, "factor must be from 1 to 8 with a network whose own factor is 2, not 9"),
        (SMALL, float("nan"), ValueError, "factor must be finite"),
        (np.zeros((8, 8, 4), np.int16), None, (TypeError, ValueError), "image"),
        (np.zeros((0, 8, 3), np.uint8), None, ValueError, "image"),
        (np.full((8, 8, 3), np.nan), None, ValueError, "image"),
        (np.zeros((13400, 13400, 3), np.uint8), None, ValueError, "image is too large: 2 times 13400x13400 pixels"),
    ],
)
def test_a_bad_call_is_refused_and_the_upscaler_goes_on(
    image: Any, factor: float | None, error: Any, said: str, twice: Upscaler
) -> None:
    child = twice.pid
    with pytest.raises(error, match=said):
        twice.upscale(image, factor)
    assert twice.upscale(SMALL).array.shape == (28, 40, 3)
    assert twice.pid == child


def test_a_network_of_factor_one_has_no_other(networks: dict[str, Path]) -> None:
    with (
        open_upscaler(networks["x1"], isolated=False) as upscaler,
        pytest.raises(ValueError, match="factor must be 1 with a network whose own factor is 1, not 2"),
    ):
        upscaler.upscale(SMALL, 2)


# --- failures, and what is left of them ---


def test_numbers_that_are_none_are_an_error_and_no_white_picture(isolated: bool, tmp_path: Path) -> None:
    weights = random_weights(2)
    weights["conv_last.bias"][1] = np.nan
    with open_upscaler(write_network(tmp_path / "nan.safetensors", weights), isolated=isolated) as upscaler:
        for _ in range(2):
            with pytest.raises(GenerationError, match="values of the image are not finite numbers"):
                upscaler.upscale(SMALL)


def test_the_network_is_read_when_it_is_opened(networks: dict[str, Path], tmp_path: Path) -> None:
    file = shutil.copy(networks["x2"], tmp_path / "gone.safetensors")
    with open_upscaler(networks["x2"], isolated=False) as upscaler:
        expected = upscaler.upscale(SMALL).array
    with open_upscaler(file, isolated=False) as upscaler:
        file.unlink()
        assert np.array_equal(upscaler.upscale(SMALL).array, expected)


def test_a_call_that_is_stopped_leaves_the_upscaler_as_it_was(isolated: bool, networks: dict[str, Path]) -> None:
    with open_upscaler(networks["x4"], isolated=isolated) as upscaler:
        before, child = upscaler.upscale(SMALL).array, upscaler.pid
        with pytest.raises(GenerationTimeoutError):
            upscaler.upscale(picture(128, 128), timeout=0.3)
        assert np.array_equal(upscaler.upscale(SMALL).array, before)
        assert upscaler.pid == child


def test_a_lost_child_is_started_again_with_the_network(
    networks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(networks["x2"].parent)
    with open_upscaler(Path("x2.safetensors")) as upscaler:
        before, child = upscaler.upscale(SMALL).array, upscaler.pid
        assert child is not None
        monkeypatch.chdir(tmp_path)
        with pytest.raises(NativeCrashError, match="SIGKILL"):
            upscaler.upscale(picture(64, 64), on_log=lambda _: os.kill(child, signal.SIGKILL))
        assert np.array_equal(upscaler.upscale(SMALL).array, before)
        assert upscaler.pid != child


def test_a_closed_upscaler_says_so(isolated: bool, networks: dict[str, Path]) -> None:
    upscaler = open_upscaler(networks["x2"], isolated=isolated)
    upscaler.close()
    upscaler.close()
    with pytest.raises(SDError, match="closed"):
        upscaler.upscale(SMALL)


def test_it_can_be_awaited(twice: Upscaler) -> None:
    result = asyncio.run(twice.aupscale(SMALL))
    assert np.array_equal(result.array, twice.upscale(SMALL).array)


def test_an_engine_and_an_upscaler_of_one_process_do_not_disturb_each_other(
    networks: dict[str, Path], tiny_model: TinyModel, expected: Pixels, twice: Upscaler
) -> None:
    arguments: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
    with (
        Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=False) as engine,
        open_upscaler(networks["x2"], isolated=False, tile_size=16) as upscaler,
    ):
        assert np.array_equal(upscaler.upscale(SMALL).array, twice.upscale(SMALL).array)
        assert np.array_equal(engine.generate("a cat", **arguments).arrays[0], expected)


def test_a_network_of_pytorch_is_judged_as_any_other(tmp_path: Path) -> None:
    weights = {name: array.astype(np.float32) for name, array in random_weights(2).items()}
    path = write_torch(weights, tmp_path / "network.pth")
    assert read_network("model", path).factor == 2
    del weights["conv_last.bias"]
    with pytest.raises(ValueError, match=r"1 of \d+ tensors are missing: conv_last\.bias"):
        Upscaler(write_torch(weights, path))


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_tensors_that_the_network_does_not_have_are_reported(ending: str, tmp_path: Path) -> None:
    weights = {name: array.astype(np.float32) for name, array in random_weights(1).items()}
    weights["conv_first.weight.scale"] = np.ones(1, np.float32)
    path = tmp_path / f"a.{ending}"
    if ending == "pth":
        write_torch(weights, path)
    else:
        write_network(path, weights)
    with pytest.warns(UserWarning, match=r"nothing uses 1 of the tensors in .*: 'conv_first\.weight\.scale'; if"):
        open_upscaler(path).close()
