"""Tags of LoRAs in a prompt: ``<lora:name:weight>`` as sd-cli reads them, also with strengths of parts and blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .._quoting import printable, shortened, shown
from .lora_weights import check_weights

__all__ = ["Tag", "add_weights", "parse_strength", "parse_tags", "refuse_tags", "split_strength"]

_START = re.compile("<(lora|lyco|hypernet):", re.IGNORECASE)  # as far as is linear: the rest is cut by hand
_MOST_TAGS = 1000
_WEIGHT = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_HIGH_NOISE = "|high_noise|"
_MOST_FLOAT = 3.4028235e38
_NAMED = ("unet", "te", "lbw")


@dataclass(frozen=True)
class Tag:
    """A tag in a prompt.

    Attributes
    ----------
    name : str
        Of the adapter.
    multiplier : float
        Its strength.
    is_high_noise : bool
        Whether it is for the high-noise model.
    weights : mapping, str or None
        Strengths of parts and blocks, see `Lora`.
    """

    name: str
    multiplier: float
    is_high_noise: bool = False
    weights: Any = None


def parse_tags(prompt: str) -> tuple[str, list[Tag]]:
    """Remove tags from a prompt.

    Parameters
    ----------
    prompt : str
        Tags are ``<lora:name:weight>`` and ``<lora:|high_noise|name:weight>``, as in sd-cli. Besides, strengths of
        parts and blocks: ``<lora:name:unet:te>``, ``<lora:name:te=0:unet=1>``, ``<lora:name:1:lbw=OUTALL>``. Without a
        weight it is 1, as in AUTOMATIC1111's web interface. The case of ``lora`` does not matter, and ``lyco`` is the
        same.

    Returns
    -------
    prompt : str
        The prompt without the tags; blanks around them stay.
    tags : list of Tag
        In the order of the prompt.

    Raises
    ------
    ValueError
        If a tag has no name or no end, if a weight is not a finite number, if a preset is unknown, if there are more
        than 1000 tags, or if a tag is for a hypernetwork. (sd-cli ignores such a tag, and any text after a number.)
    """
    tags: list[Tag] = []
    texts, end = [], 0
    while match := _START.search(prompt, end):
        texts.append(prompt[end : match.start()])
        end = prompt.find(">", match.end()) + 1
        whole = printable(shortened(prompt[match.start() : end or len(prompt)]))
        if not end:
            raise ValueError(
                f"tag {whole} has no '>': write <lora:name:weight>, or pass lora_tags=False to keep the text"
            )
        if match[1].lower() == "hypernet":
            raise ValueError(f"tag {whole} is for a hypernetwork, which this engine has not: leave it out")
        if len(tags) == _MOST_TAGS:
            raise ValueError(f"a prompt may have at most {_MOST_TAGS} tags")
        name, _, text = prompt[match.end() : end - 1].partition(":")
        if not name.removeprefix(_HIGH_NOISE).strip():
            raise ValueError(f"tag {whole} names no LoRA: write <lora:name:weight>")
        multiplier, weights = parse_strength(text, whole) if text else (None, None)
        weight = 1.0 if multiplier is None else multiplier
        tags.append(Tag(name.removeprefix(_HIGH_NOISE), weight, name.startswith(_HIGH_NOISE), weights))
    return "".join(texts) + prompt[end:], tags


def refuse_tags(name: str, prompt: Any) -> None:
    """Refuse tags where none is read, such as in a negative prompt: they would be taken for text.

    Raises
    ------
    ValueError
        With the tag.
    """
    if isinstance(prompt, str) and (match := _START.search(prompt)):
        tag = printable(shortened(prompt[match.start() : (prompt.find(">", match.end()) + 1) or None]))
        raise ValueError(
            f"{name} has the tag {tag}, but adapters act on prompt and negative prompt alike: put the tag into the"
            " prompt, or pass lora_tags=False to keep it as text"
        )


def parse_strength(text: str, where: str) -> tuple[float | None, Any]:
    """Read ``weight``, ``unet:te``, ``unet=1:te=0`` or ``weight:lbw=OUTALL``.

    Parameters
    ----------
    text : str
        Without the adapter's name.
    where : str
        Name in messages.

    Returns
    -------
    multiplier : float or None
        Strength of the whole. None: there is no number.
    weights : mapping, str or None
        Strengths of parts and blocks, see `Lora`.

    Raises
    ------
    ValueError
        If it is something else.
    """
    positional: list[float] = []
    named: dict[str, Any] = {}
    for word in text.split(":"):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals and not named and len(positional) < 2:
            positional.append(_number(word, where))
        elif not equals:
            raise ValueError(
                f"{shown(word)} of {where} is one number too many; write unet:te, or name it, such as te=0.5"
            )
        elif key not in _NAMED or key in named:
            raise ValueError(f"{shown(key)} of {where} must be one of {', '.join(_NAMED)}, once")
        else:
            named[key] = value if key == "lbw" else _number(value, where)
    multiplier = positional[0] if positional else None
    parts = {"unet": named.get("unet", (positional or [1.0])[0]), "te": named.get("te", (positional or [1.0])[-1])}
    lbw = {"lbw": named["lbw"]} if "lbw" in named else {}
    if "unet" in named or "te" in named or len(positional) == 2:
        weights: Any = parts | lbw
        multiplier = 1.0
    else:
        weights = named.get("lbw")
    return multiplier, check_weights(weights, f"lbw of {where}")


def split_strength(text: str) -> tuple[str, str]:
    """Split ``PATH:weight``, where the weight is as `parse_strength` reads it; it is empty if there is none."""
    words = text.split(":")
    count = 0
    for word in reversed(words[1:]):
        key, equals, _ = word.partition("=")
        if not (key.strip() in _NAMED if equals else _WEIGHT.fullmatch(word)):
            break
        count += 1
    kept = len(words) - count
    return ":".join(words[:kept]), ":".join(words[kept:])


def _number(text: str, where: str) -> float:
    if not _WEIGHT.fullmatch(text) or abs(float(text)) > _MOST_FLOAT:
        raise ValueError(f"weight {shown(text)} of {where} must be a finite number, such as 0.8")
    return float(text)


def add_weights(first: tuple[float, Any], second: tuple[float, Any], where: str) -> tuple[float, Any]:
    """Add two strengths of one adapter, each a multiplier with its weights.

    Raises
    ------
    ValueError
        If they have different strengths of blocks, which do not add up to strengths of blocks.
    """
    if first[1] == second[1]:
        return first[0] + second[0], first[1]
    sums = []
    for multiplier, weights in (first, second):
        parts = {} if weights is None else weights
        if (
            not isinstance(parts, dict)
            or not parts.keys() <= {"unet", "te"}
            or any(isinstance(value, dict) for value in parts.values())
        ):
            raise ValueError(f"LoRA {where} is given twice with different strengths of blocks; give it once")
        sums.append({part: multiplier * parts.get(part, 1.0) for part in ("unet", "te")})
    return 1.0, {part: sums[0][part] + sums[1][part] for part in ("unet", "te")}
