"""PyTorch files are looked through without running anything in them."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import write_old_torch, write_torch

from sdcffi._models.headers import HeaderError, read_header

ARRAYS: dict[str, Any] = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.alpha": np.float32(4).reshape(()),
    "half": np.ones((2, 2), np.float16),
}


@pytest.mark.parametrize("write", [write_torch, write_old_torch])
@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.bin", "a.safetensors"])
def test_names_shapes_and_places_are_those_of_the_data(write: Any, name: str, tmp_path: Path) -> None:
    path = write(ARRAYS, tmp_path / name)
    kind, tensors = read_header(path)
    assert kind == "torch"
    assert tensors.keys() == ARRAYS.keys()
    content = path.read_bytes()
    for key, array in ARRAYS.items():
        tensor = tensors[key]
        assert (tensor.dtype, tensor.shape) == ({4: "F32", 2: "F16"}[array.itemsize], array.shape)
        assert content[tensor.begin : tensor.begin + tensor.size] == array.tobytes()


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in more.items():
            file.writestr(f"archive/{name}", content)
    return path


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch ran",)


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b")" + b"\x85" * depth + b"."


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (pickle.dumps({"a": _Runs()}, 2), "has no tensors that the engine finds"),
        (pickle.dumps(OrderedDict(), 2), "has no tensors"),
        (b"\x80\x02ctorch.nn\nParameterDict\n)\x81.", "an object of 'torch.nn.ParameterDict', which is not made here"),
        (nested(101), "nested deeper than 100"),
        (nested(3_000_000), "nested deeper than 100"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "has no tensors"),
        (b"\x80\x02h\x07.", "malformed or truncated"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "malformed or truncated"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "malformed or truncated"),
        (b"\x80\x02}q\x00", "malformed or truncated"),
        (b"\x80\x02].", "has no tensors"),
        (b"\x80\x02s.", "malformed or truncated"),
        (b"\x80\x02N(u.", "fills what is no dict"),
        (b"\x80\x02(" + b"N" * 4000 + b"tq\0" + b"h\0" * 20_000 + b".", "copies more than 20000000 values"),
        (b"\x80\x02" + b"N0" * 1_000_001 + b".", "at most 2000000 steps"),
    ],
)
def test_a_hostile_pickle_is_refused_soon(
    pickled: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", pickled)
    started = time.process_time()
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    assert said in str(caught.value)
    assert time.process_time() - started < 15  # 2 s for the two million steps
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_the_engine_would_misread_is_refused(tmp_path: Path) -> None:
    whole = write_torch(ARRAYS, tmp_path / "whole.pt")
    with zipfile.ZipFile(whole) as file:
        contents = {name: file.read(name) for name in file.namelist()}

    def changed(compression: int = zipfile.ZIP_STORED, **more: bytes | None) -> Path:
        with zipfile.ZipFile(tmp_path / "changed.pt", "w", compression) as file:
            for name, content in {**contents, **{f"archive/{key}": value for key, value in more.items()}}.items():
                if content is not None:
                    file.writestr(name, content)
        return tmp_path / "changed.pt"

    assert read_header(changed())[1].keys() == ARRAYS.keys()
    for said, path in (
        ("big-endian", lambda: changed(byteorder=b"big")),
        ("TorchScript", lambda: changed(**{"code/__torch__.py": b""})),
        ("compressed", lambda: changed(zipfile.ZIP_DEFLATED)),
        ("2 files data.pkl", lambda: changed(**{"more/data.pkl": b""})),
        ("data archive/data/0 is missing", lambda: changed(**{"data/0": None})),
        ("its data end at byte", lambda: changed(**{"data/0": b"1234"})),
    ):
        with pytest.raises(HeaderError, match=said):
            read_header(path())
    content = whole.read_bytes()
    at = content.rfind(b"PK\x05\x06")
    whole.write_bytes(content[: at + 12] + struct.pack("<I", 1 << 31) + content[at + 16 :])
    with pytest.raises(HeaderError, match="list of files may have at most"):
        read_header(whole)


@pytest.mark.parametrize(
    "array",
    [
        np.ones((2, 3), np.float32).T,
        np.ones((4, 1, 1, 3), np.float32).transpose(0, 3, 1, 2),  # a 1x1 kernel, which .contiguous() leaves as it is
    ],
)
def test_a_tensor_that_the_engine_would_not_read_is_refused(array: Any, tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match=r"'t' is stored transposed.*save it as tensor\.clone\(memory_format="):
        read_header(write_torch({"t": array}, tmp_path / "a.pt"))


def test_old_files_are_read_to_their_end(tmp_path: Path) -> None:
    path = write_old_torch(ARRAYS, tmp_path / "a.pt")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HeaderError, match="truncated"):
        read_header(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(HeaderError, match=r"not of torch\.save"):
        read_header(path)


def test_changed_bytes_never_end_in_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for write in (write_torch, write_old_torch):
        whole = bytearray(write(ARRAYS, tmp_path / "a.pt").read_bytes())
        for _ in range(400):
            content = bytearray(whole)
            for at in rng.integers(0, len(content), 3):
                content[at] = rng.integers(256)
            (tmp_path / "b.pt").write_bytes(content)
            with contextlib.suppress(HeaderError):
                read_header(tmp_path / "b.pt")


def test_many_tensors_of_an_archive_are_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    content.write(b"\x80\x02}(")
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"
    for index in range(10_001):
        name = f"m{index}".encode()
        content.write(b"X" + struct.pack("<I", len(name)) + name)
        content.write(b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\1\x85K\1\x85\x89NtR")
    content.write(b"u.")
    path = archive(tmp_path / "a.pt", content.getvalue(), **{"data/0": b"1234"})
    with pytest.raises(HeaderError, match="at most 10000 tensors, not 10001"):
        read_header(path)
