"""Models as they lie on disks: parts, indexes, directories, links of a download cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from header_files import Shapes, write, write_gguf
from model_headers import ALONE, CLIP, CLIP_G, FLUX2, LLM
from safetensors.numpy import save_file
from torch_files import write_torch

from sdcffi import PathNotFoundError
from sdcffi._checks.context import check_context
from sdcffi._models.files import examine, read_file
from sdcffi._models.headers import HeaderError
from sdcffi._models.places import file_at
from sdcffi.cli._model_report import inspect_model
from sdcffi.params.context import ContextParams


def split(folder: Path, shapes: Shapes, stem: str = "model", ending: str = ".safetensors", count: int = 2) -> Path:
    """Write tensors in parts, with an index as of Hugging Face. Return the first part."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}-{part + 1:05d}-of-{count:05d}{ending}" for part in range(count)]
    for part, name in enumerate(names):
        own = dict(list(shapes.items())[part::count])
        (write if ending == ".safetensors" else write_gguf)(folder / name, own)
    placed = {name: names[index % count] for index, name in enumerate(shapes)}
    if ending == ".safetensors":
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder / names[0]


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_any_part_stands_for_the_whole(ending: str, tmp_path: Path) -> None:
    first = split(tmp_path, FLUX2, ending=ending, count=3)
    ways = [first, first.with_name(first.name.replace("00001-of", "00002-of"))]
    if ending == ".safetensors":
        ways += [tmp_path / "model.safetensors.index.json"]
    for path in [*ways, tmp_path]:
        assert file_at("model", path) == first
    file = read_file("diffusion_model_path", first)
    assert file.tensors.keys() == FLUX2.keys()
    assert len(file.parts) == 3
    assert inspect_model(first)["family"] == "FLUX.2"
    assert inspect_model(tmp_path)["bytes"] == sum(path.stat().st_size for path in tmp_path.glob(f"*{ending}"))


@pytest.mark.parametrize(
    ("part", "index"),
    [
        ("m-{}-of-00002.bin", "m.bin.index.json"),
        ("m-{}-of-00002.fp16.safetensors", "m.safetensors.index.fp16.json"),
        ("m.fp16-{}-of-00002.safetensors", "m.safetensors.index.fp16.json"),
    ],
)
def test_parts_of_a_variant_and_of_pytorch_are_found(part: str, index: str, tmp_path: Path) -> None:
    names = [part.format(f"{number:05d}") for number in (1, 2)]
    for name, key in zip(names, ("a.weight", "b.weight"), strict=True):
        array = np.ones((2, 2), np.float32)
        if name.endswith(".bin"):
            write_torch({key: array}, tmp_path / name)
        else:
            save_file({key: array}, tmp_path / name)
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a.weight": names[0], "b.weight": names[1]}}))
    for path in (tmp_path, tmp_path / index, tmp_path / names[1]):
        assert file_at("llm", path) == tmp_path / names[0]
    assert read_file("llm_path", tmp_path / names[0]).tensors.keys() == {"a.weight", "b.weight"}


def test_of_several_indexes_in_a_folder_the_plain_one_of_safetensors_counts(tmp_path: Path) -> None:
    first = split(tmp_path, LLM)
    for other in ("model.safetensors.index.fp16.json", "pytorch_model.bin.index.json"):
        (tmp_path / other).write_text('{"weight_map": {"a": "b"}}')
    assert file_at("llm", tmp_path) == first


def test_links_of_a_download_cache_are_parts_too(tmp_path: Path) -> None:
    first = split(tmp_path / "blobs", FLUX2)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for number, path in enumerate(sorted((tmp_path / "blobs").iterdir())):
        (snapshot / path.name).symlink_to(path.rename(path.with_name(f"{number}ab")))
    assert file_at("llm", snapshot) == snapshot / first.name
    assert read_file("llm_path", snapshot / first.name).tensors.keys() == FLUX2.keys()


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first = split(tmp_path, FLUX2, count=3)
    first.with_name("model-00003-of-00003.safetensors").unlink()
    with pytest.raises(PathNotFoundError, match=r"of the 3 parts .* 1 are missing: download model-00003-of-00003"):
        read_file("llm_path", first)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = split(tmp_path, FLUX2)
    write(first.with_name("model-00002-of-00002.safetensors"), FLUX2)
    with pytest.raises(HeaderError, match="do not belong together"):
        read_file("llm_path", first)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no index of parts"),
        ('{"weight_map": ["a"]}', "is no index of parts"),
        ('{"weight_map": {"a": "../secret", "b": "x"}}', "must be all of NAME-00001"),
        ('{"weight_map": {"a": "m-00001-of-00002.safetensors", "b": "n.safetensors"}}', "must be all of NAME-00001"),
        ("[" * 100_000, "is no index of parts"),
    ],
)
def test_a_damaged_index_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        file_at("llm", path)


def test_a_directory_of_several_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no file of weights"):
        file_at("llm", tmp_path)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", LLM)
    with pytest.raises(ValueError, match=r"has a\.safetensors, b\.safetensors: pass the path of one"):
        file_at("llm", tmp_path)


def test_a_variant_in_a_directory_gives_way_to_the_file_without_one(tmp_path: Path) -> None:
    for name in ("model.fp16", "model"):
        write(tmp_path / f"{name}.safetensors", LLM)
    assert file_at("llm", tmp_path) == tmp_path / "model.safetensors"


def directory(path: Path, transformer: Shapes) -> Path:
    split(path / "transformer", transformer, "diffusion_pytorch_model")
    split(path / "text_encoder", LLM)
    (path / "vae").mkdir()
    write(path / "vae" / "diffusion_pytorch_model.safetensors", ALONE)
    return path


def test_a_directory_of_a_transformer_becomes_its_files(tmp_path: Path) -> None:
    path = directory(tmp_path / "flux", FLUX2)
    params, model = check_context(ContextParams(model_path=path))
    assert model.architecture
    assert model.architecture.name == "flux2"
    assert params.model_path is None
    assert params.diffusion_model_path == path / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    assert params.llm_path == path / "text_encoder" / "model-00001-of-00002.safetensors"
    assert params.vae_path == path / "vae" / "diffusion_pytorch_model.safetensors"
    other = write(tmp_path / "other.safetensors", ALONE)
    assert check_context(ContextParams(model_path=path, vae_path=other))[0].vae_path == other
    kind, found, _, missing = examine(path)
    assert (kind, found.architecture, missing) == ("a whole model", model.architecture, [])


def test_a_transformer_may_have_the_prefix_of_whole_models(tmp_path: Path) -> None:
    path = directory(tmp_path, {f"model.diffusion_model.{name}": shape for name, shape in FLUX2.items()})
    architecture = check_context(ContextParams(model_path=path))[1].architecture
    assert architecture
    assert architecture.name == "flux2"


def test_the_text_encoders_of_a_directory_are_told_by_their_tensors(tmp_path: Path) -> None:
    path = directory(tmp_path, FLUX2)
    encoders: dict[str, Shapes] = {
        "text_encoder_2": {"encoder.block.0.layer.0.SelfAttention.k.weight": (4, 4)},
        "text_encoder_3": {"text_model.embeddings.token_embedding.weight": (9, 768)},
    }
    for folder, shapes in encoders.items():
        (path / folder).mkdir()
        write(path / folder / "model.safetensors", shapes)
    params, _ = check_context(ContextParams(model_path=path))
    assert params.t5xxl_path == path / "text_encoder_2" / "model.safetensors"
    assert params.clip_l_path == path / "text_encoder_3" / "model.safetensors"


def test_a_transformer_in_names_that_are_unknown_is_refused(tmp_path: Path) -> None:
    path = directory(tmp_path, {"transformer_blocks.0.attn.to_q.weight": (2, 2), "x_embedder.weight": (2, 2)})
    with pytest.raises(ValueError, match="has names of diffusers, which the engine does not know"):
        check_context(ContextParams(model_path=path))


def test_a_unet_of_another_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    write(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", CLIP | CLIP_G, np.float16)
    with pytest.raises(ValueError, match=r"has no unet/diffusion_pytorch_model\.safetensors: give the file"):
        check_context(ContextParams(model_path=tmp_path))


def test_what_is_given_twice_or_not_at_all_stays_an_error(tmp_path: Path) -> None:
    missing: Any = tmp_path / "missing-00002-of-00003.safetensors"
    with pytest.raises(PathNotFoundError):
        check_context(ContextParams(diffusion_model_path=missing))
