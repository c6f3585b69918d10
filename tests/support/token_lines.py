"""Texts for tokenizers: sentences in 34 languages, words that tokenizers differ in, and mixtures made with a seed."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable

from places import TESTS

_GIVEN = json.loads((TESTS / "data" / "token_lines.json").read_text("utf-8"))
SENTENCES: list[str] = _GIVEN["sentences"]
"""In 34 languages."""

WORDS: list[str] = _GIVEN["words"]
"""Those that tokenizers differ in: contractions, marks, digits, emoji, blanks, special tokens."""

_LEFT_OUT = ("Cn", "Cs", "Co")


def assigned() -> list[str]:
    """All characters that Unicode defines, but for the zero byte, which a C string cannot have."""
    return [character for character in map(chr, range(1, 0x110000)) if unicodedata.category(character) not in _LEFT_OUT]


def lines(count: int, seed: int = 7) -> list[str]:
    """Return the sentences, the words, and mixtures up to `count`."""
    chance, characters = random.Random(seed), assigned()
    categories: dict[str, list[str]] = {}
    for character in characters:
        categories.setdefault(unicodedata.category(character), []).append(character)
    groups = [categories[name] for name in sorted(categories)]
    ascii_ = [chr(point) for point in range(0x20, 0x7F)]
    marks = [chr(point) for point in range(0x300, 0x370)]
    latin = [chr(point) for point in range(0xC0, 0x250)]

    def any_characters() -> str:
        return "".join(chance.choices(characters, k=chance.randint(1, 30)))

    def any_categories() -> str:
        return "".join(chance.choice(chance.choice(groups)) for _ in range(chance.randint(1, 30)))

    def words() -> str:
        return "".join(chance.choice(WORDS) + chance.choice(("", " ", " ", "  ")) for _ in range(chance.randint(1, 12)))

    def parts_of_sentences() -> str:
        parts = [chance.choice(chance.choice(SENTENCES).split(" ")) for _ in range(chance.randint(1, 9))]
        text = chance.choice((" ", " ", "  ", "\n", "")).join(parts)
        return chance.choice((str, str.upper, str.title, _decomposed))(text)

    def letters() -> str:
        kinds = (ascii_, ascii_, latin, marks, characters, list(" \n\t\r"))
        return "".join(chance.choice(chance.choice(kinds)) for _ in range(chance.randint(1, 60)))

    def code() -> str:
        return "".join(chance.choices(ascii_, k=chance.randint(1, 60)))

    def one_block() -> str:
        start = chance.randrange(len(characters))
        return "".join(chance.choices(characters[start : start + 200], k=chance.randint(1, 20)))

    kinds: tuple[Callable[[], str], ...] = (
        any_characters,
        any_categories,
        words,
        parts_of_sentences,
        letters,
        code,
        one_block,
    )
    given = [*SENTENCES, *WORDS, *(f" {word}  {word} " for word in WORDS)]
    return given + [kinds[index % len(kinds)]() for index in range(count - len(given))]


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)
