"""Exceptions: plain data, and where Python has one of the kind, that one too."""

from __future__ import annotations

import pickle
import sys
import traceback
from pathlib import Path

import pytest
from tiny_model import TinyModel

import sdcffi
from sdcffi import Engine, Record, SDError
from sdcffi._models.loras import as_loras
from sdcffi.engine.results import check_image_path
from sdcffi.images.convert import as_rgb
from sdcffi.parameter_files import read_arguments

ALSO: dict[str, type[Exception]] = {
    "GenerationTimeoutError": TimeoutError,
    "LibraryNotFoundError": FileNotFoundError,
    "LoraNotFoundError": FileNotFoundError,
    "OutOfMemoryError": MemoryError,
}


@pytest.mark.parametrize("name", [name for name in sdcffi.__all__ if name.endswith("Error")])
def test_an_error_keeps_its_message_and_log_through_a_pickle(name: str) -> None:
    kind: type[Exception] = getattr(sdcffi, name)
    if name == "PathNotFoundError":
        copy = pickle.loads(pickle.dumps(kind("x does not exist")))
        assert (type(copy), str(copy)) == (kind, "x does not exist")
        assert issubclass(kind, ValueError)
        assert issubclass(kind, FileNotFoundError)
        return
    assert issubclass(kind, SDError)
    assert issubclass(kind, ALSO.get(name, Exception))
    copy = pickle.loads(pickle.dumps(kind("it failed", ("error: why",))))
    assert (type(copy), copy.message, copy.log) == (kind, "it failed", ("error: why",))
    assert str(copy) == "it failed", "what a service shows to its clients has no log"
    assert "native log, last 1 lines:\n  error: why" in "\n".join(copy.__notes__)
    assert not hasattr(kind("it failed"), "__notes__")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 shows no notes")
def test_a_traceback_shows_the_log() -> None:
    error = sdcffi.ModelLoadError("it failed", ("error: why",))
    assert "".join(traceback.format_exception(error)).endswith("it failed\nnative log, last 1 lines:\n  error: why\n")


def test_a_path_that_does_not_exist_is_pythons_error_too(tiny_model: TinyModel, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    attempts = [
        lambda: Engine(missing / "model.gguf"),
        lambda: Engine(**{**tiny_model.engine_arguments(), "taesd": missing / "taesd.safetensors"}),
        lambda: as_loras([missing / "lora.safetensors"]),
        lambda: as_loras(["name"], lora_dir=tmp_path),
        lambda: as_rgb(missing / "image.png", "init_image"),
        lambda: check_image_path(missing / "image.png"),
        lambda: Record.from_file(missing / "image.png"),
        lambda: Record.from_file(missing / "record.json"),
        lambda: read_arguments(missing / "parameters.toml"),
        lambda: sdcffi.convert(tiny_model.llm, missing / "out.gguf", type="q8_0"),
        lambda: Engine(**tiny_model.engine_arguments(), library=missing),
    ]
    for attempt in attempts:
        with pytest.raises(FileNotFoundError, match=r"missing|not found"):
            attempt()
