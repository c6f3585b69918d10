"""The vocabularies that the engine carries, from its source: arrays of bytes in ``src/tokenizers/vocab``."""

from __future__ import annotations

import re
from functools import cache

import engines

_ARRAY = re.compile(r"(\w+)\[\]\s*=\s*\{([^}]*)\}")


@cache
def _arrays() -> dict[str, bytes]:
    arrays = {}
    for header in sorted((engines.source_tree() / "src" / "tokenizers" / "vocab").glob("*.hpp")):
        for name, numbers in _ARRAY.findall(header.read_text("ascii")):
            arrays[name] = bytes.fromhex(numbers.replace("0x", "").replace(",", " "))
    return arrays


def _text(name: str) -> str:
    return _arrays()[name].decode("utf-8")


def merges(name: str) -> list[tuple[str, str]]:
    """The merges of ``clip``, ``qwen2`` or ``mistral``, the first the most urgent."""
    lines = _text(f"{name}_merges_utf8_c_str").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return [(first, second) for first, second in pairs]


def mistral_json() -> str:
    """Mistral's ``vocab.json``."""
    return _text("mistral_vocab_json_utf8_c_str")


def tokenizer_json(name: str) -> str:
    """The ``tokenizer.json`` of ``t5`` or ``umt5``."""
    return _text(f"{name}_tokenizer_json_str")
