"""How prompts are cleaned for Wan, against Python's `html` and `re`, which diffusers cleans them with."""

from __future__ import annotations

import html
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from html.entities import html5
from pathlib import Path

import pytest

from sdcffi._build.entities import html_entities
from sdcffi._build.places import csrc_directory

_PROGRAM = """\
#include <iostream>
#include <iterator>
#include "text/wan_text.hpp"
int main() {
    const std::string all{std::istreambuf_iterator<char>(std::cin), {}};
    for (size_t at = 0, end = 0; (end = all.find('\\1', at)) != std::string::npos; at = end + 1) {
        std::cout << sdcffi::FUNCTION(all.substr(at, end - at)) << '\\1';
    }
}
"""
BLANKS = [chr(point) for point in range(2, 0x3001) if chr(point).isspace()]
Clean = Callable[[Iterable[str]], list[str]]


def program(function: str, directory: Path) -> Clean:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs g++ or clang++")
    source, made = directory / "program.cpp", directory / "program"
    source.write_text(_PROGRAM.replace("FUNCTION", function))
    (directory / "html_entities.inc").write_text(html_entities())
    command = [compiler, "-std=c++17", f"-I{csrc_directory()}", f"-I{directory}", str(source), "-o", str(made)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr

    def clean(texts: Iterable[str]) -> list[str]:
        joined = "".join(f"{text}\1" for text in texts)
        done = subprocess.run([made], input=joined.encode(), capture_output=True, check=True)
        return done.stdout.decode().split("\1")[:-1]

    return clean


def mixed(parts: list[str], count: int) -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choice(parts) for _ in range(rng.randint(0, 8))) for _ in range(count)]


def test_references_are_undone_as_by_python(tmp_path: Path) -> None:
    names = [f"&{name}" for name in html5]
    hard = ["&", "&#", "&#x", "&#0;", "&#128;", "&#150", "&#55296;", "&#1114112;", "&#99999999999;", "&#00065", "&#xD;"]
    hard += ["&#11;", "&#12", "&#xFFFE;", "&#x1F525;", "&notit;", "&ampamp;", "&amp;amp;", f"&{'q' * 40};", "&ééé;"]
    plain = [";", "#", "x", "é", "日本語", " ", "<", "\t", "\n", "0", "a"]
    numbers = [f"&#{number};" for number in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFDC0, 0x10010)]]
    texts = [*names, *numbers, *mixed(hard + plain + names[::17], 20_000)]
    texts = [text for text in texts if "\1" not in html.unescape(text)]
    assert program("html_unescape", tmp_path)(texts) == [html.unescape(text) for text in texts]


def test_a_prompt_is_cleaned_as_by_diffusers_without_ftfy(tmp_path: Path) -> None:
    def clean(text: str) -> str:
        return re.sub(r"\s+", " ", html.unescape(html.unescape(text)).strip()).strip()

    parts = [*BLANKS, "a", "b", "é", "日", "&nbsp;", "&amp;lt;", "&amp;amp;amp;", "&#32;", "\u200b", "\ufeff", "…"]
    texts = [*mixed(parts, 20_000), *(f"a{chr(point)}b" for point in range(2, 0x3100))]
    assert program("clean_text", tmp_path)(texts) == [clean(text) for text in texts]
