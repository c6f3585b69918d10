"""Small C++ programs that print what a header of csrc computes, without an engine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sdcffi._build.places import csrc_directory


def compiled(program: str, place: Path, *flags: str) -> Path:
    """Compile a program in the directory `place`, and return its file; the test is skipped without a compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, built = place / "main.cpp", place / "program"
    source.write_text(program, "utf-8")
    subprocess.run([compiler, "-std=c++17", f"-I{csrc_directory()}", *flags, source, "-o", built], check=True)
    return built
