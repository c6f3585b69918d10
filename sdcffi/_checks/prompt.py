"""Check prompts for the engine."""

from __future__ import annotations

import re
from typing import Any

from .._quoting import shown

__all__ = ["MOST_BACKTRACK", "MOST_WITH_TAGS", "check_prompt", "check_text"]

MOST_BACKTRACK = 74  # tokens: a chunk of CLIP has 75
_MOST = 50_000  # bytes; the tokenizers' regular expressions recurse for each one, and overflow the stack above this
MOST_WITH_TAGS = 4 * _MOST
"""Bytes of a prompt before its tags are taken out."""
# The brackets and weights of csrc/text/prompt_syntax.cpp; everything else is text.
_TOKEN = re.compile(r"\\[()\[\]\\]|\(|:\s*([+-]?[.\d]+)\s*\)|\)")
_LARGEST, _SMALLEST = 3.4028234663852886e38, 1.1754943508222875e-38  # of normal floats


def check_prompt(name: str, prompt: Any, weighted: bool = True) -> None:
    """Refuse a prompt that the engine would cut off or not understand.

    Parameters
    ----------
    name : str
        Name of the parameter, for messages.
    prompt : str or None
        The prompt. None is accepted.
    weighted : bool
        Whether the model has weights in prompts, so that they are checked.

    Raises
    ------
    TypeError
        If it is neither None nor a string.
    ValueError
        If it has a NUL character, lone surrogates, more than 50,000 bytes in UTF-8, or a weight as in
        ``(text:weight)`` that is not a number or does not fit single precision.
    """
    if prompt is None:
        return
    check_text(name, prompt, _MOST)
    if weighted:
        _check_weights(name, prompt)


def check_text(name: str, prompt: Any, most: int) -> None:
    """Refuse a text that is not a string, or that UTF-8 cannot hold in so many bytes.

    Raises
    ------
    TypeError, ValueError
        With the reason.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"{name} must be a string, not {shown(prompt)}")
    if len(prompt) > most:
        raise ValueError(f"{name} must have at most {most} bytes in UTF-8, not {len(prompt)} or more")
    if "\0" in prompt:
        raise ValueError(
            f"{name} must not contain a NUL character, as at index {prompt.index(chr(0))}: the engine stops there"
        )
    try:
        length = len(prompt.encode())
    except UnicodeEncodeError as error:
        reason = f"{error.reason}: {shown(prompt[error.start])} at index {error.start}"
        raise ValueError(f"{name} cannot be encoded as UTF-8: {reason}") from None
    if length > most:
        raise ValueError(f"{name} must have at most {most} bytes in UTF-8, not {length}")


def _check_weights(name: str, prompt: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(prompt):
        if token[0] == "(":
            depth += 1
        elif token[0].endswith(")") and not token[0].startswith("\\") and depth:
            depth -= 1
            if token[1]:
                _check_weight(name, prompt, token)


def _check_weight(name: str, prompt: str, token: re.Match[str]) -> None:
    piece = prompt[max(0, token.start() - 20) : token.end()]
    try:
        weight = abs(float(token[1]))
    except ValueError:
        raise ValueError(
            f"{name}: {shown(token[1])} in {shown(piece)} is not a weight: write it as (text:1.2)"
        ) from None
    if weight > _LARGEST or 0 < weight < _SMALLEST or (weight == 0 and re.search("[1-9]", token[1])):
        raise ValueError(f"{name}: {shown(token[1])} in {shown(piece)} does not fit a float: use a weight near 1")
