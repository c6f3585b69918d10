"""What a person reads: every example in Python runs, or at least names what exists, and every link leads somewhere.

An example runs if it uses the model that is part of the package, or needs no model file. Examples that name another
model's file are compiled, and their names and keywords are compared with the package's.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

import sdcffi

DOCS = ROOT / "sdcffi" / "docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.glob("*.md")), ROOT / "sdcffi" / "weights" / "README.md", ROOT / "CHANGELOG.md")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_MODEL_FILES = (".gguf", ".safetensors", ".ckpt", ".pth", ".pt")
_REFERENCES = ("hf://", "catalogue:")
_TIME_LIMIT = 120  # seconds for an example; one takes 2 to 6


@dataclass(frozen=True)
class Example:
    """A block of Python in a page, and the line of its first statement."""

    page: Path
    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def compiled(self) -> ast.Module:
        """The syntax tree, with the line numbers of the page."""
        return ast.parse("\n" * (self.line - 1) + self.source, str(self.page))

    @property
    def runs(self) -> bool:
        """Whether it needs no model but that of the package."""
        nodes = list(ast.walk(self.compiled()))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        own = any(isinstance(node, (ast.Name, ast.Attribute)) and _last(node) == "demo_model" for node in nodes)
        return own or not any(text.endswith(_MODEL_FILES) or text.startswith(_REFERENCES) for text in texts)


def _last(node: ast.expr) -> str:
    """The name at the end of ``a.b.c``; empty for another expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _examples() -> Iterator[Example]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in _FENCED.finditer(text):
            if found[1] == "python":
                yield Example(page, text.count("\n", 0, found.start(2)) + 1, found[2])


EXAMPLES = list(_examples())
RUNNING = [example for example in EXAMPLES if example.runs]


def test_most_examples_run() -> None:
    assert len(RUNNING) > len(EXAMPLES) / 2, [str(example) for example in EXAMPLES if not example.runs]


@pytest.mark.slow
@pytest.mark.parametrize("example", RUNNING, ids=str)
def test_an_example_runs(example: Example, tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text("\n" * (example.line - 1) + example.source, "utf-8")  # tracebacks have the page's line numbers
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SDCFFI_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "error::UserWarning", str(file)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False
    )
    assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_names_what_exists(example: Example) -> None:
    tree = example.compiled()
    for name, line in _public_names(tree):
        assert name in sdcffi.__all__, f"{example.page.name}:{line}: sdcffi has no {name}"
    others = {item.asname or item.name for item in _imported_from_folders(tree)}
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        if isinstance(call.func, ast.Name) and call.func.id in others:
            continue
        legal = _legal_keywords(_last(call.func))
        given = {keyword.arg for keyword in call.keywords if keyword.arg}
        assert legal is None or given <= legal, f"{example.page.name}:{call.lineno}: no keyword {given - legal}"


def _imported_from_folders(tree: ast.Module) -> Iterator[ast.alias]:
    """What is imported from ``sdcffi.ray`` and the like, whose functions have names of methods here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sdcffi."):
            yield from node.names


def _public_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sdcffi":
            yield from ((item.name, node.lineno) for item in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sdcffi":
            yield node.attr, node.lineno


def _legal_keywords(name: str) -> set[str] | None:
    """The keywords of a public class, function or method, of all classes that have it; None where any is legal."""
    public = {item: getattr(sdcffi, item) for item in sdcffi.__all__}
    found = [public[name]] if name in public else [getattr(item, name) for item in public.values() if _has(item, name)]
    legal: set[str] = set()
    for function in filter(callable, found):
        parameters = inspect.signature(function).parameters
        if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
            return None
        legal |= set(parameters)
    return legal if found else None


def _has(item: Any, name: str) -> bool:
    return inspect.isclass(item) and item.__module__.startswith("sdcffi") and callable(getattr(item, name, None))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _FENCED.sub("", page.read_text("utf-8"))
    for target in _LINK.findall(text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in _anchors(file), f"{page.name} links to {target}, but {file.name} has no such heading"


def _anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by: as GitHub makes them."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    missing = [page.name for page in DOCS.glob("*.md") if f"](sdcffi/docs/{page.name})" not in text]
    assert not missing
