"""Programs that PyInstaller made: they serve as the engine's child process, by a runtime hook of the package."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from tiny_model import TinyModel

from sdcffi import Engine, SDError
from sdcffi._pyinstaller import hook_directories

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

(HOOKS,) = map(Path, hook_directories())
# A program without an interpreter: what starts it gives its arguments to the runtime hook first, as PyInstaller does.
PROGRAM = """\
import multiprocessing, os, runpy, sys
sys.frozen, sys.executable = True, os.environ["PROGRAM"]
multiprocessing.set_executable(sys.executable)
runpy.run_path({hook!r})
print("the program begins", flush=True)
from sdcffi import Engine
with Engine(**{files!r}, threads=1, backend="cpu") as engine:
    result = engine.generate("a cat", width=64, height=64, steps=1, cfg_scale=1.0, seed=7)
    assert engine.pid != os.getpid()
print(result)
"""


def test_the_hooks_are_where_pyinstaller_looks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pyinstaller40"] == {"hook-dirs": "sdcffi._pyinstaller:hook_directories"}
    assert (HOOKS / "hook-sdcffi.py").is_file()
    hooks = ast.literal_eval((HOOKS / "rthooks.dat").read_text("utf-8"))
    assert [(HOOKS / "rthooks" / name).is_file() for name in hooks["sdcffi"]] == [True]


def test_a_frozen_program_without_the_hook_is_not_started_again_and_again(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(SDError, match="cannot serve as the engine's child process: freeze it with PyInstaller"):
        Engine(**tiny_model.engine_arguments(), backend="cpu")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a frozen program is a shell script")
def test_a_frozen_program_serves_as_its_own_child(tiny_model: TinyModel, tmp_path: Path) -> None:
    files = {name: str(path) for name, path in tiny_model.engine_arguments().items()}
    hook = str(HOOKS / "rthooks" / "pyi_rth_sdcffi.py")
    (tmp_path / "app.py").write_text(PROGRAM.format(hook=hook, files=files))
    program = tmp_path / "app"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/app.py" "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PROGRAM": str(program), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "the program begins"
    assert done.stdout.count("the program begins") == 1
    assert "<Result: 1 image of 64x64, seed 7" in done.stdout
