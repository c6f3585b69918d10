"""Converted files: their types against the gguf package's reader, their values against numpy, and what is not kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel

from sdcffi import Engine, SDError, convert
from sdcffi._models.headers import read_header
from sdcffi.engine import conversion as conversion

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0, "seed": 1}


def types_in(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(str(path)).tensors}


def dequantised(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    return {
        str(tensor.name): np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        for tensor in gguf.GGUFReader(str(path)).tensors
    }


def small_model(path: Path, **more: npt.NDArray[Any]) -> Path:
    """A few tensors of every sort that a rule or a block decides on."""
    rng = np.random.default_rng(0)
    tensors = {
        "blocks.0.attn.weight": rng.standard_normal((48, 64), np.float32),
        "blocks.0.mlp.weight": rng.standard_normal((64, 96), np.float32).astype(np.float16),
        "blocks.0.mlp.bias": rng.standard_normal(96, np.float32),
        "blocks.0.norm.weight": rng.standard_normal(64, np.float32).astype(np.float16),
        "blocks.0.row.weight": rng.standard_normal((1, 64), np.float32),
        "conv.weight": rng.standard_normal((32, 32, 3, 3), np.float32).astype(np.float16),
        "odd.weight": rng.standard_normal((8, 33), np.float32),
        "double.weight": rng.standard_normal((4, 32)),
        "scalar": np.float32([2.5]).reshape(()),
    }
    save_file({**tensors, **more}, str(path))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_model(tmp_path / "source.safetensors")


def test_types_are_those_asked_for_where_they_can_be(source: Path, tmp_path: Path) -> None:
    rules = r"attn=f16,\.mlp\.weight$=q4_0"
    path = convert(source, tmp_path / "out.gguf", type="q8_0", tensor_type_rules=rules, isolated=False)
    assert types_in(path) == {
        "blocks.0.attn.weight": "f16",
        "blocks.0.mlp.weight": "q4_0",
        "blocks.0.mlp.bias": "f32",
        "blocks.0.norm.weight": "f16",
        "blocks.0.row.weight": "f32",
        "conv.weight": "f16",
        "odd.weight": "f32",
        "double.weight": "q8_0",
        "scalar": "f32",
    }


def test_values_of_q8_0_are_the_nearest_of_their_block(source: Path, tmp_path: Path) -> None:
    """Each block of 32 has one half-precision scale, a 127th of its largest number; see `quantize_row_q8_0_ref`."""
    path = convert(source, tmp_path / "out.gguf", type="q8_0", isolated=False)
    values = load_file(source)["blocks.0.attn.weight"]
    blocks = values.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    expected = np.round(blocks / scale) * scale.astype(np.float16).astype(np.float32)
    written = dequantised(path)["blocks.0.attn.weight"]
    assert np.abs(written - expected.reshape(values.shape)).max() <= 1e-6
    assert 1e-3 < np.abs(written - values).max() < 0.6 * scale.max()


@pytest.mark.parametrize("type", ["f32", "f16"])
def test_values_of_floats_are_rounded_only(type: str, source: Path, tmp_path: Path) -> None:
    path = convert(source, tmp_path / "out.safetensors", type=type, isolated=False)
    before, after = load_file(source), load_file(path)
    assert before.keys() == after.keys()
    for name, values in before.items():
        kind = np.float32 if name.endswith("bias") else {"f32": np.float32, "f16": np.float16}[type]
        assert after[name].dtype == kind
        assert np.array_equal(after[name].reshape(values.shape), values.astype(np.float32).astype(kind))


@pytest.mark.parametrize(("name", "type"), [("out.gguf", "q8_0"), ("out.gguf", "f16"), ("out.safetensors", "f16")])
def test_a_tensor_without_elements_is_kept_but_for_what_the_engine_never_reads(
    name: str, type: str, tmp_path: Path
) -> None:
    marks = {mark: np.ones(0, np.float32) for mark in ("v_pred", "ztsnr", "denoiser.sigmas")}
    marked = small_model(tmp_path / "marked.safetensors", **marks)
    path = convert(marked, tmp_path / name, type=type, isolated=False)
    shapes = {name: tensor.shape for name, tensor in read_header(path, whole_model=True)[1].items()}
    assert shapes["v_pred"] == shapes["ztsnr"] == (0,)
    assert shapes.keys() == {*load_file(marked)} - {"denoiser.sigmas"}
    again = convert(path, tmp_path / f"again-{name}", type="f32", isolated=False)
    assert read_header(again, whole_model=True)[1]["v_pred"].shape == (0,)


def test_a_rule_for_a_larger_type_is_followed(source: Path, tmp_path: Path) -> None:
    path = convert(source, tmp_path / "out.gguf", type="q4_0", tensor_type_rules=".*=f32", isolated=False)
    assert set(types_in(path).values()) == {"f32"}


def test_an_autoencoder_is_put_into_the_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = convert(
        tiny_model.diffusion_model, tmp_path / "whole.gguf", type="f16", vae=tiny_model.taesd, isolated=False
    )
    expected = {*load_file(tiny_model.diffusion_model), *(f"vae.{name}" for name in load_file(tiny_model.taesd))}
    assert types_in(path).keys() == expected


def test_names_become_the_engine_s_own(tmp_path: Path) -> None:
    unet = {"unet.conv_in.weight": np.ones((32, 4, 3, 3), np.float16), "unet.x.bias": np.ones(4, np.float32)}
    save_file({**unet, "betas": np.ones(4, np.float32)}, str(tmp_path / "unet.safetensors"))
    path = convert(tmp_path / "unet.safetensors", tmp_path / "out.gguf", type="f16", convert_name=True, isolated=False)
    assert set(types_in(path)) == {"model.diffusion_model.conv_in.weight", "model.diffusion_model.x.bias"}


def test_a_converted_model_draws_as_one_converted_while_loading(tiny_model: TinyModel, tmp_path: Path) -> None:
    arguments = {**tiny_model.engine_arguments(), "threads": 1, "backend": "cpu", "isolated": False}
    rules = "^model.diffusion_model=q8_0"
    path = convert(tiny_model.diffusion_model, tmp_path / "dit.gguf", type="q8_0", isolated=False)
    with (
        Engine(**{**arguments, "diffusion_model": path}) as written,
        Engine(**arguments, tensor_type_rules=rules) as loaded,
    ):
        drawn = [engine.generate(**DRAW).arrays[0] for engine in (written, loaded)]
    assert drawn[0].std() > 10
    assert np.array_equal(*drawn)


# --- what is refused, and what is not kept ---


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        (
            {"output": "out.safetensors"},
            "'q8_0' needs a .gguf file; legal in .safetensors: f32, f16, bf16",
        ),
        ({"output": "out.safetensors", "type": "f16", "tensor_type_rules": "a=q4_0"}, "type 'q4_0' needs a .gguf"),
    ],
)
def test_a_type_that_the_format_does_not_have_is_refused(keywords: dict[str, Any], said: str, source: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        convert(source, source.with_name(keywords.pop("output")), **{"type": "q8_0", **keywords})


def test_a_name_that_would_be_cut_off_is_refused(tmp_path: Path) -> None:
    long = small_model(tmp_path / "long.safetensors", **{"x" * 128: np.ones((32, 32), np.float32)})
    with pytest.raises(ValueError, match=r"the name 'xx.*' has more than 127 bytes"):
        convert(long, tmp_path / "out.gguf", type="q8_0")


def test_a_type_that_nothing_can_have_is_an_error_and_nothing_is_kept(tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((4, 33), np.float32)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(SDError, match="no tensor could be written as q4_K"):
        convert(tmp_path / "a.safetensors", tmp_path / "out.gguf", type="q4_K", isolated=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def write_gguf(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    writer = gguf.GGUFWriter(path, "")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


RIGHT = {"a.weight": np.ones((4, 32), np.float16), "a.bias": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("written", "said", "renamed"),
    [
        (RIGHT, "", False),
        ({"b.weight": RIGHT["a.weight"], "b.bias": RIGHT["a.bias"]}, "", True),
        ({"a.weight": RIGHT["a.weight"]}, "lacks 1 tensors and has 0 unexpected ones: a.bias", False),
        ({**RIGHT, "b": np.ones(4, np.float32)}, "lacks 0 tensors and has 1 unexpected ones: b", False),
        ({**RIGHT, "a.weight": np.ones((4, 64), np.float16)}, r"'a.weight' was written with shape \(4, 64\)", False),
        ({**RIGHT, "a.bias": np.ones(4, np.float64).view(np.int64)}, "cannot be read again", False),
        ({**RIGHT, "a.bias": np.ones(4, np.int32)}, "cannot be read again: .*takes no integers as weights", False),
        ({"a.weight": np.ones((4, 32), np.float32), "a.bias": RIGHT["a.bias"]}, "no tensor could be written", False),
        ({"a.weight": RIGHT["a.weight"]}, "has 1 tensors; 1 match the input's 2 by size", True),
        (
            {"b.weight": np.ones((4, 64), np.float16), "b.bias": RIGHT["a.bias"]},
            "has 2 tensors; 1 match the input's 2 by size",
            True,
        ),
    ],
)
def test_what_was_written_is_read_again(
    written: dict[str, Any], said: str, renamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is taken away, and another file put in its result's place."""
    save_file({name: values.astype(np.float32) for name, values in RIGHT.items()}, str(tmp_path / "a.safetensors"))
    monkeypatch.setattr(
        conversion, "run_alone", lambda _opening, _name, request, **_: write_gguf(request.output, written)
    )
    target = tmp_path / "out.gguf"
    if not said:
        assert convert(tmp_path / "a.safetensors", target, type="f16", convert_name=renamed) == target
        return
    with pytest.raises(SDError, match=said):
        convert(tmp_path / "a.safetensors", target, type="f16", convert_name=renamed)
    assert not target.exists()


def test_a_type_that_was_not_asked_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({name: values.astype(np.float32) for name, values in RIGHT.items()}, str(tmp_path / "a.safetensors"))
    monkeypatch.setattr(
        conversion, "run_alone", lambda _opening, _name, request, **_: write_gguf(request.output, RIGHT)
    )
    with pytest.raises(SDError, match=r"'a.weight' was written as F16, not as F32 or Q8_0"):
        convert(tmp_path / "a.safetensors", tmp_path / "out.gguf", type="f32", tensor_type_rules="weight=q8_0")


def test_what_seems_to_scale_weights_and_is_not_used_is_reported(tmp_path: Path) -> None:
    path = small_model(tmp_path / "a.safetensors", **{"odd.w_scale": np.ones(1, np.float32)})
    with pytest.warns(UserWarning, match=r"nothing uses 1 of the tensors in .*a\.safetensors: 'odd\.w_scale'; if"):
        convert(path, tmp_path / "a.gguf", type="f16")
