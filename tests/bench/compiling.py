"""Compile a small C++ file of the bench for this processor, once, into the user's cache directory."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sdcffi._files import cache_directory, replacing

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-pthread")


class CompilerError(Exception):
    """There is no compiler, or it failed; the message has what it said."""


def compiled(source: str, *flags: str) -> Path:
    """Return the program or library made of a file in this directory; `flags` come after `FLAGS` and the file."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise CompilerError(f"no C++ compiler to compile {source} with")
    path = SOURCES / source
    command = [compiler, *FLAGS, str(path), *flags]
    built = cache_directory() / "bench" / "programs" / f"{path.stem}-{_digest(path, command)}"
    if not built.is_file():
        built.parent.mkdir(parents=True, exist_ok=True)
        with replacing(built) as temporary:
            _run([*command, "-o", str(temporary)])
    return built


def _digest(source: Path, command: Sequence[str]) -> str:
    """What the result depends on: the command, the file, and the processor, which the cache may outlive."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256(repr((command, source.read_bytes(), flags)).encode()).hexdigest()[:16]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise CompilerError(f"{' '.join(command)}:\n{done.stdout[-4000:]}")
