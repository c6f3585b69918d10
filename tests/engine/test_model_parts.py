"""A model in parts generates what the whole one does, however its place is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel

from sdcffi import Engine, convert

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0, "seed": 1}


def split(source: Path, folder: Path, ending: str, stem: str = "model", count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source)
    names = [f"{stem}-{part + 1:05d}-of-{count:05d}{ending}" for part in range(count)]
    for part, name in enumerate(names):
        own = dict(list(tensors.items())[part::count])
        if ending.endswith(".safetensors"):
            save_file(own, str(folder / name))
            continue
        writer = gguf.GGUFWriter(folder / name, "")
        for key, array in own.items():
            writer.add_tensor(key, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    placed = {name: names[index % count] for index, name in enumerate(tensors)}
    (folder / f"{stem}{ending}.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder / names[0]


def image(**files: Any) -> np.ndarray[Any, Any]:
    with Engine(**files, threads=1, backend="cpu", isolated=False) as engine:
        return engine.generate(**DRAW).arrays[0]


@pytest.fixture(scope="module")
def whole(tiny_model: TinyModel) -> np.ndarray[Any, Any]:
    return image(**tiny_model.engine_arguments())


@pytest.mark.parametrize("ending", [".safetensors", ".gguf", ".fp16.safetensors"])
def test_a_transformer_in_parts_is_the_whole_one(
    ending: str, whole: np.ndarray[Any, Any], tiny_model: TinyModel, tmp_path: Path
) -> None:
    first = split(tiny_model.diffusion_model, tmp_path, ending)
    assert whole.std() > 10
    assert np.array_equal(image(**{**tiny_model.engine_arguments(), "diffusion_model": first}), whole)


def test_a_text_encoder_is_given_by_its_index_or_its_folder(
    whole: np.ndarray[Any, Any], tiny_model: TinyModel, tmp_path: Path
) -> None:
    split(tiny_model.llm, tmp_path, ".safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert np.array_equal(image(**{**tiny_model.engine_arguments(), "llm": path}), whole)


def test_a_directory_of_diffusers_folders_is_a_model(
    whole: np.ndarray[Any, Any], tiny_model: TinyModel, tmp_path: Path
) -> None:
    split(tiny_model.diffusion_model, tmp_path / "transformer", ".safetensors", "diffusion_pytorch_model")
    split(tiny_model.llm, tmp_path / "text_encoder", ".safetensors")
    assert np.array_equal(image(model=tmp_path, taesd=tiny_model.taesd), whole)


def test_parts_are_converted_into_one_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    first = split(tiny_model.diffusion_model, tmp_path, ".safetensors")
    path = convert(first, tmp_path / "whole.gguf", type="f16")
    assert {tensor.name for tensor in gguf.GGUFReader(str(path)).tensors} == set(load_file(tiny_model.diffusion_model))
