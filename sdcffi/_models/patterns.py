"""Regular expressions from outside: only those that cannot make a matcher go on for ever.

Python's matcher and the engine's try one way after the other. A repeated group whose inside can be repeated has more
ways than anyone can wait for, each further ``.*`` multiplies them, and the engine's matcher also calls itself for each
character. So the form of a pattern is checked, in one pass, before anything is matched with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._quoting import shown

__all__ = ["MOST_PATTERN", "compiled"]

MOST_PATTERN = 1000  # characters
_MOST_DEPTH = 20  # groups within groups
_MOST_COUNT = 100  # in {m,n}
_LENGTH = 150  # characters of a tensor's name, in which a repetition may end
_MOST_WAYS = 100_000  # from one place of a name: two repetitions such as .* and a group of four alternatives
# A pattern's parts: an escape, a class, the start of a group, a repetition, or any other character.
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?[:=!])?|[*+?]\??|\{\d*(?:,\d*)?\}\??|.", re.DOTALL)
_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")


def compiled(name: str, pattern: str) -> re.Pattern[str]:
    """Compile a pattern that both matchers read alike, and that cannot take long on a tensor's name.

    Parameters
    ----------
    name : str
        Name of the parameter, for messages.
    pattern : str
        Literals, ``.``, classes, groups, alternatives, anchors, and repetitions of single characters.

    Raises
    ------
    ValueError
        With the pattern, and what is wrong with it.
    """
    if len(pattern) > MOST_PATTERN:
        raise ValueError(f"{name}: {shown(pattern)} has {len(pattern)} characters; use at most {MOST_PATTERN}")
    if reason := _why_not(_PART.findall(pattern)):
        raise ValueError(f"{name}: {shown(pattern)} {reason}")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: {shown(pattern)} is not a regular expression: {error}") from error


def _why_not(parts: list[str]) -> str:
    ways = 1
    bars = [0]  # of each group that is open, from the outermost on
    for part, before, is_open in zip(parts, ["", *parts], _are_open(parts), strict=False):
        if part.startswith("\\") and part[1:].isdigit() and part != "\\0":
            return "has a back reference, which takes too long to match: write the text again"
        if part[0] == "?" and before == "(":
            return "has a group that begins with (?; of those the engine supports only (?: and (?= and (?!"
        if part[0] in "*+{" and _repeats(part) and before == ")":
            return "repeats a group, which can take for ever to match: repeat single characters, as in [a-z.]*"
        if _repeats(part) and before and _repeats(before):
            return "repeats a repetition, which the engine's matcher does not know"
        if _repeats(part) and any(int(count) > _MOST_COUNT for count in re.findall(r"\d+", part)):
            return f"repeats something more than {_MOST_COUNT} times: use * or +"
        if part[0] == "(":
            bars.append(0)
        elif part == "|":
            bars[-1] += 1
        elif part == ")" and len(bars) > 1:
            ways *= bars.pop() + 1
        ways *= (_LENGTH if is_open else 1) * (2 if part[0] == "?" else 1)
        if len(bars) > _MOST_DEPTH:
            return f"has groups within more than {_MOST_DEPTH} groups: write it without them"
    if ways * (bars[0] + 1) > _MOST_WAYS:
        return (
            "has more ways to match than can be tried: use fewer repetitions such as .* (none is needed at the"
            " beginning), or several rules for alternatives"
        )
    return ""


def _repeats(part: str) -> bool:
    return part[0] in "*+?" or bool(_COUNTED.match(part))


def _are_open(parts: list[str]) -> Iterator[bool]:
    """Yield for each part whether it is a repetition that may end at several places.

    It may not if a character follows that cannot be part of it.
    """
    for index, part in enumerate(parts):
        if not _repeats(part) or part[0] == "?":
            yield False
            continue
        after = parts[index + 1 :]
        if not after or ((counted := _COUNTED.match(part)) and not counted[2]):
            yield False
            continue
        literal = after[0][-1:] if re.fullmatch(r"\\[^\w]|[^\\\[\](){}.*+?|^$]", after[0]) else ""
        is_literal = literal and not (len(after) > 1 and _repeats(after[1]))
        try:
            yield not is_literal or bool(re.fullmatch(parts[index - 1], literal))
        except re.error:  # the whole is none either, which its compilation tells
            yield True
