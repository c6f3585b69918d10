"""csrc/text under sanitizers, for what no vocabulary of the tested revisions needs: gpt-oss' words, Gemma's letters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from places import TESTS
from published_tokenizers import O200K_WORDS
from token_lines import SENTENCES, lines
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from sdcffi._build.places import csrc_directory
from sdcffi._build.unicode_table import write_unicode_table

Run = Callable[..., list[list[str]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the program on texts; it returns the words of each line that it prints."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ or clang++ on Linux")
    directory, csrc = tmp_path_factory.mktemp("text"), csrc_directory()
    write_unicode_table(directory)
    sources = [
        TESTS / "support" / "text_program.cpp",
        *(csrc / "text" / f"{name}.cpp" for name in ("bpe", "split", "unicode")),
    ]
    flags = ["-std=c++17", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"]
    command = [compiler, *flags, f"-I{csrc}", f"-I{directory}", *map(str, sources), "-o", str(directory / "text")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr

    def call(texts: Sequence[str], *arguments: str) -> list[list[str]]:
        stdin = "".join(text.encode().hex() + "\n" for text in texts)
        program = [directory / "text", *arguments]
        done = subprocess.run(program, input=stdin, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    return call


@pytest.mark.slow
def test_words_are_those_of_o200k_base(run: Run) -> None:
    texts = [text for text in lines(12_000) if text]
    splitter = pre_tokenizers.Split(Regex(O200K_WORDS), "isolated")
    found = [[bytes.fromhex(word).decode() for word in words] for words in run(texts, "words")]
    assert found == [[word for word, _ in splitter.pre_tokenize_str(text)] for text in texts]


@pytest.mark.slow
def test_letters_that_a_vocabulary_lacks_are_bytes(run: Run, tmp_path: Path) -> None:
    letters = sorted(set("".join(SENTENCES[:6]).replace(" ", "\u2581")) - {"x"})
    pairs = [(a, b) for text in SENTENCES[:3] for a, b in pairwise(text) if {a, b} <= set(letters)]
    merges = list(dict.fromkeys(pairs))
    merges += [(a + b, c) for a, b in merges[:40] for c in letters[40:50]]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += dict.fromkeys(a + b for a, b in merges)
    tokens += tokens[300:400]  # of equal tokens the last counts
    (tmp_path / "tokens").write_text("\n".join(tokens), "utf-8")
    (tmp_path / "merges").write_text("".join(f"{a} {b}\n" for a, b in merges), "utf-8")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    published = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    texts = [text.replace(" ", "\u2581") for text in lines(3000) if text]
    found = [
        [int(number) for number in row] for row in run(texts, "ids", str(tmp_path / "tokens"), str(tmp_path / "merges"))
    ]
    assert found == [encoded.ids for encoded in published.encode_batch(texts)]
