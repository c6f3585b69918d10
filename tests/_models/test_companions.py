"""Tensors that say how others are to be read: applied, of no use, or refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from header_files import safetensors

from sdcffi._models.files import read_file
from sdcffi._models.headers import HeaderError

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "I32": 4}
WEIGHT = ("a.weight", "F8_E4M3", (4, 8), None)
MARK = ("scaled_fp8", "F8_E4M3", (0,), None)


def made(
    path: Path, *tensors: tuple[str, str, tuple[int, ...], bytes | None], metadata: dict[str, str] | None = None
) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, dtype, shape, content in tensors:
        count = SIZES[dtype]
        for size in shape:
            count *= size
        raw = bytes(count) if content is None else content
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return safetensors(path / "a.safetensors", header, data)


def one(value: float) -> bytes:
    return struct.pack("<f", value)


def text(value: Any) -> tuple[str, str, tuple[int, ...], bytes]:
    content = json.dumps(value).encode()
    return "a.comfy_quant", "U8", (len(content),), content


@pytest.mark.parametrize(
    "tensors",
    [
        [("a.scale_weight", "F32", (), one(1)), ("scaled_fp8", "F8_E4M3", (0,), None)],
        [("a.weight_scale", "F32", (1,), one(1)), text({"format": "float8_e4m3fn"})],
        [("a.weight_scale", "F32", (4, 1), one(2) * 4)],
        [("a.weight_scale", "BF16", (4,), b"\0\x40" * 4)],
        [("a.scale_weight", "F32", (), one(0.25))],
        [("a.scale_input", "F32", (), one(3)), ("a.input_scale", "F32", (), one(3))],
        [("spiece_model", "U8", (9,), None), ("tekken_model", "U8", (9,), None)],
        [("model.diffusion_model.scaled_fp8", "F8_E5M2", (2,), None)],  # of other layers
    ],
)
def test_what_is_applied_or_of_no_use_is_no_tensor_of_the_model(tensors: Any, tmp_path: Path) -> None:
    file = read_file("diffusion_model_path", made(tmp_path, WEIGHT, *tensors))
    assert file.tensors.keys() == {"a.weight"}
    assert file.unused.keys() <= {name for name, *_ in tensors}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([("a.weight_scale_2", "F32", (), one(2))], "'a.weight_scale_2': the weights are stored as NVFP4"),
        ([("a.weight.absmax", "F32", (4,), None)], "'a.weight.absmax': the weights are stored as NF4"),
        ([("a.weight.quant_map", "F32", (16,), None)], "NF4 or FP4 of bitsandbytes"),
        ([("a.weight.quant_state.bitsandbytes__nf4", "U8", (9,), None)], "NF4 or FP4 of bitsandbytes"),
        ([("a.SCB", "F32", (4,), None)], "8-bit integers of bitsandbytes"),
        ([("a.qweight", "I32", (4, 4), None)], "GPTQ, AWQ or SVDQuant"),
        ([("a.weight_scale_inv", "F32", (1, 1), one(2))], "scales of blocks"),
        ([("b.weight", "U8", (4, 4), None)], "'b.weight': the weights are stored as packed bytes (U8)"),
        ([("a.weight._scale", "F32", (4, 1), None)], "quanto"),
        ([("a.scale_weight", "F32", (), one(float("nan")))], "must be finite and not 0, not nan"),
        ([("a.scale_weight", "F32", (), one(0))], "must be finite and not 0, not 0.0"),
        ([("a.scale_weight", "F32", (3,), None)], "one number or one for each of 4 rows"),
        ([("a.scale_weight", "I32", (), None)], "a scale of type I32"),
        ([("b.scale_weight", "F32", (), one(2))], "the file has no 'b.weight'"),
        (
            [text({"format": "float8_e4m3fn"})],
            "'a.weight' has 8 bits and no scale ('a.scale_weight' or 'a.weight_scale'), though 'a.comfy_quant'",
        ),
        ([MARK], "though the mark 'scaled_fp8' says that it has one: download the file again"),
        ([MARK, ("b.weight", "F8_E4M3", (4, 8), None), ("b.scale_weight", "F32", (), one(2))], "'a.weight' has 8"),
        ([("a.scale_weight", "F32", (), one(2)), ("a.weight_scale", "F32", (), one(2))], "has two scales"),
        ([("b.weight", "F16", (2, 2), None), ("b.weight_scale", "F32", (), one(2))], "of weights of type F16"),
        ([text({"format": "nvfp4"})], "format 'nvfp4' is not one of float8_e4m3fn"),
        ([text({"format": "int8_tensorwise"})], "format 'int8_tensorwise'"),
        ([text([1])], "must hold a JSON object"),
        ([("a.comfy_quant", "U8", (9,), b"[" * 9)], "must hold a JSON object"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(tensors: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(HeaderError) as caught:
        read_file("diffusion_model_path", made(tmp_path, WEIGHT, *tensors))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        ("b.bias", "F8_E4M3", (4,), None),
        ("b.weight", "F8_E4M3", (4, 4, 3, 3), None),
        ("b.weight", "F16", (4, 8), None),
        ("encoder.embed_tokens.weight", "F8_E4M3", (4, 8), None),
        ("net.llm_adapter.embed.weight", "F8_E4M3", (4, 8), None),
        ("visual.blocks.0.attn.proj.weight", "F8_E4M3", (4, 8), None),
    ],
)
def test_what_is_no_layer_of_8_bits_needs_no_scale_in_a_marked_file(other: Any, tmp_path: Path) -> None:
    path = made(tmp_path, WEIGHT, ("a.scale_weight", "F32", (), one(2)), MARK, other)
    assert read_file("diffusion_model_path", path).tensors.keys() == {"a.weight", other[0]}


@pytest.mark.parametrize(
    ("scaled", "plain", "is_refused"),
    [
        ("x.0.a", "x.0.b", True),
        ("x.0.a", "x.1.a", True),
        ("x.0.a", "x.1.b", False),
        ("x.0.a", "y.0.a", False),
        ("x.0.a", "x.0.relative_attention_bias", False),
    ],
)
def test_a_layer_without_a_scale_beside_others_that_have_one_is_refused(
    scaled: str, plain: str, is_refused: bool, tmp_path: Path
) -> None:
    weights = [(f"{layer}.weight", "F8_E4M3", (4, 8), None) for layer in (scaled, plain)]
    scale = (f"{scaled}.scale_weight", "F32", (), one(2))
    path = made(tmp_path, *weights, scale)
    if not is_refused:
        assert len(read_file("diffusion_model_path", path).tensors) == 2
        return
    with pytest.raises(
        HeaderError, match=rf"'{plain}\.weight' has 8 bits and no scale .* though '{scale[0]}' is beside"
    ):
        read_file("diffusion_model_path", path)
    text = json.dumps({"format": "float8_e4m3fn"}).encode()  # ComfyUI then scales only layers that say so
    path = made(tmp_path, *weights, scale, (f"{scaled}.comfy_quant", "U8", (len(text),), text))
    assert len(read_file("diffusion_model_path", path).tensors) == 2


@pytest.mark.parametrize("end", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("places", [(1, 2), (2, 1)])
def test_a_scale_in_another_part_than_its_weight_is_told(end: str, places: tuple[int, int], tmp_path: Path) -> None:
    scale = (f"a.{end}", "F32", (), one(2))
    names = [f"m-{place:05d}-of-00002.safetensors" for place in places]
    for name, tensors in zip(names, ([WEIGHT, MARK], [scale]), strict=True):
        made(tmp_path, *tensors).rename(tmp_path / name)
    with pytest.raises(HeaderError, match=rf"the scale 'a\.{end}' and its weight 'a\.weight' are in different parts"):
        read_file("diffusion_model_path", tmp_path / "m-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("kind", "tensors", "said"),
    [
        ("float8_e4m3fn", [("a.weight_scale", "F32", (), one(2))], None),
        ("float8_e4m3fn", [], "though _quantization_metadata in its metadata says that it has one"),
        ("nvfp4", [], "layer 'a' in _quantization_metadata: format 'nvfp4'"),
    ],
)
def test_layers_that_the_metadata_describe_are_looked_at(
    kind: str, tensors: Any, said: str | None, tmp_path: Path
) -> None:
    metadata = {"_quantization_metadata": json.dumps({"layers": {"a": {"format": kind}, "b": {"format": kind}}})}
    path = made(tmp_path, WEIGHT, *tensors, metadata=metadata)
    if said is None:
        assert read_file("diffusion_model_path", path).tensors.keys() == {"a.weight"}
        return
    with pytest.raises(HeaderError, match=said):
        read_file("diffusion_model_path", path)
