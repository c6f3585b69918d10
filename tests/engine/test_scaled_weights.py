"""Weights stored with scales are those that the scales make of them, while loading and converting.

The reference is a file of the products themselves, computed in numpy and rounded to half precision as the engine keeps
8-bit weights. Images must be the same to the last bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import eight_bits
import gguf
import numpy as np
import pytest
from eight_bits import named, nearest
from safetensors.numpy import load_file
from tiny_model import TinyModel
from torch_files import write_torch

from sdcffi import Engine, convert

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0, "seed": 1}
STYLES = ("scale_weight", "weight_scale", "comfy_quant", "rows", "bf16", "e5m2")


def scaled(source: Path, target: Path, style: str) -> tuple[Path, Path]:
    """Write a file of 8-bit weights with scales, and one of their products."""
    dtype, table = ("F8_E5M2", eight_bits.e5m2()) if style == "e5m2" else ("F8_E4M3", eight_bits.e4m3())
    stored: dict[str, Any] = {}
    products: dict[str, Any] = {}
    suffix = "scale_weight" if style in ("scale_weight", "e5m2") else "weight_scale"
    for name, array in load_file(source).items():
        layer = name.removesuffix(".weight")
        if layer == name or array.ndim != 2 or "embed" in name or "norm" in name:
            stored[name] = products[name] = named(array)
            continue
        largest = np.abs(array.astype(np.float32)).max(axis=1 if style == "rows" else None, keepdims=style == "rows")
        scale = np.asarray(largest / 448 * 1.1, np.float32)
        if style == "bf16":
            scale = (scale.reshape(1).view(np.uint32) & 0xFFFF0000).view(np.float32).reshape(())
        codes = nearest(array.astype(np.float32) / scale, table)
        stored[name] = dtype, codes
        stored[f"{layer}.{suffix}"] = (
            ("BF16", (scale.reshape(1).view(np.uint32) >> 16).astype(np.uint16)) if style == "bf16" else named(scale)
        )
        stored[f"{layer}.scale_input"] = named(np.float32(7).reshape(()))
        if style == "comfy_quant":
            text = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored[f"{layer}.comfy_quant"] = named(np.frombuffer(text, np.uint8))
        products[name] = named((table[codes] * scale).astype(np.float16))
    stored["scaled_fp8"] = dtype, np.zeros(0, np.uint8)
    return (
        eight_bits.write(target / f"{source.stem}-scaled.safetensors", stored),
        eight_bits.write(target / f"{source.stem}-products.safetensors", products),
    )


def image(tiny_model: TinyModel, **files: Path) -> np.ndarray[Any, Any]:
    arguments = {**tiny_model.engine_arguments(), **files, "threads": 1, "backend": "cpu", "isolated": False}
    with Engine(**arguments) as engine:
        return engine.generate(**DRAW).arrays[0]


@pytest.mark.parametrize("style", STYLES)
def test_a_transformer_of_scaled_weights_is_that_of_the_products(
    style: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    weights, products = scaled(tiny_model.diffusion_model, tmp_path, style)
    found = image(tiny_model, diffusion_model=weights)
    assert found.std() > 10
    assert np.array_equal(found, image(tiny_model, diffusion_model=products))


def test_so_is_a_text_encoder(tiny_model: TinyModel, tmp_path: Path) -> None:
    weights, products = scaled(tiny_model.llm, tmp_path, "weight_scale")
    found = image(tiny_model, llm=weights)
    assert np.array_equal(found, image(tiny_model, llm=products))


@pytest.mark.parametrize("style", ["weight_scale", "rows"])
@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_a_converted_file_has_the_products(style: str, type: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    weights, products = scaled(tiny_model.diffusion_model, tmp_path, style)
    found, expected = (
        {
            str(tensor.name): np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in gguf.GGUFReader(str(convert(path, path.with_suffix(".gguf"), type=type))).tensors
        }
        for path in (weights, products)
    )
    assert found.keys() == expected.keys() == load_file(tiny_model.diffusion_model).keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_numbers_without_a_shape_in_a_pytorch_file_are_converted(tmp_path: Path) -> None:
    tensors = {"m.weight": np.ones((32, 32), np.float32), "m.alpha": np.float32(3).reshape(())}
    path = convert(write_torch(tensors, tmp_path / "a.pt"), tmp_path / "a.gguf", type="f16")
    values = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(path)).tensors}
    assert float(np.ravel(values["m.alpha"])[0]) == 3
