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
        [("model.diffusion_model.scaled_fp8", "F8_E5M2", (2,), None)],
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


def test_layers_that_the_metadata_describe_are_looked_at(tmp_path: Path) -> None:
    for kind in ("float8_e4m3fn", "nvfp4"):
        metadata = {"_quantization_metadata": json.dumps({"layers": {"a": {"format": kind}}})}
        path = made(tmp_path, WEIGHT, metadata=metadata)
        if kind == "nvfp4":
            with pytest.raises(HeaderError, match="layer 'a' in _quantization_metadata: format 'nvfp4'"):
                read_file("diffusion_model_path", path)
        else:
            assert read_file("diffusion_model_path", path).tensors
