"""Flags for a Ray cluster, with and without Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sdcffi import cli


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ray", "-p", "a"], "--ray is for --prompts"),
        (["--prompts", "p.txt", "--ray-concurrency", "2"], "are for --ray"),
        (["--prompts", "p.txt", "--ray", "--no-metadata"], "--no-metadata cannot be used with --ray"),
        (["--prompts", "p.txt", "--ray", "--preview", "proj"], "--preview cannot be used with --ray"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags: list[str], said: str, capfd: Any) -> None:
    assert cli.main(["generate", "-m", "m.gguf", *flags]) == 2
    assert said in capfd.readouterr().err


def test_without_ray_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    for name in [name for name in sys.modules if name.startswith("sdcffi.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "p.txt").write_text("a cat")
    assert cli.main(["generate", "-m", "m.gguf", "--prompts", f"{tmp_path}/p.txt", "--ray"]) == 1
    assert "--ray: sdcffi.ray needs Ray: pip install 'sdcffi[ray]'" in capfd.readouterr().err
