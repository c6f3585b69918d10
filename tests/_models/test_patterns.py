"""Patterns from outside: those that people write are taken, and none takes long, whatever the name."""

from __future__ import annotations

import re
import time

import pytest

from sdcffi._models.patterns import MOST_PATTERN, compiled

NAMES = [
    "model.diffusion_model.double_blocks.10.img_attn.qkv.weight",
    "e" * 160,
    ("model.diffusion_model.e." * 8)[:160],
    "a" * 160 + "!",
]
GOOD = [
    "attn",
    ".*attn.*weight.*",
    r"^model\.diffusion_model\.(double|single)_blocks\.\d+\.",
    r"blocks\.\d+\.attn\.\w+\.weight$",
    r"\d+\.\d+\.\d+\.x",
    "(?:img_|txt_)?attn.*(q|k|v)",
    "(?!first)(?=m)model",
    "a{2}b{1,5}c{3,}d",
    "[]a^-]*[^]b]+c",
    "[*+(|]{2}",
    r"a\*\+\.b",
    "first_stage_model.*",
    ".*.*x",
    "[e.]*[e.]*z",
    "a|b|c|d|e|f",
]
BAD = {
    "(([a-z_.0-9])*)*!": "repeats a group",
    "(a|a)*b": "repeats a group",
    "(a+){2,}b": "repeats a group",
    r"(a)\1": "has a back reference",
    ".*.*.*x": "has more ways to match than can be tried",
    "[a-z]+[a-z]+[a-z]+x": "has more ways",
    "(.*a|.*b).*c": "has more ways",
    "a?" * 30 + "a" * 30: "has more ways",
    "(a|a)" * 30: "has more ways",
    "a{1000}": "repeats something more than 100 times",
    "a*+": "repeats a repetition",
    "(?i)a": "of those the engine supports only (?: and (?= and (?!",
    "(?P<a>b)": "of those the engine supports only",
    "(?<=a)b": "of those the engine supports only",
    "(" * 21 + ")" * 21: "has groups within more than 20 groups",
    "a" * (MOST_PATTERN + 1): "use at most 1000",
    "(": "is not a regular expression",
    "*a": "is not a regular expression",
    "[a": "is not a regular expression",
    "a)": "is not a regular expression",
}


@pytest.mark.parametrize("pattern", GOOD)
def test_patterns_of_people_are_taken_and_are_fast(pattern: str) -> None:
    expression = compiled("rules", pattern)
    assert expression == re.compile(pattern)
    for name in NAMES:
        started = time.perf_counter()
        expression.search(name)
        assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("pattern", BAD)
def test_patterns_that_might_not_end_are_refused_at_once(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"^rules: ") as caught:
        compiled("rules", pattern)
    assert BAD[pattern] in str(caught.value)
    assert time.perf_counter() - started < 0.5
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("part", ["[", "(", "\\", "{1,", "[a", "(?:", "|", "]", "{", "a{1,2}", ".*", "[^]"])
def test_no_pattern_takes_long_to_check(part: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"^rules: "):
        compiled("rules", part * (MOST_PATTERN // len(part)) + "(")
    assert time.perf_counter() - started < 0.5
