"""What AUTOMATIC1111's web UI makes of a prompt, written anew from its rules: weights in brackets, BREAK, chunks of 75.

The names of the parts are those of its modules `prompt_parser` and `sd_hijack_clip`. Tokens are numbers that the caller
brings, so nothing here knows a tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LENGTH = 75
_PIECE = re.compile(
    r"""\\[()\[\]\\]      # a bracket or backslash that is text
      | \\                # a backslash alone vanishes
      | [(\[]             # begins a bracket
      | :\s*([+-]?[.\d]+)\s*\)   # a weight ends it
      | [)\]]             # ends a bracket
      | [^\\()\[\]:]+     # text
      | :""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse(prompt: str) -> list[tuple[str, float]]:
    """Return the texts of a prompt with their weights; BREAK has -1. A weight that is no number counts as 1."""
    parts: list[list[str | float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor  # type: ignore[operator]

    for match in _PIECE.finditer(prompt):
        piece, weight = match[0], match[1]
        if piece.startswith("\\"):
            parts.append([piece[1:], 1.0])
        elif piece in opened:
            opened[piece].append(len(parts))
        elif weight is not None and opened["("]:
            close(opened["("].pop(), _number(weight))
        elif piece == ")" and opened["("]:
            close(opened["("].pop(), 1.1)
        elif piece == "]" and opened["["]:
            close(opened["["].pop(), 1 / 1.1)
        else:
            for index, text in enumerate(_BREAK.split(piece)):
                parts += [["BREAK", -1.0]] if index else []
                parts.append([text, 1.0])
    for bracket, factor in (("(", 1.1), ("[", 1 / 1.1)):
        for start in opened[bracket]:
            close(start, factor)
    merged: list[list[str | float]] = []
    for part in parts or [["", 1.0]]:
        if merged and merged[-1][1] == part[1]:
            merged[-1][0] += part[0]  # type: ignore[operator]
        else:
            merged.append(list(part))
    return [(str(text), _single(float(weight))) for text, weight in merged]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return value if math.isfinite(_single(value, math.inf)) else 1.0


def _single(value: float, otherwise: float = 1.0) -> float:
    """The number if single precision holds it."""
    return value if abs(value) < 3.4028235677973366e38 else otherwise


@dataclass
class Chunk:
    """75 tokens at most, with their weights."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def padded(self, start: int, end: int, padding: int) -> tuple[list[int], list[float]]:
        """As the encoder gets it: 77 tokens."""
        ids = [start, *self.ids, end]
        return ids + [padding] * (LENGTH + 2 - len(ids)), [1.0, *self.weights] + [1.0] * (LENGTH + 1 - len(self.ids))


def chunks(
    prompt: str,
    tokenize: Callable[[str], Sequence[int]],
    comma: int,
    backtrack: int = 20,
    words: Mapping[str, Sequence[int]] | None = None,
) -> list[Chunk]:
    """Return the chunks of a prompt, in which the names of `words` are replaced by their tokens."""
    names = sorted(((list(tokenize(name)), list(ids)) for name, ids in (words or {}).items()), key=lambda x: -len(x[0]))
    done: list[Chunk] = []
    chunk, last_comma = Chunk(), -1

    def end() -> None:
        nonlocal chunk, last_comma
        done.append(chunk)
        chunk, last_comma = Chunk(), -1

    for text, weight in parse(prompt):
        if text == "BREAK" and weight == -1:
            end()
            continue
        ids = list(tokenize(text))
        position = 0
        while position < len(ids):
            if ids[position] == comma:
                last_comma = len(chunk.ids)
            elif backtrack and len(chunk.ids) == LENGTH and last_comma >= 0 and LENGTH - last_comma <= backtrack:
                cut = last_comma + 1
                moved = Chunk(chunk.ids[cut:], chunk.weights[cut:])
                chunk = Chunk(chunk.ids[:cut], chunk.weights[:cut])
                end()
                chunk = moved
            if len(chunk.ids) == LENGTH:
                end()
            name, vectors = next(
                (pair for pair in names if ids[position : position + len(pair[0])] == pair[0]), ([], [])
            )
            if len(chunk.ids) + len(vectors) > LENGTH:
                end()
            chunk.ids += vectors or [ids[position]]
            chunk.weights += [weight] * (len(vectors) or 1)
            position += len(name) or 1
    if chunk.ids or not done:
        end()
    return done
