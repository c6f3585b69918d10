"""Upstream's `sd-cli` from the source of our build but without our patches, built with all options at default."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import engines
import filelock

from sdcffi._build.commands import run_logged, say
from sdcffi._build.sources import Source
from sdcffi._build.tools import CMAKE, NINJA
from sdcffi._files import cache_directory, replacing


def sd_cli() -> Path:
    """The program, from the user's cache directory; compiled the first time, which takes minutes."""
    source = engines.source()
    directory = cache_directory() / "bench" / f"sd-cli-{str(source.sha256)[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / "lock"):
        program = directory / "sd-cli"
        if not program.is_file():
            _compile(source, directory, program)
    return program


def _compile(source: Source, directory: Path, program: Path) -> None:
    tree, build = directory / "upstream", directory / "cmake"
    if not build.is_dir():  # what an interruption left of the tree is not trusted, that of the compiler is
        shutil.rmtree(tree, ignore_errors=True)
        source.fetch().unpack(tree)
    say(f"compiling upstream's sd-cli without patches in {directory}")
    configure = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={NINJA.find()}", "-DCMAKE_BUILD_TYPE=Release"]
    nice = ["nice", "-n", "19"] if shutil.which("nice") else []
    for command in (
        [str(CMAKE.find()), "-S", str(tree), "-B", str(build), *configure],
        [*nice, str(NINJA.find()), "-C", str(build), "sd-cli"],
    ):
        run_logged(command, directory / "build.log", os.environ)
    with replacing(program) as temporary:
        shutil.copy2(build / "bin" / "sd-cli", temporary)
    for finished in (tree, build):
        shutil.rmtree(finished)
