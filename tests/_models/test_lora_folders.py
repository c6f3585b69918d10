"""Folders that PEFT and diffusers wrote: given by path, by a path into them, and by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_model import TinyModel
from torch_files import write_torch

from sdcffi import LoraError
from sdcffi._models.lora_file import read_lora
from sdcffi._models.loras import as_loras, merge_tags

PEFT, DIFFUSERS = "adapter_model.safetensors", "pytorch_lora_weights.safetensors"


def write(folder: Path, name: str = PEFT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pair = {"lora_A": np.ones((4, 8), np.float32), "lora_B": np.ones((6, 4), np.float32)}
    save_file({f"base_model.model.x.{side}.weight": value for side, value in pair.items()}, folder / name)
    if name == PEFT:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
    return folder / name


@pytest.mark.parametrize("name", [PEFT, DIFFUSERS])
def test_a_folder_stands_for_its_file(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "style", name)
    (by_folder,) = as_loras([tmp_path / "style"])
    (by_file,) = as_loras([file])
    (by_name,) = as_loras(["style"], tmp_path)
    _, (by_tag,) = merge_tags("<lora:style:0.5>", [], tmp_path)
    paths = {by_folder.path, by_file.path, by_name.path, by_tag.path}
    assert paths == {str(file.resolve())}
    assert by_folder.name == by_name.name == by_tag.name == "style"
    assert read_lora(Path(by_name.path)).adapters[0].strength.scale == (0.5 if name == PEFT else 1)


def test_links_as_of_a_download_cache_keep_the_configuration(tmp_path: Path) -> None:
    file = write(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    file.rename(tmp_path / "blobs" / "0a1b")
    (snapshot / PEFT).symlink_to(tmp_path / "blobs" / "0a1b")
    (snapshot / "adapter_config.json").symlink_to(tmp_path / "blobs" / "adapter_config.json")
    (lora,) = as_loras([snapshot])
    assert lora.path == str(snapshot.resolve() / PEFT)
    assert read_lora(Path(lora.path)).adapters[0].strength.scale == 0.5


def test_a_changed_configuration_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert read_lora(file).adapters[0].strength.scale == 0.5
    config = tmp_path / "adapter_config.json"
    before = config.stat().st_mtime_ns
    config.write_text(json.dumps({"r": 4, "lora_alpha": 4}))
    if config.stat().st_mtime_ns == before:
        pytest.skip("the file system's clock is too coarse")
    assert read_lora(file).adapters[0].strength.scale == 1


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_lora_weights.bin"])
def test_a_pickle_is_read_with_its_configuration(name: str, tmp_path: Path) -> None:
    tensors = {"x.lora_A.weight": np.ones((4, 8), np.float32), "x.lora_B.weight": np.ones((6, 4), np.float32)}
    (tmp_path / "old").mkdir()
    write_torch(tensors, tmp_path / "old" / name)
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
    for items, lora_dir in (([tmp_path / "old"], None), (["old"], tmp_path)):
        (lora,) = as_loras(items, lora_dir)
        assert read_lora(Path(lora.path)).adapters[0].strength.scale == (0.5 if name.startswith("adapter") else 1)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoraError, match="is a folder without"):
        as_loras([tmp_path / "empty"])
    with pytest.raises(LoraError, match="was not found"):
        as_loras(["empty"], tmp_path)


def test_a_lora_in_parts_is_told(tmp_path: Path) -> None:
    part = write(tmp_path, "adapter_model-00001-of-00002.safetensors")
    index = tmp_path / "adapter_model.safetensors.index.json"
    index.write_text("{}")
    for path in (part, index, tmp_path):
        with pytest.raises(
            LoraError, match="one of several parts or their index, and LoRAs are read from one file: join"
        ):
            as_loras([path])
    with pytest.raises(LoraError, match="one of several parts"):
        as_loras([part.stem], tmp_path)


def test_links_of_the_directory_s_owner_are_followed_and_keep_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "disk", DIFFUSERS)
    (tmp_path / "loras" / "style").mkdir(parents=True)
    for link in (f"style/{DIFFUSERS}", "line.safetensors"):
        (tmp_path / "loras" / link).symlink_to(file)
    (tmp_path / "loras" / "other").symlink_to(tmp_path / "disk")
    for name, kept in (("style", f"style/{DIFFUSERS}"), ("line", "line.safetensors")):
        (lora,) = as_loras([name], tmp_path / "loras")
        assert lora.path == str((tmp_path / "loras").resolve() / kept)
    (lora,) = as_loras(["other"], tmp_path / "loras")
    assert read_lora(Path(lora.path)).targets
    with pytest.raises(ValueError, match="given twice"):
        as_loras(["style", "line"], tmp_path / "loras")


def test_a_name_without_a_folder_is_found_in_folders_below(tiny_model: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "mood" / "dark" / "night.safetensors"
    (tmp_path / "mood" / "dark").mkdir(parents=True)
    shutil.copy(tiny_model.lora, file)
    folder = tmp_path / "mood" / "style"
    write(folder)
    assert [lora.name for lora in as_loras(["style"], tmp_path)] == ["style"], "a folder of PEFT"
    assert [lora.path for lora in as_loras(["night"], tmp_path)] == [str(file)]
    for name in ("night", "night.safetensors"):  # with its ending, what is not in a tag is a path
        prompt, found = merge_tags(f"a cat <lora:{name}:0.5>", [], tmp_path)
        assert (prompt.strip(), [(lora.path, lora.multiplier) for lora in found]) == ("a cat", [(str(file), 0.5)])
    shutil.copy(tiny_model.lora, tmp_path / "mood" / "night.safetensors")
    with pytest.raises(LoraError, match=r"may be .*name its folder too, as 'folder/name'"):
        as_loras(["night"], tmp_path)
    shutil.copy(tiny_model.lora, tmp_path / "night.safetensors")  # the directory itself comes first
    assert [lora.path for lora in as_loras(["night"], tmp_path)] == [str(tmp_path / "night.safetensors")]
    with pytest.raises(LoraError, match="was not found"):
        as_loras(["mood/dark/nigh"], tmp_path)
