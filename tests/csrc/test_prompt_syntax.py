"""The parser of prompts alone, against `webui_prompts`: many texts, in a locale with decimal commas."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webui_prompts
from places import TESTS

from sdcffi._build.places import csrc_directory

Parts = list[tuple[str, float]]
ATOMS = [
    *(
        "(",
        ")",
        "[",
        "]",
        "\\",
        ":",
        "\\(",
        "\\)",
        "a",
        "cat ",
        "ß",
        ",",
        "1.2",
        "😀",
        "_BREAK",
        "BREAKBREAK",
        "B",
        "BRE",
    ),
    *(":1.3)", ":  -0.5 )", ":.)", ":1.2.3)", ":\u0663.\u0665)", ":+2)", ":1e5)", ":" + "9" * 44 + ")"),
    *("BREAK", " BREAK ", "\u3000BREAK\n", "JAILBREAK", "BREAKé", "éBREAK", "猫\uff0cBREAK", "²BREAK"),
]


@pytest.fixture(scope="module")
def parse(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], list[Parts]]:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs g++ or clang++")
    csrc, program = csrc_directory(), tmp_path_factory.mktemp("parser") / "parser"
    sources = [TESTS / "support" / "prompt_parts.cpp", csrc / "text" / "prompt_syntax.cpp", csrc / "text" / "notes.cpp"]
    includes = [f"-I{path}" for path in (csrc, pinned / "include", pinned / "ggml" / "include")]
    subprocess.run([compiler, "-std=c++17", "-O1", *includes, *sources, "-o", program], check=True)

    def parse(prompts: list[str]) -> list[Parts]:
        text = "".join(prompt + "\0" for prompt in prompts).encode()
        lines = iter(
            subprocess.run([program], input=text, capture_output=True, check=True).stdout.decode().splitlines()
        )
        return [[_part(next(lines)) for _ in range(int(next(lines)))] for _ in prompts]

    return parse


def _part(line: str) -> tuple[str, float]:
    weight, _, text = line.partition(" ")
    return bytes.fromhex(text).decode(), float(np.float32(weight))


def test_random_texts_have_the_parts_of_the_web_ui(parse: Callable[[list[str]], list[Parts]]) -> None:
    rng = random.Random(1)
    prompts = ["".join(rng.choices(ATOMS, k=rng.randint(0, 25))) for _ in range(20_000)]
    for prompt, parts in zip(prompts, parse(prompts), strict=True):
        expected = [(text, float(np.float32(weight))) for text, weight in webui_prompts.parse(prompt)]
        assert parts == expected, prompt


@pytest.mark.parametrize("text", ["(a:1 ", ":", "[(", "BREAK ", "\\", "(" * 100 + "a"])
def test_a_long_prompt_takes_no_time(text: str, parse: Callable[[list[str]], list[Parts]]) -> None:
    """50,000 bytes are the most that Python lets through."""
    prompt = text * (50_000 // len(text))
    begun = time.perf_counter()
    parse([prompt])
    assert time.perf_counter() - begun < 5
