"""Prompts of models with CLIP alone are read as AUTOMATIC1111's web UI reads them: `webui_prompts` is the reference."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
import webui_prompts
from families import SD2
from full_size import Layout, open_clip, unet, write_zeros
from locales import locales
from parity import SMALL
from places import ROOT
from sdcli import THREADS

from sdcffi import Engine, PromptTokens, SDError

START, END, COMMA = 49406, 49407, 267
# The ids that CLIP's published tokenizer gives these words.
WORDS = {"a": 320, "cat": 2368, "dog": 1929, "red": 736, "house": 1212, ",": COMMA, "(": 263, ")": 264, "[": 314}
WORDS |= {"]": 316, "\\": 315, ":": 281, "-": 268, ".": 269, "break": 2568}
WORDS |= {str(digit): 271 + digit for digit in range(10)}


def tokenize(text: str) -> list[int]:
    """CLIP's tokens of a text made of `WORDS` with blanks between."""
    return [WORDS[word] for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def model(directory: Path) -> Path:
    return write_zeros(sd1_model.small().tensors, directory / "zeros.safetensors")


def open_model(model: Path, **keywords: Any) -> Engine:
    """An engine of names and shapes only."""
    taesd = sd1_model.write_taesd(model.parent / "taesd.safetensors")
    return Engine(model, taesd=taesd, backend="cpu", threads=1, load_weights=False, **keywords)


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with open_model(model) as engine:
        yield engine


def write_word(path: Path, vectors: int) -> Path:
    """A textual-inversion embedding."""
    from safetensors.numpy import save_file

    save_file({"emb_params": np.ones((vectors, 768), np.float32)}, path)
    return path


@pytest.fixture(scope="module")
def with_words(model: Path, directory: Path) -> Iterator[Engine]:
    """An engine with embeddings: of two vectors, of five, and one whose name begins with the other's."""
    words = {name: write_word(directory / f"{count}.safetensors", count) for name, count in SIZES.items()}
    with open_model(model, embeddings=words) as engine:
        yield engine


SIZES = {"dog": 2, "red house": 5, "red": 3}


def chunks(found: PromptTokens) -> list[tuple[list[int], list[float]]]:
    """Ids and weights of each chunk without start and end, which are checked."""
    (encoder,) = found.encoders
    for chunk in encoder.chunks:
        assert (chunk.ids[0], chunk.ids[-1], chunk.length) == (START, END, 77)
        assert chunk.tokens[0].weight == chunk.tokens[-1].weight == 1
    return [(list(chunk.ids[1:-1]), [token.weight for token in chunk.tokens[1:-1]]) for chunk in encoder.chunks]


def reference(prompt: str, backtrack: int = 20, words: dict[str, list[int]] | None = None) -> Any:
    made = webui_prompts.chunks(prompt, tokenize, COMMA, backtrack, words)
    return [(chunk.ids, [float(np.float32(weight)) for weight in chunk.weights]) for chunk in made]


CASES = {
    "plain": "a cat , a dog",
    "empty": "",
    "nested": "a ( ( cat :1.3) [ dog ] ) red",
    "unbalanced": "( a [ cat dog",
    "closed too often": "a ) cat ] dog",
    "a weight without a bracket": "a cat :1.3 dog",
    "escapes": r"a \( cat \) \[ dog \] \\ red",
    "an escaped bracket within a weight": r"( cat \( dog \) :1.4)",
    "a lone backslash": "a \\ cat \\",
    "blanks in a weight": "( cat : 1.5 ) dog",
    "digits of another script": "( cat :\u0661.\u0665) dog",
    "negative weight": "( cat :-0.5) dog",
    "BREAK": "a cat BREAK a dog",
    "BREAK first": "BREAK a cat",
    "BREAK last": "a cat BREAK",
    "BREAK twice": "a cat BREAK BREAK a dog",
    "BREAK alone": "BREAK",
    "BREAK within brackets is a word": "( a BREAK cat )",
    "BREAK beside brackets": "(a)BREAK(cat)",
    "as long as a chunk": "cat " * 75,
    "longer than a chunk": "cat " * 76,
    "comma within reach": "cat " * 60 + ", " + "dog " * 30,
    "comma out of reach": "cat " * 40 + ", " + "dog " * 60,
    "comma at the edge of reach": "cat " * 55 + ", " + "dog " * 30,
    "comma beyond the edge": "cat " * 54 + ", " + "dog " * 30,
    "comma last in a chunk": "cat " * 74 + ", dog",
    "comma first in a chunk": "cat " * 75 + ", dog",
    "weights move with their words": "cat " * 70 + ", ( dog dog dog :1.5) a a a a",
}


@pytest.mark.parametrize("prompt", CASES.values(), ids=CASES)
def test_a_prompt_is_read_as_by_the_web_ui(prompt: str, engine: Engine) -> None:
    assert chunks(engine.tokens(prompt)) == reference(prompt)


def test_random_prompts_are_read_as_by_the_web_ui(engine: Engine) -> None:
    rng = random.Random(0)
    atoms = [
        *("a", "cat", "dog", "red house", " , ", "(", ")", "[", "]", ":1.3)", ": -0.7 )", " BREAK "),
        r"\(",
        r"\]",
        "\\",
    ]
    for count in (5, 40, 150):
        for _ in range(60):
            prompt = " ".join(rng.choice(atoms) for _ in range(count))
            assert chunks(engine.tokens(prompt)) == reference(prompt), prompt


@pytest.mark.parametrize("backtrack", [0, 5, 74])
def test_the_comma_is_looked_for_as_far_back_as_is_asked(backtrack: int, engine: Engine) -> None:
    for prompt in ("cat " * 71 + ", " + "dog " * 10, "cat " * 30 + ", " + "dog " * 100, ", ".join(["cat dog"] * 60)):
        found = engine.tokens(prompt, comma_backtrack=backtrack)
        assert chunks(found) == reference(prompt, backtrack)
    assert reference("cat " * 71 + ", " + "dog " * 10, 0) != reference("cat " * 71 + ", " + "dog " * 10, 5)


@pytest.mark.parametrize("backtrack", [-1, 75, 2.0, "x"])
def test_another_backtrack_is_refused(backtrack: Any, engine: Engine) -> None:
    with pytest.raises((TypeError, ValueError), match="comma_backtrack must be"):
        engine.tokens("a cat", comma_backtrack=backtrack)


@pytest.mark.parametrize("word", ["JAILBREAK", "OUTBREAK", "BREAKFAST", "_BREAK", "ÉBREAK", "BREAK7"])
def test_break_within_a_word_is_text(word: str, engine: Engine) -> None:
    (encoder,) = engine.tokens(f"a {word} cat").encoders
    assert len(encoder.chunks) == 1
    assert "break" in "".join(token.text for token in encoder.chunks[0].tokens)


def test_the_texts_of_tokens_are_those_of_the_prompt(engine: Engine) -> None:
    (chunk,) = engine.tokens("A cat, (dog:1.5) 猫").encoders[0].chunks
    texts = [(token.text, token.weight) for token in chunk.tokens[:5]]
    assert texts == [("<|startoftext|>", 1), ("a", 1), ("cat", 1), (",", 1), ("dog", 1.5)]
    assert chunk.tokens[-1].text == "<|endoftext|>"


IN_A_LOCALE = """
import ctypes, json, locale, sys
locale.setlocale(locale.LC_ALL, sys.argv[1])
strtof = ctypes.CDLL(None).strtof
strtof.restype = ctypes.c_float
from sdcffi import Engine
files = {"model": sys.argv[2], "taesd": sys.argv[3]}
with Engine(**files, backend="cpu", threads=1, load_weights=False, isolated=False) as engine:
    tokens = engine.tokens(sys.argv[4]).encoders[0].chunks[0].tokens
print(json.dumps([strtof(b"1.5", None), [token.weight for token in tokens]]))
"""


@pytest.mark.slow
def test_weights_are_read_alike_where_the_locale_has_a_decimal_comma(model: Path, tmp_path: Path) -> None:
    """The engine is in the process whose locale it is: C's own numbers end at the point there."""
    if not (made := locales(tmp_path, "de_DE.UTF-8")):
        pytest.skip("localedef makes no locales here: install it and the sources of locales")
    taesd = sd1_model.write_taesd(tmp_path / "taesd.safetensors")
    program = [sys.executable, "-c", IN_A_LOCALE, made[0], str(model), str(taesd), "a (cat:1.5) [dog]"]
    environment = {**os.environ, "LOCPATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    by_c, weights = json.loads(done.stdout.splitlines()[-1])
    assert by_c == 1, "the locale has no decimal comma"
    assert weights == [1, 1, 1.5, float(np.float32(1 / 1.1)), 1]


def test_padding_is_what_each_model_was_trained_with(engine: Engine, directory: Path) -> None:
    layout = Layout()
    open_clip(layout.named("text_encoder", "cond_stage_model.model."), 1024, 24)
    unet(layout, SD2)
    path = layout.write(directory / "sd2.safetensors")
    with open_model(path) as second:
        found = second.tokens("a cat BREAK a dog")
    assert [chunk.padding for chunk in found.encoders[0].chunks] == [0, 0]
    assert [chunk.ids for chunk in found.encoders[0].chunks] == [(START, 320, 2368, END), (START, 320, 1929, END)]
    assert [chunk.padding for chunk in engine.tokens("a BREAK cat").encoders[0].chunks] == [END, END]


# --- embeddings ---


def vectors_of(engine: Engine) -> dict[str, list[int]]:
    """The ids of each word's vectors, which the engine numbers when it first reads them."""
    ids = {}
    for name, count in SIZES.items():
        tokens = engine.tokens(name).encoders[0].chunks[0].tokens[1:-1]
        assert [token.text for token in tokens] == [name] * count
        assert all(token.id >= 49408 for token in tokens)
        ids[name] = [token.id for token in tokens]
    assert len({id for vectors in ids.values() for id in vectors}) == sum(SIZES.values())
    return ids


EMBEDDED = {
    "a word": "a dog cat",
    "the longer of two": "a red house , red cat house",
    "in brackets": "a ( dog :1.4) cat",
    "not across a bracket": "( red ) house",
    "moved whole to the next chunk": "cat " * 74 + "dog cat",
    "at the end of a chunk": "cat " * 73 + "dog cat",
    "moved with what follows a comma": "cat " * 60 + ", " + "dog " * 12,
    "longer ones": "cat " * 71 + "red house",
}


@pytest.mark.parametrize("prompt", EMBEDDED.values(), ids=EMBEDDED)
def test_embeddings_are_found_and_kept_whole_as_by_the_web_ui(prompt: str, with_words: Engine) -> None:
    assert chunks(with_words.tokens(prompt)) == reference(prompt, words=vectors_of(with_words))


@pytest.mark.parametrize("word", ["doghouse", "redcat", "dogmatic"])
def test_the_name_of_an_embedding_within_a_word_is_text(word: str, with_words: Engine, engine: Engine) -> None:
    assert chunks(with_words.tokens(f"a {word}")) == chunks(engine.tokens(f"a {word}"))


def test_an_embedding_of_more_vectors_than_a_chunk_has_is_cut(model: Path, directory: Path) -> None:
    word = write_word(directory / "long.safetensors", 80)
    with open_model(model, embeddings={"cat": word}) as engine:
        found = engine.tokens("a cat dog")
    assert [len(ids) for ids, _ in chunks(found)] == [1, 75, 1]
    assert "80 vectors" in found.notes[0]


# --- the whole way ---


@pytest.mark.parametrize("isolated", [True, False])
def test_tokens_need_an_open_engine(isolated: bool, model: Path) -> None:
    engine = open_model(model, isolated=isolated)
    assert chunks(engine.tokens("a cat")) == [([320, 2368], [1, 1])]
    assert engine.tokens("a cat").as_dict()["encoders"][0]["chunks"][0]["tokens"][1]["id"] == 320
    engine.close()
    with pytest.raises(SDError, match="closed"):
        engine.tokens("a cat")


def test_a_model_without_that_many_layers_refuses_the_clip_skip(engine: Engine) -> None:
    with pytest.raises(
        ValueError, match=r"clip_skip must be from -1 to 13 \(Stable Diffusion 1's CLIP has 12 layers\), not 14"
    ):
        engine.generate("a cat", clip_skip=14)


@pytest.mark.slow
def test_the_image_is_that_of_the_tokens(directory: Path) -> None:
    """Prompts with the same tokens and weights give the same image, others do not."""
    path = sd1_model.write(sd1_model.small().tensors, directory / "small.safetensors")
    taesd = sd1_model.write_taesd(directory / "taesd.safetensors")
    long = "cat " * 70 + ", dog dog dog dog dog dog"
    with Engine(path, taesd=taesd, threads=THREADS, backend="cpu", rng="cpu") as engine:

        def image(prompt: str, **keywords: Any) -> Any:
            return engine.generate(**SMALL | {"prompt": prompt, "steps": 1, "cfg_scale": 1.0} | keywords).arrays[0]

        def same(one: Any, other: Any) -> bool:
            return bool(np.array_equal(one, other))

        assert same(image("a cat (dog:1.0)"), image("a cat dog"))
        assert not same(image("a cat (dog:1.5)"), image("a cat dog"))
        assert same(image(r"a \(cat\)"), image(r"(a:1.0) \( cat \)"))
        assert not same(image("a cat BREAK a dog"), image("a cat a dog"))
        assert same(image("jailbreak"), image("JAILBREAK"))
        assert not same(image(long), image(long, comma_backtrack=0))
        assert same(image(long), image("cat " * 70 + ", BREAK dog dog dog dog dog dog"))
