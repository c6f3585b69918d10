"""Warn of prompt syntax that other programs and their extensions have, and that is text here."""

from __future__ import annotations

import re

from .._warnings import warn

__all__ = ["warn_of_syntax"]

# What it looks like, and what it means elsewhere. Each pattern takes time in proportion to the prompt.
_FOREIGN = (
    (re.compile(r"(?<!\\)\[[^\[\]:]*:(?:[^\[\]:]*:)?\s*\d*\.?\d+\s*\]"), "prompt editing"),
    (re.compile(r"(?<!\\)\[[^\[\]|]*\|[^\[\]]*\]"), "alternating words"),
    (re.compile(r"\{[^{}|]*\|[^{}]*\}"), "a choice at random"),
    (re.compile(r"(?<!\w)__\w[\w/-]{0,100}?__(?!\w)"), "a wildcard"),
    (re.compile(r"(?<!\S)AND(?!\S)"), "composition"),
    (
        re.compile(
            r"(?:<(?!(?:lora|lyco|hypernet):)|\uff1c)\s{0,9}(?:loras?|lyco|locon|loha|lokr|dora)\s{0,9}"
            r"(?:[:=\uff1a][^<>\uff1e]{0,100})?[>\uff1e]",
            re.IGNORECASE,
        ),
        "a LoRA (here <lora:name:weight>)",
    ),
    (re.compile(r"(?<![cC])(?<=[\w)])(?:\+\+|--)(?=[\s,.]|$)"), "weights of compel"),
)
_MOST_SHOWN = 40  # characters


def warn_of_syntax(name: str, prompt: str | None) -> None:
    """Warn if a prompt has syntax of other programs, which the model gets as text.

    Parameters
    ----------
    name : str
        Name of the parameter.
    prompt : str or None
        The prompt, checked.

    Warns
    -----
    UserWarning
        With the piece, and what it would mean elsewhere.
    """
    if not prompt or prompt.isupper():  # in capitals AND is a word
        return
    for pattern, meaning in _FOREIGN:
        if found := pattern.search(prompt):
            piece = found[0] if len(found[0]) <= _MOST_SHOWN else f"{found[0][: _MOST_SHOWN - 3]}..."
            warn(f"{name}: {piece!r} is {meaning} in other programs, and text here; docs/prompts.md has what is read")
