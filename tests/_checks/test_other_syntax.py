"""Syntax of other programs in a prompt gives a warning, what is only a text does not."""

from __future__ import annotations

import time
import warnings

import pytest

from sdcffi import Engine
from sdcffi._checks.prompt_syntax import _FOREIGN, warn_of_syntax


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a [cat:dog:0.5] on a mat", r"prompt: '\[cat:dog:0.5\]' is prompt editing"),
        ("a [cat:.5]", "prompt editing"),
        ("a [cat::8]", "prompt editing"),
        ("a [cat|dog]", "alternating words"),
        ("a {red|blue} cat", r"'\{red\|blue\}' is a choice at random"),
        ("a __animal__", "'__animal__' is a wildcard"),
        ("a __animals/big-cats__, red", "wildcard"),
        ("a cat AND a dog", "composition"),
        ("a cat++, red", "weights of compel"),
        ("a (red cat)--", "weights of compel"),
        *(
            (f"a cat {tag}", "is a LoRA .here <lora:name:weight>. in other programs")
            for tag in ("< lora:x:1>", "<lora :x:1>", "<lora>", "<lora=x:1>", "<loras:x:1>", "<LoCon:x:1>", "<loha:x>")
        ),
        ("a cat <dora:x:1>", "'<dora:x:1>' is a LoRA"),
        ("a cat \uff1clora:x:1\uff1e", "is a LoRA"),
        ("{" + "a" * 1000 + "|b}", r"'\{a{36}\.\.\.' is a choice"),
    ],
)
def test_foreign_syntax_is_named(prompt: str, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        warn_of_syntax("prompt", prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        *(None, "", "a cat, (red:1.2) [small] BREAK a dog", r"a \[cat:dog:0.5\]", "time: 12:30", "a | b"),
        *("<lora:x:1>", "<lyco:x>", "a < b > c", "<flora>", "<lora", "a <loras are nice"),
        *("BLACK AND WHITE", "a band", "C++ code", "snake_case __init", "{json: 1}", "[fate: zero]", "a -- b"),
    ],
)
def test_texts_are_left_in_peace(prompt: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_syntax("prompt", prompt)


@pytest.mark.parametrize(
    "piece", ["[", "[a:", "[a:b:", "{", "{a|", "__a-", "__", "[a|", "AND", "a++b", "(a)+", "< lora:", "<lora  "]
)
def test_a_long_prompt_takes_no_longer_than_its_length(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    begun = time.process_time()
    for pattern, _ in _FOREIGN:
        pattern.search(text)
    assert time.process_time() - begun < 2


def test_generate_warns(shared: Engine) -> None:
    with pytest.warns(UserWarning, match="negative_prompt: '__bad__' is a wildcard"):
        shared.generate("a cat", negative_prompt="__bad__", width=64, height=64, steps=1, cfg_scale=1.0)
