"""References wherever the path of a file of weights is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pytest
from hub_server import Hub
from small_catalogue import small_catalogue
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

import sdcffi
from sdcffi import (
    ContextParams,
    DownloadError,
    Embedding,
    Engine,
    Hires,
    LoraNotFoundError,
    PathNotFoundError,
    Record,
    cli,
)
from sdcffi._checks.context import check_context
from sdcffi._models.loras import as_loras, merge_tags
from sdcffi._records.finding import find_files, find_some_files
from sdcffi.images.convert import as_rgb
from sdcffi.parameter_files import as_arguments
from sdcffi.serve.config import ModelConfig
from sdcffi.serve.models import Models

SMALL = ["--steps", "1", "-W", "64", "-H", "64", "--cfg-scale", "1", "-s", "7", "-t", "1", "--backend", "cpu"]
DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7}


@pytest.fixture
def tiny(hub: Hub, tiny_model: TinyModel) -> dict[str, str]:
    """The tiny model on the Hub: references by keyword of `Engine`."""
    parts = tiny_model.engine_arguments()
    hub.add("o/tiny", {f"parts/{path.name}": path.read_bytes() for path in parts.values()})
    hub.add("o/lora", {"pytorch_lora_weights.safetensors": tiny_model.lora.read_bytes(), "README.md": b"a card"})
    return {name: f"hf://o/tiny/parts/{path.name}" for name, path in parts.items()}


def test_a_model_and_a_lora_by_reference(hub: Hub, tiny: dict[str, str], tmp_path: Path) -> None:
    with Engine(**tiny, threads=1, backend="cpu") as engine:
        result = engine.generate("a cat", **DRAW, loras=[("hf://o/lora", 0.5)])
    assert result.loras[0].applied == result.loras[0].total > 0
    path = result.save(tmp_path / "cat.png")
    record = Record.from_file(path[0])
    commits = {name: hub.repositories[name].commit for name in hub.repositories}
    assert {file.role: file.reference for file in record.files} == {
        "diffusion_model_path": f"hf://o/tiny/parts/dit.safetensors@{commits['o/tiny']}",
        "llm_path": f"hf://o/tiny/parts/llm.safetensors@{commits['o/tiny']}",
        "taesd_path": f"hf://o/tiny/parts/taef2.safetensors@{commits['o/tiny']}",
        "loras[0].path": f"hf://o/lora/pytorch_lora_weights.safetensors@{commits['o/lora']}",
    }
    assert record.params.loras is not None
    assert record.params.loras[0].name == "lora"
    again = sdcffi.replay(path[0], threads=1)
    assert (again.max_difference, again.differences) == (0, ())


def test_a_record_brings_its_files_again(
    hub: Hub, tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with Engine(**tiny, threads=1, backend="cpu") as engine:
        record = engine.generate("a cat", **DRAW).record(0)
    assert find_some_files(record).keys() == {file.role for file in record.files}, "they are in the cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "other cache"))
    assert find_some_files(record) == {}
    sent = hub.sent
    found = find_files(record)
    assert found["llm_path"].is_relative_to(tmp_path / "another")
    assert hub.sent > sent
    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "third"))
    with pytest.raises(PathNotFoundError, match="there is no repository o/tiny"):
        find_files(record)


def test_an_address_in_a_record_is_named_and_not_asked(hub: Hub, tiny_model: TinyModel, tmp_path: Path) -> None:
    parts = {name: hub.put(path.name, path.read_bytes()) for name, path in tiny_model.engine_arguments().items()}
    with Engine(**parts, threads=1, backend="cpu") as engine:
        record = engine.generate("a cat", **DRAW).record(0)
    assert {file.reference for file in record.files} == set(parts.values())
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.unlink()
    count = len(hub.seen)
    with pytest.raises(
        ValueError, match=r"not found: .*dit.safetensors \(http://127.0.0.1:\d+/files/dit.safetensors#sha"
    ):
        find_files(record)
    assert len(hub.seen) == count


def test_a_reference_in_a_record_must_be_one(tiny_model: TinyModel) -> None:
    with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu") as engine:
        data = engine.generate("a cat", **DRAW).record(0).to_dict()
    assert "reference" not in data["files"][0]
    for text in ("model.gguf", "hf://nothing", 5):
        data["files"][0]["reference"] = text
        with pytest.raises(ValueError, match=r"damaged|must be of the form"):
            Record.from_dict(data)


@pytest.mark.parametrize("path", [f"https://host/a.pt#sha256={'ab' * 32}", "hf://o/r/a.pt", "catalogue:a", "../a.pt"])
def test_a_record_has_names_of_files_and_no_places(path: str, tiny_model: TinyModel) -> None:
    with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu") as engine:
        data = engine.generate("a cat", **DRAW).record(0).to_dict()
    for struct, values, role in [
        ("context", {"vae_path": path}, "vae_path"),
        ("context", {"embeddings": [{"name": "a", "path": path}]}, "embeddings[0].path"),
        ("params", {"hires": {"model_path": path}}, "hires.model_path"),
        ("params", {"pm_params": {"id_embed_path": path}}, "pm_params.id_embed_path"),
    ]:
        file = {"role": role, "name": "a.pt", "size": 1, "sha256": "ab" * 32}
        changed = {**data, struct: {**data[struct], **values}, "files": [*data["files"], file]}
        with pytest.raises(ValueError, match=r"is damaged: .* is not the name of a file"):
            Record.from_dict(changed)


def test_all_references_are_read_before_the_first_is_downloaded(hub: Hub, tiny: dict[str, str]) -> None:
    embedding = Embedding(name="w", path="hf://nothing")
    for wrong in ({"vae_path": "hf://nothing"}, {"embeddings": [embedding]}, {"n_threads": 0}):
        with pytest.raises(ValueError, match="must be"):
            check_context(ContextParams(diffusion_model_path=tiny["diffusion_model"], **wrong))
    assert not hub.seen


def test_adapters_by_reference(hub: Hub, tiny: dict[str, str], tiny_model: TinyModel, tmp_path: Path) -> None:
    weights = tiny_model.lora.read_bytes()
    hub.add("o/two", {"a.safetensors": weights, "b.safetensors": weights, "c/adapter_model.safetensors": weights})
    named, folder = (as_loras([f"hf://o/two/{name}"], tmp_path)[0] for name in ("a.safetensors", "c"))
    assert (Path(named.path).name, named.name) == ("a.safetensors", None)
    assert (Path(folder.path).name, folder.name) == ("adapter_model.safetensors", "c")
    with pytest.raises(LoraNotFoundError, match=r"LoRA hf://o/two/d.safetensors does not exist: the repository has"):
        as_loras(["hf://o/two/d.safetensors"])
    with pytest.raises(ValueError, match=r"3 files of weights.*b.safetensors \("):
        as_loras(["hf://o/two"])
    count = len(hub.seen)
    with pytest.raises(ValueError, match="must be a finite number"):
        merge_tags("<lora:hf://o/two/b.safetensors:1>", [], tmp_path)
    assert len(hub.seen) == count, "a prompt downloads nothing"


@pytest.mark.parametrize("text", ["hf://o/words/w.safetensors", "W=hf://o/words/w.safetensors", None])
def test_embeddings_by_reference(text: str | None, hub: Hub) -> None:
    text = text or hub.put("w.safetensors", b"weights")
    values = as_arguments({"embeddings": [text]}).engine["context"].embeddings
    assert [(item.name, item.path) for item in values] == [("W" if "W=" in text else "w", text.removeprefix("W="))]


def network_on(hub: Hub, tmp_path: Path) -> str:
    path = write_network(tmp_path / "x2.safetensors", random_weights(2))
    hub.add("o/x2", {"x2.safetensors": path.read_bytes()})
    return "hf://o/x2"


def test_an_upscaling_network_by_reference(hub: Hub, tiny: dict[str, str], tmp_path: Path) -> None:
    network = network_on(hub, tmp_path)
    with sdcffi.Upscaler(network, threads=1, backend="cpu") as upscaler:
        assert upscaler.factor == 2
    with Engine(**tiny, threads=1, backend="cpu") as engine:
        hires = Hires(upscaler="Model", model_path=network, steps=1)
        result = engine.generate("a cat", **DRAW, hires=hires)
        record = result.record(0)
    assert result.arrays[0].shape == (128, 128, 3)
    commit = hub.repositories["o/x2"].commit
    assert [file.reference for file in record.files if file.role == "hires.model_path"] == [
        f"hf://o/x2/x2.safetensors@{commit}"
    ]


def test_a_file_is_converted_from_a_reference(hub: Hub, tiny: dict[str, str], tmp_path: Path) -> None:
    for wrong in ("out.txt", "none/out.gguf"):
        with pytest.raises(ValueError, match=r"output must end in|does not exist"):
            sdcffi.convert(tiny["taesd"], tmp_path / wrong, type="f16")
    assert not hub.seen
    path = sdcffi.convert(tiny["taesd"], tmp_path / "out.gguf", type="f16")
    assert path.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models", "inspect", "hf://o/tiny/parts/dit.safetensors"], "FLUX.2"),
        (["lora", "inspect", "hf://o/lora"], "rank"),
        (["models", "inspect", "hf://o/none"], "there is no repository o/none"),
    ],
)
def test_the_command_line_takes_references(
    words: list[str], said: str, tiny: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(words)
    captured = capfd.readouterr()
    assert said in captured.out + captured.err
    assert bool(status) == ("none" in words[-1])


def test_a_batch_goes_on_with_references(
    hub: Hub, tiny: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    network = network_on(hub, tmp_path)
    words = ["generate", *flags_of(tiny), "--lora", "hf://o/lora:0.5", "--prompts", str(tmp_path / "prompts.txt")]
    words += ["--hires", "--hires-upscaler", "Model", "--hires-model", network, "--hires-steps", "1"]
    words += ["--upscale-model", network, *SMALL, "-W", "32", "-H", "32", "-o", str(tmp_path / "o.png")]
    assert not cli.main(words)
    assert not cli.main(words)
    assert "1 of 1 lines are finished already" in capfd.readouterr().err


def flags_of(files: dict[str, str]) -> list[str]:
    return [word for name, text in files.items() for word in (f"--{name.replace('_', '-')}", text)]


@pytest.mark.slow
def test_from_an_empty_cache_to_an_image_and_again_without_a_server(
    hub: Hub, tiny: dict[str, str], tmp_path: Path
) -> None:
    environment = hub_server.environment(tmp_path / "home", hub)
    words = [sys.executable, "-m", "sdcffi", "generate", *flags_of(tiny), "-p", "a cat", *SMALL]
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for path in (first, second):
        done = subprocess.run([*words, "-o", str(path)], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "MB" not in done.stderr, "progress is shown on terminals only"
        environment |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert np.array_equal(as_rgb(first, "first"), as_rgb(second, "second"))


def test_a_server_takes_references_and_keeps_where_they_are_to_itself(
    hub: Hub, tiny: dict[str, str], tmp_path: Path
) -> None:
    network = ModelConfig.upscaler("x2", network_on(hub, tmp_path))
    models = Models((ModelConfig.of("tiny", tiny), network))
    assert models.factor("x2") == 2
    commits = [hub.repositories[name].commit for name in ("o/tiny", "o/x2")]
    folders = {str(folder) for folder in models.folders()}
    assert all(any(commit in folder for folder in folders) for commit in commits)


def test_a_file_of_the_catalogue_has_its_digest_whoever_downloads_it(
    hub: Hub, tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.toml"
    monkeypatch.setenv("SDCFFI_CATALOGUE", str(own))
    own.write_text(small_catalogue(tiny, digests={"llm": "0" * 64}))
    with pytest.raises(DownloadError, match=r"llm.safetensors#sha256=0+: the sha256 is .*the file was replaced there"):
        Engine("catalogue:tiny", load_weights=False)
    assert cli.main(["models", "pull", "tiny"]) == 1
    assert "the file was replaced there" in capfd.readouterr().err
    assert not any(
        "llm" in request.path for request in hub.seen if request.method == "GET" and "resolve" in request.path
    )
    right = hub_server.sha256(hub.repositories["o/tiny"].files["parts/llm.safetensors"])
    own.write_text(small_catalogue(tiny, digests={"llm": right}))
    assert cli.main(["models", "pull", "tiny"]) == 0
    Engine("catalogue:tiny", load_weights=False).close()
    own.write_text(small_catalogue(tiny, digests={"llm": "0" * 64}))
    with pytest.raises(DownloadError, match=r"is another version of the file: remove it"):
        Engine("catalogue:tiny", load_weights=False)


def test_a_batch_goes_on_with_names_of_the_catalogue(
    hub: Hub, tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.toml").write_text(small_catalogue(tiny, "hf://o/lora/pytorch_lora_weights.safetensors"))
    monkeypatch.setenv("SDCFFI_CATALOGUE", str(tmp_path / "own.toml"))
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    words = ["generate", "-m", "catalogue:tiny", "--lora", "catalogue:ink", "-W", "64", "-H", "64", "--steps", "1"]
    words += ["--cfg-scale", "1", "--prompts", str(tmp_path / "prompts.txt"), "-o", str(tmp_path / "o.png")]
    words += ["-t", "1", "--backend", "cpu"]
    assert not cli.main(words)
    assert hub.sent
    hub.repositories.clear()
    assert not cli.main(words)
    assert "2 of 2 lines are finished already" in capfd.readouterr().err
    assert not cli.main(["models", "remove", "tiny"])
    assert len(capfd.readouterr().out.splitlines()) == 3
    assert cli.main(words)
    assert "there is no repository o/tiny" in capfd.readouterr().err
