"""The engine's tokenizers give the ids of the models' published ones: any text, any locale."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import published_tokenizers
import pytest
import token_ids
from locales import locales
from places import HELPERS, ROOT
from token_lines import SENTENCES, lines
from tokenizers import Tokenizer, normalizers

NAMES = ("clip", "qwen2", "mistral", "t5", "umt5")
COMPOSED = ("clip", "qwen2")
"""Normalise a text to NFC."""

LINES = 12_000
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


def ids(
    names: Sequence[str], texts: Sequence[str | bytes], locale: str = "", **variables: str
) -> dict[str, list[list[int]]]:
    """Return what the engine gives, in a process of its own, which may crash."""
    program = [sys.executable, token_ids.__file__, ",".join(names), locale]
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    done = subprocess.run(
        program,
        input=json.dumps([base64.b64encode(text).decode() for text in raw]),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *HELPERS]), **variables},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[list[int]]] = json.loads(done.stdout)
    return found


@cache
def published(name: str) -> Tokenizer:
    return published_tokenizers.published(name)


def expected(name: str, texts: Sequence[str]) -> list[list[int]]:
    return [found.ids for found in published(name).encode_batch(list(texts), add_special_tokens=False)]


@cache
def many() -> list[str]:
    return lines(LINES)


@cache
def ids_of_many() -> dict[str, list[list[int]]]:
    return ids(NAMES, many())


@cache
def spelt_by_hugging_face() -> list[bool]:
    """Which lines Hugging Face's NFC, of an older Unicode, composes as today's does."""
    nfc = normalizers.NFC()
    return [nfc.normalize_str(line) == unicodedata.normalize("NFC", line) for line in many()]


def differing(texts: Sequence[str], found: Sequence[list[int]], wanted: Sequence[list[int]]) -> list[str]:
    return [ascii(text) for text, one, other in zip(texts, found, wanted, strict=True) if one != other]


@pytest.mark.parametrize("name", ["clip", "qwen2", "mistral", "umt5"])
def test_ids_are_those_of_the_published_tokenizer(name: str) -> None:
    texts, found = many(), ids_of_many()[name]
    assert len(texts) == LINES
    wanted = expected(name, texts)
    if name in COMPOSED:
        old = [index for index, same in enumerate(spelt_by_hugging_face()) if not same]
        assert len(old) < LINES / 500
        again = ids([name], [unicodedata.normalize("NFC", texts[index]) for index in old])[name]
        for index, composed in zip(old, again, strict=True):
            wanted[index] = composed
    assert differing(texts, found, wanted) == []


def test_t5s_ids_are_those_of_sentencepiece() -> None:
    """Or of Hugging Face, where two sums of scores are equal but for rounding: SentencePiece adds in float."""
    special = [added.content for added in published("t5").get_added_tokens_decoder().values()]
    rows = [
        row for row in zip(many(), ids_of_many()["t5"], strict=True) if not any(token in row[0] for token in special)
    ]
    assert len(rows) > 10_000
    texts, found = zip(*rows, strict=True)
    wanted = published_tokenizers.spiece_t5().encode(list(texts))
    others = [index for index in range(len(rows)) if found[index] != wanted[index]]
    assert len(others) < 5
    assert [found[index] for index in others] == expected("t5", [texts[index] for index in others])


def test_t5s_ids_are_those_of_hugging_face() -> None:
    """All but a few: it replaces clusters of characters by what their beginning becomes, and strips U+0085."""
    texts, found, wanted = many(), ids_of_many()["t5"], expected("t5", many())
    assert len(differing(texts, found, wanted)) < LINES / 100

    def is_alone(character: str) -> bool:
        return unicodedata.category(character)[0] != "M" and character not in "\x85\u0e33\u0eb3"

    plain = [index for index, text in enumerate(texts) if all(map(is_alone, text))]
    assert len(plain) > LINES / 3
    one, other = ([rows[index] for index in plain] for rows in (found, wanted))
    assert differing([texts[index] for index in plain], one, other) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_prompt_has_no_ids(name: str) -> None:
    assert ids([name], ["", "a"])[name] == [[], expected(name, ["a"])[0]]


def test_blanks_alone_have_no_ids_where_the_model_leaves_them_out() -> None:
    assert {name: ids([name], [" \t\n "])[name] for name in ("clip", "t5")} == {"clip": [[]], "t5": [[]]}


def test_the_flag_of_england_ends_no_process() -> None:
    texts = [ENGLAND, f"a flag {ENGLAND}\U000e0067", "🔥 👍 🚀 ✅", "\uff0c\uff1a\uff08\uff09"]
    found = ids(NAMES, texts)
    assert {name: found[name] for name in ("clip", "qwen2", "mistral", "umt5")} == {
        name: expected(name, texts) for name in ("clip", "qwen2", "mistral", "umt5")
    }
    assert all(found["qwen2"])


def test_a_special_token_in_capitals_is_text() -> None:
    start, end = (published("clip").token_to_id(token) for token in published_tokenizers.CLIP_SPECIAL)
    found = ids(["clip"], ["<|endoftext|>", "<|ENDOFTEXT|>", "<|StartOfText|>"])["clip"]
    assert found[0] == [end]
    assert not {start, end} & {*found[1], *found[2]}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_utf8_is_the_replacement_character(name: str) -> None:
    broken = [
        b"a \xff cat",
        b"\xe2\x96",
        b"\xed\xa0\x80x",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x94",
        b"\x80\xbf'",
    ]
    texts = [text.decode("utf-8", "replace") for text in broken]
    assert ids([name], broken)[name] == ids([name], texts)[name] == expected(name, texts)


@pytest.mark.parametrize("name", NAMES)
def test_long_words_take_no_long_time(name: str) -> None:
    """Each takes milliseconds; with a time that grows as the square of the length, minutes."""
    size = 100_000
    words = [
        "a",
        "ab",
        "A",
        " ",
        "\n",
        "!",
        "'",
        "<",
        "<SPECIAL_9",
        "1",
        "\u0301\u0323",
        "\u0301AAAA",
        "中",
        "🔥",
        "\u2581",
    ]
    texts = [word * (size // len(word.encode())) for word in words]
    found = ids([name], texts)[name]
    assert all(found[index] for index, word in enumerate(words) if word.strip() and word != "\u2581")


@pytest.mark.slow
def test_the_locale_has_no_say(tmp_path: Path) -> None:
    if not (made := locales(tmp_path, "de_DE.UTF-8", "tr_TR.UTF-8", "tr_TR.ISO-8859-9")):
        pytest.skip("localedef makes no locales here: install it and the sources of locales")
    for locale in made:
        assert ids(NAMES, many(), locale, LOCPATH=str(tmp_path)) == ids_of_many(), locale


def test_sentences_in_the_turkish_locale(tmp_path: Path) -> None:
    if not (made := locales(tmp_path, "tr_TR.UTF-8")):
        pytest.skip("localedef makes no locales here: install it and the sources of locales")
    found = ids(NAMES, SENTENCES, made[0], LOCPATH=str(tmp_path))
    assert found == {name: ids_of_many()[name][: len(SENTENCES)] for name in NAMES}
    assert expected("clip", SENTENCES) == found["clip"]
