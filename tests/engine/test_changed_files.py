"""A file that changes while it is in use is noticed: no other model, network or LoRA is used without a word."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sdcli import THREADS
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import Engine, Lora, ModelLoadError, SDError, Upscaler
from sdcffi._models.lora_file import read_lora

CALL = {"width": 32, "height": 32, "steps": 1, "seed": 7, "cfg_scale": 1.0}


def kill(owner: Engine | Upscaler) -> None:
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while owner._calls.runner.alive and time.monotonic() < deadline:
        time.sleep(0.01)


def swap_last_byte(path: Path, *, in_place: bool) -> None:
    """Change a file's content, but neither its size nor its time of modification."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x55
    target = path if in_place else path.with_suffix(".new")
    target.write_bytes(content)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    if not in_place:
        os.replace(target, path)


def test_a_model_that_changed_is_not_loaded_again_after_a_crash(tiny_model: TinyModel, tmp_path: Path) -> None:
    keywords = {**tiny_model.engine_arguments()}
    llm = Path(shutil.copy2(keywords["llm"], tmp_path))
    whole = tmp_path / "whole"
    os.link(llm, whole)
    with Engine(**{**keywords, "llm": llm}, threads=THREADS, backend="cpu") as engine:
        expected = engine.generate("a cat", **CALL).arrays[0].copy()
        kill(engine)
        swap_last_byte(llm, in_place=False)
        for _ in range(2):
            with pytest.raises(ModelLoadError, match=rf"{llm} has changed since it was loaded"):
                engine.generate("a cat", **CALL)
        os.replace(whole, llm)
        assert np.array_equal(engine.generate("a cat", **CALL).arrays[0], expected)
        kill(engine)
        llm.unlink()
        with pytest.raises(ModelLoadError, match="has changed"):
            engine.generate("a cat", **CALL)


def test_a_network_that_changed_is_not_loaded_again_after_a_crash(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x2.safetensors", random_weights(2)) or tmp_path / "x2.safetensors"
    image = np.zeros((8, 8, 3), np.uint8)
    with Upscaler(path, threads=THREADS, backend="cpu") as upscaler:
        upscaler.upscale(image)
        kill(upscaler)
        upscaler.upscale(image)
        kill(upscaler)
        write_network(path, random_weights(2, seed=3))
        with pytest.raises(SDError, match=r"x2\.safetensors has changed since it was loaded"):
            upscaler.upscale(image)


@pytest.mark.parametrize("in_place", [True, False])
def test_the_header_of_a_lora_of_the_same_size_and_time_is_read_again(
    in_place: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = Path(shutil.copy2(tiny_model.lora, tmp_path))
    first = read_lora(path)
    assert read_lora(path) is first
    swap_last_byte(path, in_place=in_place)
    assert read_lora(path) is not first


def test_a_lora_of_the_same_size_and_time_is_used(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = Path(shutil.copy2(tiny_model.lora, tmp_path))
    other = tmp_path / "other.safetensors"
    tensors = load_file(path)
    save_file({name: -value if name.endswith("lora_B.weight") else value for name, value in tensors.items()}, other)
    with Engine(**tiny_model.engine_arguments(), threads=THREADS, backend="cpu") as engine:

        def generated(lora: Path) -> np.ndarray:
            return engine.generate("a cat", loras=[Lora(lora, 2.0)], **CALL).arrays[0].copy()

        expected, before = generated(other), generated(path)
        assert not np.array_equal(before, expected)
        shutil.copystat(path, other)
        os.replace(other, path)
        assert np.array_equal(generated(path), expected)
