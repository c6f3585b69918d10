"""Copies of the native build: with GPUs that are the CPU underneath, and with what breaks a build."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines import source_tree

from sdcffi._machine.backends import BACKENDS
from sdcffi._machine.builds import MANIFEST, NativeBuild, locate

_SOURCE = Path(__file__).with_name("stub_gpu.c")


def copied(directory: Path, build: NativeBuild | None = None) -> Path:
    """Copy a build, by default the one that the package uses, without sd-cli."""
    build = build or locate()
    shutil.copytree(build.directory, directory, ignore=shutil.ignore_patterns("sd-cli*"))
    manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
    manifest["files"].pop(manifest["cli"] or "", None)
    manifest["cli"] = None
    (directory / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return directory


def add_plugin(directory: Path, backend: str, file: Path) -> None:
    """Take a file into a copy as the plug-in of a backend."""
    shutil.copy(file, directory / file.name)
    manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
    manifest["backends"][backend] = [file.name]
    manifest["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (directory / MANIFEST).write_text(json.dumps(manifest), "utf-8")


def with_stubs(directory: Path, *backends: str, build: NativeBuild | None = None) -> Path:
    """Copy a build, and give it plug-ins of these backends compiled from stub_gpu.c."""
    copied(directory, build)
    for backend in backends:
        add_plugin(directory, backend, compile_stub(backend, directory.parent))
    return directory


def compile_stub(backend: str, directory: Path) -> Path:
    """Compile stub_gpu.c as the plug-in of a backend."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    native, file = locate().directory, directory / f"libggml-{backend}.so"
    libraries = [str(native / f"libsdcffi-ggml{part}.so") for part in ("", "-base")]
    name = f'-DNAME="{BACKENDS[backend]}"'
    interface = (source_tree() / "ggml" / "src" / "ggml-backend-impl.h").read_text("utf-8")
    more = interface.count("et_tensor_2d_async)")  # set and get, which came in between
    flags = [
        f"-DMORE_FUNCTIONS={more}",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-Wno-pedantic",
        "-Wl,-rpath,$ORIGIN",
        name,
    ]
    built = subprocess.run(
        [compiler, *flags, str(_SOURCE), *libraries, "-o", str(file)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return file
