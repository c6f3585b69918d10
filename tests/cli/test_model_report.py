"""What `sdcffi models inspect` says of each kind of file, against the tensors as the files' own libraries read them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from full_size import sd1
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel
from torch_files import write_torch
from upscaling_networks import random_weights, write_network

from sdcffi.cli._model_report import inspect_model, model_lines


@pytest.mark.parametrize(
    ("name", "kind", "family", "needs"),
    [
        ("diffusion_model", "a diffusion model", "FLUX.2", ["llm=", "vae= or taesd="]),
        ("llm", "a text encoder", None, []),
        ("taesd", "a tiny autoencoder", None, []),
        ("lora", "a LoRA", None, []),
    ],
)
def test_a_file_is_told_by_its_header(
    name: str, kind: str, family: str | None, needs: list[str], tiny_model: TinyModel
) -> None:
    path = getattr(tiny_model, name)
    report = inspect_model(path)
    assert (report["kind"], report["family"], report["needs"]) == (kind, family, needs)
    with safe_open(path, "numpy") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118  # it is no mapping
    assert report["tensors"] == len(shapes)
    assert report["parameters"] == sum(map(math.prod, shapes))
    assert sum(count["tensors"] for count in report["types"].values()) == len(shapes)


def test_a_whole_checkpoint_needs_nothing_else(tmp_path: Path) -> None:
    report = inspect_model(sd1().write(tmp_path / "sd1.safetensors"))
    assert report["kind"] == "a whole model"
    assert report["family"] == "Stable Diffusion 1"
    assert report["parts"] == ["clip_l", "diffusion_model", "vae"]
    assert report["needs"] == []
    assert report["memory"]["weights"] == pytest.approx(report["types"]["f16"]["bytes"], rel=0.02)
    assert any("1.07 billion parameters" in line for line in model_lines(report))


def test_the_defaults_are_shown_with_their_source(tiny_model: TinyModel, tmp_path: Path) -> None:
    report = inspect_model(tiny_model.diffusion_model)
    assert report["defaults"]["steps"] == {"value": 20, "source": "metadata of dit.safetensors"}
    assert report["note"] is None
    lines = list(model_lines(inspect_model(sd1().write(tmp_path / "sd1.safetensors"))))
    assert "defaults: width=512, height=512, steps=20, cfg_scale=7.0" in lines
    assert "  from: Stable Diffusion 1 (stable-diffusion.cpp, docs/sd.md)" in lines
    assert any(line.startswith("note: ") and "LCM: width=512, height=512, steps=4" in line for line in lines)
    assert inspect_model(tiny_model.lora)["defaults"] == {}  # which is no model


def test_a_pytorch_file_is_reported_as_any_other(tmp_path: Path) -> None:
    weights = {name: array.astype(np.float32) for name, array in random_weights(4).items()}
    report = inspect_model(write_torch(weights, tmp_path / "old.pth"))
    assert (report["format"], report["tensors"]) == ("torch", len(weights))
    assert report["kind"].endswith("of factor 4")


def test_an_upscaling_network_is_told_from_a_file_of_unknown_kind(tmp_path: Path) -> None:
    weights = random_weights(4)
    assert inspect_model(write_network(tmp_path / "a.safetensors", weights))["kind"].endswith("of factor 4")
    del weights["conv_last.weight"]
    assert inspect_model(write_network(tmp_path / "b.safetensors", weights))["kind"] == "a file of unknown kind"


def test_what_nothing_uses_is_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    weights = load_file(tiny_model.diffusion_model)
    layer = next(name for name, array in weights.items() if array.ndim == 2).removesuffix(".weight")
    more = [f"{layer}.weight.scale", f"{layer}.scales", f"{layer}.pre_quant_scale", f"{layer}.weight_quantizer._amax"]
    save_file(weights | {name: np.ones(1, np.float32) for name in more}, str(tmp_path / "a.safetensors"))
    report = inspect_model(tmp_path / "a.safetensors")
    assert report["unused"].keys() == set(more)
    assert any("not read: 4 tensors: used by nothing" in line for line in model_lines(report))
    assert inspect_model(tiny_model.diffusion_model)["unused"] == {}
    network = write_network(tmp_path / "b.safetensors", {**random_weights(1), "more": np.ones(1, np.float32)})
    assert inspect_model(network)["unused"].keys() == {"more"}
