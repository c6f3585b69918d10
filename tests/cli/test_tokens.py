"""`sdcffi tokens`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from sdcli import flags
from tiny_model import TinyModel

from sdcffi import Engine, cli

Capture = pytest.CaptureFixture[str]


def test_the_command_prints_what_the_method_returns(tiny_model: TinyModel, capfd: Capture) -> None:
    prompt = "a (cat:1.3)"
    with Engine(**tiny_model.engine_arguments(), backend="cpu", load_weights=False) as engine:
        found = engine.tokens(prompt)
    arguments = ["tokens", prompt, *flags(**tiny_model.engine_arguments()), "--backend", "cpu"]
    assert cli.main([*arguments, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(found.as_dict()))
    assert cli.main(arguments) == 0
    lines = capfd.readouterr().out.splitlines()
    count = len(found.encoders[0].chunks[0].tokens)
    assert lines[0] == f"llm: {count} tokens of at most 512, in 1 chunk"
    assert "cat(" in lines[1]
    assert lines[-1] == f"note: {found.notes[0]}"


def test_a_wrong_backtrack_is_named_by_its_flag(tiny_model: TinyModel, capfd: Capture) -> None:
    arguments = ["tokens", "a cat", *flags(**tiny_model.engine_arguments()), "--backend", "cpu"]
    assert cli.main([*arguments, "--comma-backtrack", "75"]) == 2
    assert "comma_backtrack must be from 0 to 74, not 75" in capfd.readouterr().err


def test_what_generate_takes_is_shown(tiny_model: TinyModel, capfd: Capture) -> None:
    """A model without weights in prompts has no wrong ones, and a LoRA's tag is no text."""
    given = {**tiny_model.engine_arguments(), "lora_model_dir": tiny_model.lora.parent}
    command = ["tokens", "release (version:1.2.3) <lora:lora:1>", *flags(**given), "--backend", "cpu"]
    assert cli.main(command) == 0
    shown = capfd.readouterr().out
    assert "version(" in shown
    assert "lora(" not in shown
    command[1] = "a <lora:nowhere:1>"
    assert cli.main(command) != 0
    assert "nowhere" in capfd.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_terminal_of_few_characters_is_no_error(encoding: str, form: list[str], tiny_model: TinyModel) -> None:
    words = ["tokens", "a \U0001f600", *flags(**tiny_model.engine_arguments()), "--backend", "cpu", *form]
    done = subprocess.run(
        [sys.executable, "-m", "sdcffi", *words],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
        capture_output=True,
        check=True,
    )
    if form:
        texts = [token["text"] for token in json.loads(done.stdout)["encoders"][0]["chunks"][0]["tokens"]]
        assert " \U0001f600" in texts
