"""From an empty cache to an image by one line, and again without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hub_server
import numpy as np
import pytest
from PIL import Image
from sdcli import Pixels
from small_catalogue import small_catalogue
from tiny_model import TinyModel

RECOMMENDED = {"steps": 2, "width": 64, "height": 64, "cfg_scale": 1}


@pytest.mark.parametrize("word", ["generate", "pull"])
def test_one_line_downloads_loads_and_generates_and_then_offline(
    word: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    parts = {name: Path(path) for name, path in tiny_model.engine_arguments().items()}
    own = tmp_path / "own.toml"
    files = {name: f"hf://o/tiny/{path.name}" for name, path in parts.items()}
    own.write_text(small_catalogue(files, recommended=RECOMMENDED), "utf-8")
    with hub_server.running() as hub:
        hub.add("o/tiny", {path.name: path.read_bytes() for path in parts.values()})
        environment = {**hub_server.environment(tmp_path, hub), "SDCFFI_CATALOGUE": str(own)}

        def run(*words: str, **changes: str) -> str:
            command = [sys.executable, "-m", "sdcffi", *words]
            changed = {**environment, **changes}
            done = subprocess.run(command, env=changed, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def generate(name: str, **changes: str) -> Pixels:
            output = tmp_path / name
            run("generate", "-m", "catalogue:tiny", "-p", "a cat", "-s", "7", "-t", "1", "-o", str(output), **changes)
            return np.asarray(Image.open(output))

        if word == "pull":
            run("models", "pull", "tiny")
            models = {model["name"]: model for model in json.loads(run("models", "list", "--json"))["models"]}
            assert [variant["downloaded"] for variant in models["tiny"]["variants"]] == [True]
        first = generate("first.png")
        assert first.shape == (64, 64, 3)
        assert len(hub.transfers()) == len(parts)
        hub.seen.clear()
        assert np.array_equal(generate("second.png", HF_HUB_OFFLINE="1"), first)
        assert hub.seen == []
