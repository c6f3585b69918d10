"""Token ids of the Qwen tokenizer that the engine has built in, from the merge list in its source."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

from sdcffi._build.places import csrc_directory
from sdcffi._build.sources import locate_source
from sdcffi._files import cache_directory

END_OF_TEXT = 151_643  # also what prompts are filled up with
ROWS = 151_936
SPECIAL = {"<|im_start|>": 151_644, "<|im_end|>": 151_645, "<think>": 151_667, "</think>": 151_668}
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class Tokenizer:
    """Byte-pair encoding: ids are the 256 bytes in GPT-2's order, then the merges in order, then the special tokens.

    Parameters
    ----------
    source : Path
        ``src/tokenizers/vocab/qwen.hpp`` of the engine.
    """

    def __init__(self, source: Path) -> None:
        raw = bytes(int(x, 16) for x in re.findall(r"0x[0-9a-fA-F]+", source.read_text()))
        lines = [line for line in raw.decode("utf8").split("\n") if line and not line.startswith("#version")]
        merges = [line.split(" ") for line in lines]
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        order = printable + [b for b in range(256) if b not in printable]
        symbols = [*printable, *range(256, 512 - len(printable))]
        self._symbol = {byte: chr(code) for byte, code in zip(order, symbols, strict=True)}
        self._ids = {chr(code): i for i, code in enumerate(symbols)}
        self._ids |= {a + b: 256 + i for i, (a, b) in enumerate(merges)}
        self._rank = {(a, b): i for i, (a, b) in enumerate(merges)}
        self._words: dict[str, list[int]] = {}

    def _word(self, text: str) -> list[int]:
        parts = [self._symbol[b] for b in text.encode()]
        while len(parts) > 1:
            rank, i = min((self._rank.get((parts[i], parts[i + 1]), math.inf), i) for i in range(len(parts) - 1))
            if rank == math.inf:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self._ids[part] for part in parts]

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt, in the template that the engine wraps it in, without filling."""
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", TEMPLATE.format(prompt)):
            if part in SPECIAL:
                ids.append(SPECIAL[part])
                continue
            for word in re.findall(r" ?[A-Za-z]+|\n+| ?[^\sA-Za-z]+|\s+", part):
                if word not in self._words:
                    self._words[word] = self._word(word)
                ids += self._words[word]
        return ids


def pinned_tokenizer() -> Tokenizer:
    """The tokenizer of the engine that the build compiles, read from its source."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "upstream"
        locate_source("pypi", csrc_directory(), cache_directory()).fetch().unpack(tree)
        return Tokenizer(tree / "src" / "tokenizers" / "vocab" / "qwen.hpp")
