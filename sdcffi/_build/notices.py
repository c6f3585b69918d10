"""The licences of the sources of a build, for whoever distributes it.

The licence of a file is in the licence files of its directory and of those above, and in its own comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import run_captured
from .tools import NINJA

if TYPE_CHECKING:
    from .plan import BuildPlan

_LICENCE_FILE = re.compile(r"(?:licen[cs]e|copying|notice)", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/|(?:^[ \t]*//[^\n]*\n)+", re.DOTALL | re.MULTILINE)
_NOTICE = re.compile(r"\bcopyright\b.*\b(?:\d{4}|permission)", re.IGNORECASE | re.DOTALL)
_SPDX = re.compile(r"SPDX-(?:FileCopyrightText|License-Identifier): .*")  # https://spdx.dev/learn/handling-license-info
_RULE = "=" * 80


def compiled_files(plan: BuildPlan) -> list[Path]:
    """Return the files of upstream's tree that the compilers read for a plan's build, headers too."""
    ninja = [str(NINJA.find()), "-C", str(plan.build_directory), "-t"]
    listing = run_captured([*ninja, "deps"], "ninja does not list what was compiled")
    outputs = {line.partition(": #deps ")[0] for line in listing.splitlines() if ": #deps " in line}
    commands = json.loads(run_captured([*ninja, "compdb"], "ninja does not list what was compiled"))
    names = {line.strip() for line in listing.splitlines() if line.startswith(" ")}
    names |= {command["file"] for command in commands if command["output"] in outputs}  # MSVC lists headers only
    paths = {(plan.build_directory / name).resolve() for name in names}
    root = plan.tree.resolve()
    return sorted(path for path in paths if path.is_relative_to(root) and path.is_file())


def notices(tree: Path, files: Sequence[Path]) -> str:
    """Return the licences of `files`: each text once, after the names of the files that it covers.

    Parameters
    ----------
    tree : Path
        Upstream's tree; licence files above it are not read.
    files : sequence of Path
        The compiled files in it.
    """
    tree = tree.resolve()
    texts: dict[str, list[str]] = {}
    directories = {directory for file in files for directory in file.parents if directory.is_relative_to(tree)}
    for directory in sorted({tree, *directories}):
        for path in sorted(directory.iterdir()):
            if path.is_file() and _LICENCE_FILE.match(path.name):
                texts.setdefault(_read(path).strip(), []).append(path.relative_to(tree).as_posix())
    for file in files:
        for comment in _comments(_read(file)):
            texts.setdefault(comment, []).append(file.relative_to(tree).as_posix())
    headed = {text: "\n".join(dict.fromkeys(names)) for text, names in texts.items()}
    return "\n\n".join(f"{_RULE}\n{names}\n{_RULE}\n{text}" for text, names in headed.items()) + "\n"


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace").replace("\r\n", "\n")


def _comments(text: str) -> Iterator[str]:
    for comment in _COMMENT.findall(text):
        if tags := _SPDX.findall(comment):
            yield "\n".join(tags)
        elif _NOTICE.search(comment):
            yield comment.strip()
