"""The examples of the documentation that use packages of others run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT
from serving import Running

_FENCED = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = _FENCED.findall((ROOT / "sdcffi" / "docs" / "serve.md").read_text("utf-8"))


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(demo_server: Running, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = re.findall(r"^import (openai|webuiapi)$", example, re.MULTILINE)
    pytest.importorskip(package[0])
    monkeypatch.chdir(tmp_path)
    exec(example.replace("7860", demo_server.url.rpartition(":")[2]), {})
    assert (tmp_path / "heart.png").exists()
