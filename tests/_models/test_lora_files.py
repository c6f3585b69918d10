"""A LoRA file is checked by its header: what is read out of a good one, and how each bad one is refused."""

from __future__ import annotations

import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from header_files import PAIR, Shapes, gguf_bytes, metadata, mutated, safetensors, write, write_gguf
from torch_files import write_torch

from sdcffi import LoraError
from sdcffi._models import lora_file as _lora_file
from sdcffi._models.lora_file import LoraFile, read_lora

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
HADA: Shapes = {"m.hada_w1_a": (6, 4), "m.hada_w1_b": (4, 8), "m.hada_w2_a": (6, 4), "m.hada_w2_b": (4, 8)}
CORES: Shapes = {"m.hada_t1": (4, 4, 3, 3), "m.hada_t2": (4, 4, 3, 3)}
TUCKER: Shapes = {**HADA, "m.hada_w1_a": (4, 6), "m.hada_w2_a": (4, 6), **CORES}
LOKR: Shapes = {"m.lokr_w1": (2, 2), "m.lokr_w2_a": (3, 4), "m.lokr_w2_b": (4, 4)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def reason(path: Path) -> str:
    """The message with which a file is refused; it names the file."""
    with pytest.raises(LoraError) as caught:
        read_lora(path)
    assert str(path) in caught.value.message
    return caught.value.message


# What is read out of a good file.


def test_a_good_file_is_described(path: Path) -> None:
    shapes = {**PAIR, "m.unheard_of": (3,), "stray.alpha": ()}
    lora = read_lora(write(path, shapes, np.float16, {"ss_note": "x"}))
    assert (lora.path, lora.format, lora.size) == (path.resolve(), "safetensors", path.stat().st_size)
    assert lora.tensors == {name: ("F16", shape) for name, shape in shapes.items()}
    assert (lora.kinds, lora.targets, lora.ranks, lora.alphas) == (("lora",), ("m",), {"m": 4}, {"m": 1.0})
    assert lora.unused == ("m.unheard_of", "stray.alpha")
    assert lora.dtypes == {"F16": 5}


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_down.weight", ".lora_up.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".weight.lora_down", ".weight.lora_up"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        (".processor.x_lora.down.weight", ".x_lora.up.weight"),
    ],
)
def test_each_spelling_of_a_pair_is_known(down: str, up: str, path: Path) -> None:
    lora = read_lora(write(path, {"m" + down: (4, 8), "m" + up: (6, 4)}))
    assert (lora.kinds, lora.unused, len(lora.targets)) == (("lora",), (), 1)
    for alone, partner in ((down, up), (up, down)):
        message = reason(write(path, {"m" + alone: (4, 4)}))
        assert "missing" in message
        assert "m" + alone in message
        assert partner.rpartition("x")[2] in message


@pytest.mark.parametrize(
    ("shapes", "kinds", "rank"),
    [
        (PAIR, ("lora",), 4),
        ({"m.lora_down.weight": (1, 8), "m.lora_up.weight": (6, 1)}, ("lora",), 1),
        ({"m.lora_down.weight": (4, 8, 3, 3), "m.lora_up.weight": (6, 4, 1, 1)}, ("locon",), 4),
        (
            {"m.lora_down.weight": (4, 8, 1, 1), "m.lora_mid.weight": (4, 4, 3, 3), "m.lora_up.weight": (6, 4, 1, 1)},
            ("locon",),
            4,
        ),
        (HADA, ("loha",), 4),
        (TUCKER, ("loha",), 4),
        (LOKR, ("lokr",), 4),
        ({"m.lokr_w1": (2, 2), "m.lokr_w2": (3, 4)}, ("lokr",), None),
        ({"m.lokr_w1_a": (2, 1), "m.lokr_w1_b": (1, 2), "m.lokr_w2": (3, 4)}, ("lokr",), 1),
        ({"m.diff": (6, 8), "m.diff_b": (6,)}, ("diff",), None),
        ({**PAIR, "m.dora_scale": (6, 1)}, ("dora", "lora"), 4),
        ({**PAIR, "n.diff": (6, 8)}, ("diff", "lora"), 4),
        ({"m.weight": (6, 8)}, (), None),
    ],
)
def test_each_kind_of_adapter_is_told(shapes: Shapes, kinds: tuple[str, ...], rank: int | None, path: Path) -> None:
    lora = read_lora(write(path, shapes))
    assert lora.kinds == kinds
    assert lora.ranks.get("m") == rank


@pytest.mark.parametrize("quantised", ["", "Q8_0", "Q4_0"])
def test_gguf_is_described_as_safetensors_is(quantised: str, tmp_path: Path) -> None:
    shapes = {"m.lora_down.weight": (32, 64), "m.lora_up.weight": (96, 32), "m.alpha": ()}
    lora = read_lora(write_gguf(tmp_path / "a.gguf", shapes, quantised))
    assert (lora.format, lora.kinds, lora.ranks, lora.alphas) == ("gguf", ("lora",), {"m": 32}, {"m": 1.0})
    assert lora.tensors["m.lora_up.weight"] == (quantised or "F32", (96, 32))


def test_gguf_without_leading_ones_has_rank_one(tmp_path: Path) -> None:
    lora = read_lora(write_gguf(tmp_path / "a.gguf", {"m.lora_down.weight": (8,), "m.lora_up.weight": (6, 1)}))
    assert lora.ranks == {"m": 1}


@pytest.mark.parametrize(
    ("dtype", "raw", "value"),
    [("F32", b"\0\0\0\x40", 2.0), ("F16", b"\0\x40", 2.0), ("BF16", b"\0\x40", 2.0), ("I32", b"\2\0\0\0", 2.0)],
)
def test_alpha_is_read_in_each_type(dtype: str, raw: bytes, value: float, path: Path) -> None:
    assert with_alpha(path, dtype, raw).alphas == {"m": value}


def with_alpha(path: Path, dtype: str, raw: bytes) -> LoraFile:
    data = np.ones(56, np.float32).tobytes() + raw
    entries = {"m.lora_down.weight": ("F32", [4, 8], 0, 128), "m.lora_up.weight": ("F32", [6, 4], 128, 224)}
    entries["m.alpha"] = (dtype, [], 224, len(data))
    header = {name: {"dtype": d, "shape": s, "data_offsets": [b, e]} for name, (d, s, b, e) in entries.items()}
    return read_lora(safetensors(path, header, data))


@pytest.mark.parametrize(("dtype", "raw"), [("F32", b"\0\0\x80\x7f"), ("F16", b"\0\x7e"), ("BF16", b"\x80\xff")])
def test_alpha_that_is_not_finite_is_refused(dtype: str, raw: bytes, path: Path) -> None:
    with pytest.raises(LoraError, match=r"m\.alpha.*(inf|nan)"):
        with_alpha(path, dtype, raw)


def test_tensors_that_the_engine_passes_over_are_no_error(path: Path) -> None:
    header = {"note": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    header["m.diff"] = {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}
    assert read_lora(safetensors(path, header, b"1234")).targets == ("m",)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.bin"])
def test_pytorch_files_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    tensors = {"m.lora_down.weight": np.ones((4, 8), np.float32), "m.lora_up.weight": np.ones((6, 4), np.float32)}
    lora = read_lora(write_torch(tensors | {"m.dora_scale": np.ones((1, 8), np.float32)}, tmp_path / name))
    assert (lora.format, lora.kinds, lora.ranks) == ("torch", ("dora", "lora"), {"m": 4})


def test_a_truncated_pytorch_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    np.savez(path.with_suffix(".npz"), np.ones(9))
    whole = path.with_suffix(".npz").read_bytes()
    path.write_bytes(whole)
    assert "0 files data.pkl" in reason(path)
    path.write_bytes(whole[:-30])
    assert "truncated" in reason(path)


# Families and naming.


def pair(module: str, rows: int = 8, columns: int = 8) -> Shapes:
    return {f"{module}.lora_down.weight": (2, columns), f"{module}.lora_up.weight": (rows, 2)}


@pytest.mark.parametrize(
    ("shapes", "architecture", "naming"),
    [
        (pair(UNET, columns=768), "sd1", "kohya"),
        (pair(UNET, columns=1024), "sd2", "kohya"),
        (pair(UNET, columns=2048), "sdxl", "kohya"),
        (pair("unet.down_blocks.2.attentions.0.transformer_blocks.7.attn1.to_q"), "sdxl", "diffusers"),
        (pair("unet.up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q"), "sd1", "diffusers"),
        (pair("lora_unet_input_blocks_8_1_transformer_blocks_3_attn1_to_q"), "sdxl", "kohya"),
        (pair("lycoris_unet_down_blocks_0_attentions_0_proj_in"), "sd1", "lycoris"),
        (pair("unet_down_blocks_1_attentions_0_proj_in"), None, "underscore"),
        (pair("diffusion_model.single_blocks.0.linear1", 7, 1), "flux", "native"),
        (pair("diffusion_model.single_blocks.0.linear1", 9, 1), "flux2", "native"),
        (pair("diffusion_model.single_blocks.0.linear2", 3, 12), "flux2", "native"),
        (pair("transformer.single_transformer_blocks.3.attn.to_q"), "flux", "diffusers"),
        (pair("diffusion_model.double_stream_modulation_img.lin"), "flux2", "native"),
        (pair("transformer.transformer_blocks.0.attn.add_q_proj", columns=1536), "sd3", "diffusers"),
        (pair("diffusion_model.joint_blocks.0.x_block.attn.qkv"), "sd3", "native"),
        (pair("transformer.transformer_blocks.0.img_mlp.net.2"), "qwen_image", "diffusers"),
        (pair("diffusion_model.blocks.0.self_attn.q"), "wan", "native"),
        (pair("diffusion_model.layers.0.feed_forward.w1"), "z_image", "native"),
        (pair("something.else"), None, None),
    ],
)
def test_architecture_and_naming_are_told_from_the_keys(
    shapes: Shapes, architecture: str | None, naming: str | None, path: Path
) -> None:
    lora = read_lora(write(path, shapes))
    assert (lora.architecture, lora.naming) == (architecture, naming)
    assert lora.architecture_reason


# Files that are refused.


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").touch()
    assert "does not exist" in reason(tmp_path / "missing")
    assert "is a folder without adapter_model.safetensors or pytorch_lora" in reason(tmp_path)
    assert "is not a file" in reason(tmp_path / "pipe")
    assert reason(tmp_path / "loop")
    assert "is empty" in reason(tmp_path / "empty")
    with pytest.raises(LoraError, match="null"):
        read_lora(Path("a\0b"))


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_a_file_truncated_anywhere_is_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    shapes = {**PAIR, "n.diff": (2, 2)}  # the last tensor has no padding behind it
    whole = (write if ending == ".safetensors" else write_gguf)(path, shapes).read_bytes()
    end = len(whole) if ending == ".safetensors" else len(whole) - 16
    for length in range(1, end):
        path.write_bytes(whole[:length])
        reason(path)
    assert "truncated" in reason(path)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"nonsense", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "must be a JSON object, not a list"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"__metadata__":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001, "not valid JSON"),
        (b'{"__metadata__":{"a":NaN},"m.diff":' + json.dumps(ENTRY).encode() + b"}", "NaN"),
        (b'{"__metadata__":{"a":1e999},"m.diff":' + json.dumps(ENTRY).encode() + b"}", "1e999"),
        (b'{"m.diff":' + json.dumps(ENTRY).encode() + b',"m.diff":' + json.dumps(ENTRY).encode() + b"}", "twice"),
        ({}, "no tensor"),
        ({"__metadata__": {"a": "b"}}, "no tensor"),
        ({"m.diff": 1}, "a JSON object"),
        ({"m.diff": {}}, "dtype None"),
        ({"m.diff": ENTRY | {"dtype": "BOOL"}}, "F8_E5M2"),
        ({"m.diff": ENTRY | {"dtype": ["F32"]}}, "dtype"),
        ({"m.diff": ENTRY | {"shape": None}}, "shape None"),
        ({"m.diff": ENTRY | {"shape": [True]}}, "shape"),
        ({"m.diff": ENTRY | {"shape": [-1]}}, "shape"),
        ({"m.diff": ENTRY | {"shape": [1.0]}}, "shape"),
        ({"m.diff": ENTRY | {"shape": [0], "data_offsets": [0, 0]}}, "no elements"),
        ({"m.diff": ENTRY | {"shape": [1] * 6}}, "at most 5 dimensions in safetensors, not 6"),
        ({"m.diff": ENTRY | {"shape": [2]}}, "has 8 bytes, not 4"),
        ({"m.diff": ENTRY | {"shape": [2**62, 2**62]}}, "bytes, not 4"),
        ({"m.diff": ENTRY | {"data_offsets": [0]}}, "data_offsets"),
        ({"m.diff": ENTRY | {"data_offsets": [4, 0]}}, "not -4"),
        ({"m.diff": ENTRY | {"data_offsets": [6, 10]}}, "truncated"),
        ({"m.diff": ENTRY, "n.diff": ENTRY | {"data_offsets": [2, 6]}}, "overlaps"),
        ({"": ENTRY}, "a name must have 1 to 4096 bytes"),
        ({"m\0.diff": ENTRY}, "no NUL"),
        ({"m" * 5000: ENTRY}, "a name must have 1 to 4096 bytes"),
        (b'{"\\ud800":' + json.dumps(ENTRY).encode() + b"}", "UTF-8"),
    ],
)
def test_a_malformed_safetensors_header_is_refused(header: Any, said: str, path: Path) -> None:
    assert said in reason(safetensors(path, header, b"12345678"))


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 1000])
def test_a_header_longer_than_its_file_is_refused(length: int, path: Path) -> None:
    assert f"claims {length} bytes" in reason(safetensors(path, {"m.diff": ENTRY}, b"1234", length))


def test_a_header_of_many_megabytes_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**33) + b"{")
        file.truncate(2**33 + 100)  # sparse
    assert "a header may have at most 16777216" in reason(path)


@pytest.mark.parametrize(
    ("shapes", "tensor", "said"),
    [
        ({**PAIR, "m.lora_up.weight": (6, 3)}, "m.lora_up.weight", "rank 3"),
        ({**PAIR, "m.lora_up.weight": ()}, "m.lora_up.weight", "must be a matrix"),
        ({**PAIR, "m.alpha": (2,)}, "m.alpha", "single number"),
        ({**PAIR, "m.scale": (2,)}, "m.scale", "single number"),
        ({**PAIR, "m.lora_A.weight": (4, 8)}, "m.lora_A.weight", "same part of the same module"),
        ({**PAIR, "m.lora_mid.weight": (4, 5, 3, 3)}, "m.lora_mid.weight", "twice the rank"),
        ({"m.lora_mid.weight": (4, 4, 3, 3)}, "m.lora_mid.weight", "missing"),
        ({**HADA, "m.hada_w2_b": (3, 8)}, "m.hada_w2_a", "rank 4"),
        ({**HADA, "m.hada_w2_b": (4, 7)}, "m.hada_w2_a", "different shapes"),
        ({**HADA, "m.hada_t1": (4, 4, 3, 3)}, "m.hada_t1", "lacks hada_t2"),
        ({**TUCKER, "m.hada_t1": (4, 5, 3, 3)}, "m.hada_t1", "ranks [4, 4]"),
        (CORES, "m.hada_t1", "lacks hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b"),
        ({**LOKR, "m.lokr_w2_b": (5, 4)}, "m.lokr_w2_a", "rank 4"),
        ({**LOKR, "m.lokr_w1_a": (2, 2)}, "m.lokr_w1_a", "itself; one of the two"),
        ({**LOKR, "m.lokr_t2": (4, 4, 3, 3)}, "m.lokr_t2", "ranks [3, 4]"),
        ({"m.lokr_w1": (2, 2)}, "m.lokr_w1", "lacks lokr_w2_a, lokr_w2_b (or lokr_w2)"),
        ({**HADA, "m.alpha": (2,)}, "m.alpha", "single number"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(shapes: Shapes, tensor: str, said: str, path: Path) -> None:
    message = reason(write(path, shapes))
    assert repr(tensor) in message
    assert said in message


@pytest.mark.parametrize("factor", ["m.lora_A.weight", "m.lora_A.default.weight", "m.lora_down.weight", "m.hada_w1_a"])
@pytest.mark.parametrize(
    "end", ["weight_scale", "scale_weight", "scales", "weight.absmax", "weight.scale", "comfy_quant"]
)
def test_scales_of_factors_are_told(factor: str, end: str, path: Path) -> None:
    shapes = dict(HADA) if factor in HADA else {factor: (4, 8), factor.replace("A", "B").replace("down", "up"): (6, 4)}
    scale = f"{factor.removesuffix('.weight')}.{end}".replace("a.weight.", "a.")
    message = reason(write(path, {**shapes, scale: (1,)}))
    assert f"{scale!r} says how {factor!r} is to be read, as a scale does, which is not done in LoRA files" in message


@pytest.mark.parametrize("name", ["m.scale", "m.dora_scale"])
def test_a_scale_of_the_module_is_none_of_a_factor(name: str, path: Path) -> None:
    assert read_lora(write(path, {**PAIR, "m.weight": (6, 8), name: (6, 1) if "dora" in name else ()})).targets == (
        "m",
    )


@pytest.mark.parametrize(("dtype", "kind"), [(np.int64, "I64"), (np.float64, "")])
def test_factors_are_no_integers(dtype: type[np.generic], kind: str, path: Path) -> None:
    write(path, {name: shape for name, shape in PAIR.items() if shape}, dtype)
    if kind:
        assert f"{kind}, but only alpha, scale, scalar and on_input may be integers" in reason(path)
    else:
        assert read_lora(path).kinds == ("lora",)


@pytest.mark.parametrize("missing", [*HADA, "m.lokr_w2_a", "m.lokr_w2_b", "m.lokr_w1"])
def test_an_incomplete_set_is_refused(missing: str, path: Path) -> None:
    whole = HADA if missing in HADA else LOKR
    part = missing.removeprefix("m.")
    assert part in reason(write(path, {name: shape for name, shape in whole.items() if name != missing}))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"version": 1}, "not 1: convert"),
        ({"version": 3 << 24}, "version"),
        ({"tensors": 0}, "no tensor"),
        ({"tensors": 2**63}, "header"),
        ({"entries": 2**63}, "header"),
        ({"entries": 1, "metadata": metadata(b"a", 9, struct.pack("<IQ", 0, 2**60))}, "but the file is shorter"),
        ({"entries": 1, "metadata": metadata(b"a", 9, struct.pack("<IQ", 8, 2**60))}, "but the file is shorter"),
        ({"entries": 1, "metadata": metadata(b"a", 9, struct.pack("<IQ", 9, 1))}, "type 9"),
        ({"entries": 1, "metadata": metadata(b"a", 77, b"")}, "type 77"),
        ({"entries": 1, "metadata": metadata(b"general.alignment", 4, struct.pack("<I", 24))}, "power of two"),
        ({"entries": 1, "metadata": metadata(b"general.alignment", 4, struct.pack("<I", 0))}, "power of two"),
        ({"entries": 1, "metadata": metadata(b"general.alignment", 10, struct.pack("<Q", 32))}, "of type 10"),
        ({"name": b"\xff"}, "UTF-8"),
        ({"name": b""}, "a name must have 1 to 4096"),
        ({"name": b"m" * 5000}, "must have at most 4096 bytes, not 5000"),
        ({"shape": (1,) * 5}, "at most 4 dimensions in gguf, not 5"),
        ({"shape": (2**32 - 1,) * 4}, "truncated"),
        ({"shape": (0,)}, "no elements"),
        ({"shape": (33,), "kind": 8}, "a multiple of 32"),
        ({"kind": 4}, "type 4 is not one of 0 (F32), 1 (F16), 2 (Q4_0)"),
        ({"kind": 9}, "type 9"),
        ({"kind": 41}, "type 41"),
        ({"offset": 8}, "alignment 32"),
        ({"offset": 2**63}, "truncated"),
        ({"data": 127}, "truncated"),
    ],
)
def test_a_malformed_gguf_header_is_refused(parts: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes())
    assert read_lora(path).targets == ("m",)
    path.write_bytes(gguf_bytes(**parts))
    assert said in reason(path)


def test_gguf_names_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    entry = struct.pack("<Q", 6) + b"m.diff" + struct.pack("<IQIQ", 1, 1, 0, 0)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 2, 0) + 2 * entry + bytes(99))
    assert "twice" in reason(path)


# Hostile files, and the memory of files already read.


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_mutated_files_are_read_or_refused_soon(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    plain = {f"plain{index}.diff": (index,) for index in range(1, 9)}
    whole = (write if ending == ".safetensors" else write_gguf)(path, {**PAIR, **TUCKER, **LOKR, **plain}).read_bytes()
    rng = random.Random(7)
    refused = 0
    started = time.perf_counter()
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        try:
            read_lora(path)
        except LoraError:
            refused += 1
    assert 100 < refused < 300, "both outcomes are met"
    assert time.perf_counter() - started < 20


def test_a_file_is_read_again_only_when_it_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers: list[Path] = []
    read_header = _lora_file.read_header
    monkeypatch.setattr(_lora_file, "read_header", lambda path: headers.append(path) or read_header(path))
    first = read_lora(write(path, PAIR))
    (path.parent / "link").symlink_to(path)
    assert read_lora(path.parent / "link").path == path.parent / "link"
    assert read_lora(path) is first
    headers.clear()
    os.utime(path, ns=(0, 1))
    assert read_lora(path) == first
    write(path, {**PAIR, "n.diff": (1,)})
    os.utime(path, ns=(0, 1))
    assert read_lora(path).targets == ("m", "n")
    assert len(headers) == 2
