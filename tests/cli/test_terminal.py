"""What reaches a terminal: no control characters of others, whatever their files are called; and what comes from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from header_files import write
from model_headers import SD1

import sdcffi
from sdcffi import cli
from sdcffi._quoting import printable, shortened, shown, shown_path
from sdcffi.cli.grid import parse_axis

Capture = pytest.CaptureFixture[str]
NASTY = "a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egpj.exe\x7f"
CONTROLS = "\x1b\x07\r\x9b\u202e\x7f"


def test_names_of_files_and_tensors_do_not_steer_the_terminal(tmp_path: Path, capfd: Capture) -> None:
    write(tmp_path / f"{NASTY}.safetensors", {**SD1, f"{NASTY}.weight": (4, 4)}, np.float16)
    shown_ones = 0
    for command in (
        ["models", "inspect", f"{NASTY}.safetensors"],
        ["models", "inspect", f"{NASTY}.safetensors", "--json"],
        ["models", "inspect", f"{NASTY}.gguf"],
        ["lora", "inspect", f"{NASTY}.safetensors"],
        ["upscale", f"{NASTY}.png", "--model", f"{NASTY}.safetensors"],
        ["convert", f"{NASTY}.gguf", f"{NASTY}.safetensors"],
        ["replay", f"{NASTY}.png"],
        ["generate", "-m", f"{NASTY}.gguf", "-p", "a", f"--{NASTY}"],
    ):
        cli.main([str(tmp_path / word) if word.startswith("a\x1b") else word for word in command])
        for text in capfd.readouterr():
            assert not set(CONTROLS) & set(text), command
            shown_ones += "owned" in text
    assert shown_ones >= 7


def test_what_is_printed_for_machines_stays_json() -> None:
    assert json.loads(printable(json.dumps({"a": NASTY}, ensure_ascii=False))) == {"a": NASTY}
    assert (
        printable("plain\ttext\nof two lines: \xe4\u4e2d\U0001f600")
        == "plain\ttext\nof two lines: \xe4\u4e2d\U0001f600"
    )
    assert printable(NASTY) == r"a\x1b]0;owned\x07\x1b[2J\x0d\u009b31m\u202egpj.exe\u007f"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such locale")
def test_a_prompt_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = str(Path(sdcffi.__file__).parent.parent)
    code = (
        "import sys; from sdcffi import cli; from sdcffi.engine.engine import Engine\n"
        "Engine.__init__ = lambda self, **given: None\n"
        "Engine.__enter__ = lambda self: self\n"
        "Engine.__exit__ = lambda *given: None\n"
        "def generate(self, prompt, params, **given): raise ValueError(ascii([prompt, params.negative_prompt]))\n"
        "Engine.generate = generate\n"
        "cli.main(sys.argv[1:])"
    )
    words = ["generate", "-m", "кот.gguf", "-p", "кот", "-n", "猫", "-o", str(tmp_path / "кот.png")]
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    assert ascii(["кот", "猫"]) in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["demo", "-p", "кот", "-p", "猫"], ["кот", "猫"]),
        (["tokens", "-m", "m.gguf", "кот"], "кот"),
        (["grid", "-m", "m.gguf", "--x", "steps=1", "-p", "кот"], "кот"),
    ],
)
def test_every_command_takes_prompts_in_utf_8(words: list[str], found: Any) -> None:
    as_read = [word.encode().decode("ascii", "surrogateescape") for word in words]
    with mock.patch("os.fsencode", lambda text: text.encode("ascii", "surrogateescape")):
        options = cli.parser().parse_args(as_read)
        axis = parse_axis("prompt=" + "кот|猫".encode().decode("ascii", "surrogateescape"), "--x")
    assert (options.prompts if words[0] == "demo" else options.prompt) == found
    assert axis.values == ("кот", "猫")


class Raising:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value",
    [
        *("a" * 10**8, b"a" * 10**8, bytearray(10**8), 10**100_000, -(10**4000), [0] * 10**7, {"a" * 10**7: 1}),
        *((Raising(),) * 100, Raising(), np.zeros((4000, 4000)), NASTY * 1000, [[[[[[[[[1]]]]]]]]] * 100),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_any_size_is_shown_short_and_at_once(value: Any) -> None:
    started = time.perf_counter()
    text = shown(value)
    assert time.perf_counter() - started < 0.2
    assert 0 < len(text) <= 60
    assert not set(CONTROLS + "\n") & set(text)


@pytest.mark.parametrize(
    "value", [1, -1.5, "a", b"a", None, [1, 2], {"a": (1,)}, "it's", 2**190, np.float32(0.5), Path("a")]
)
def test_a_short_value_is_shown_as_it_is(value: Any) -> None:
    assert shown(value) == repr(value)


def test_long_paths_and_texts_lose_their_middle() -> None:
    assert shown_path("/a/" + "b" * 200) == "/a/" + "b" * 200
    assert len(shown_path("/a/" + "b" * 10**7 + "/c.png")) < 310
    assert shown_path("/a/" + "b" * 10**7 + "/c.png").endswith("/c.png")
    assert len(shortened(ValueError("x" * 10**7))) < 210
