"""Files that are not what their names say, and names that would make the engine do work without end."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from header_files import safetensors, write
from model_headers import FLUX2, LLM, prefixed, read

from sdcffi._models.files import read_file
from sdcffi._models.headers import HeaderError


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 6938040682\n", "'git lfs pull'"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "a web page (HTML)"),
        (b"\xef\xbb\xbf\n <HTML lang='en'>", "a web page (HTML)"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is XML"),
        (b'{"error": "Repository not found", "code": 404, "more": "..."}', "it is JSON text"),
        (b"Entry not found, or you have no access to it", "it is text, which begins 'Entry not found"),
        (gzip.compress(bytes(1000), mtime=0), "compressed by gzip"),
        (tar(), "a tar archive"),
        (b"\x93NUMPY\1\0" + bytes(200), "an array of numpy"),
        (b"FUGG" + bytes(200), "big-endian machine"),
        (bytes(5000), "begins with 512 zeros"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "an image"),
        (np.random.default_rng(1).bytes(4000), "it is no safetensors, gguf or PyTorch file"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.gguf"])
def test_a_file_of_another_kind_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HeaderError) as caught:
        read_file("vae_path", tmp_path / name)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("number", ["1000000000", "1001", "99999999999999999999999999"])
def test_a_number_within_a_name_has_a_limit(number: str, tmp_path: Path) -> None:
    shapes = FLUX2 | {f"double_blocks.{number}.img_attn.qkv.weight": (24, 8)}
    with pytest.raises(HeaderError, match=f"may be at most 1000, not '{number}'"):
        read(tmp_path, diffusion_model=shapes, llm=LLM)
    allowed = prefixed({"blocks.1000.a": (2, 2), "t5000": (2,), "time2000.weight": (2, 2)})
    assert read(tmp_path, model=allowed, vae={"a": (2,)}).files


def test_a_header_of_many_tensors_is_refused_soon(tmp_path: Path) -> None:
    entries = ",".join(
        f'"m.{index}.lora_down.weight":{{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}' for index in range(100_000)
    )
    path = safetensors(tmp_path / "a.safetensors", f"{{{entries}}}".encode(), b"12")
    started = time.process_time()
    with pytest.raises(HeaderError, match="at most 32768 tensors, not 100000"):
        read_file("vae_path", path)
    assert time.process_time() - started < 1


def test_tensors_that_another_program_reshaped_are_named(tmp_path: Path) -> None:
    def made(stored: tuple[int, ...], noted: list[int] | None) -> Path:
        path = tmp_path / "a.gguf"
        writer = gguf.GGUFWriter(path, "sdxl")
        if noted:
            writer.add_array("comfy.gguf.orig_shape.m.weight", noted)
        writer.add_tensor("m.weight", np.zeros(stored, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    with pytest.raises(HeaderError, match=r"'m.weight' is stored with shape \[9, 256\] in place of \[256, 1, 3, 3\]"):
        read_file("diffusion_model_path", made((9, 256), [256, 1, 3, 3]))
    for same in (None, [9, 256], [1, 9, 256]):
        assert read_file("diffusion_model_path", made((9, 256), same)).tensors["m.weight"].shape == (9, 256)


def test_a_type_that_the_engine_does_not_read_says_what_to_get(tmp_path: Path) -> None:
    header = {"m.weight": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}
    path = safetensors(tmp_path / "a.safetensors", header, b"1")
    with pytest.raises(HeaderError, match=r"'m.weight': dtype 'F4' is not one of F16, .* or as gguf"):
        read_file("llm_path", path)


def test_a_header_says_more_than_the_file_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"m.weight": (4, 4)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(HeaderError, match="truncated"):
        read_file("llm_path", path)
    path.write_bytes(struct.pack("<Q", 1 << 40) + json.dumps({}).encode() + bytes(9))
    with pytest.raises(HeaderError, match="the header claims 1099511627776 bytes"):
        read_file("llm_path", path)


def test_what_a_header_says_is_shortened_in_messages(tmp_path: Path) -> None:
    for entry in (
        {"dtype": "F16", "shape": [1e5] * 100_000, "data_offsets": [0, 2]},
        {"dtype": "F16" * 100_000, "shape": [1], "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [10**4000], "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [0, 10**4000], "data_offsets": [0, 2]},
    ):
        path = safetensors(tmp_path / "a.safetensors", {"m.weight": entry}, b"12")
        with pytest.raises(HeaderError) as caught:
            read_file("vae_path", path)
        assert len(str(caught.value)) < 1000
