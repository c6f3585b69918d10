"""``sdcffi tokens``: show what the text encoders of a model get of a prompt."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._flags import JSON_HELP, SHORT_MODEL, SHORT_RUN, add_command, add_engine, arguments_of
from ._parser import as_utf8
from ._terminal import logger

if TYPE_CHECKING:
    from ..params.prompt_tokens import EncoderTokens, PromptTokens, Token

__all__ = ["add"]

SHORT = {
    "prompt": {
        "PROMPT": "the prompt, or a negative prompt",
        "--comma-backtrack": "as for generate",
        "--json": "print the result as JSON",
    },
    **SHORT_MODEL,
    "how to run": SHORT_RUN,
}


def add(commands: Any) -> None:
    """Add the command."""
    text = "show what the text encoders get of a prompt"
    command = add_command(commands, "tokens", _run, text, arguments="PROMPT", short=SHORT)
    command.add_argument("prompt", type=as_utf8, metavar="PROMPT", help="the prompt, or a negative prompt")
    command.add_argument("--json", action="store_true", help=JSON_HELP)
    command.add_argument(
        "--comma-backtrack", type=int, metavar="N", help="end a chunk of CLIP at a comma among its last N (default: 20)"
    )
    add_engine(command)


def _run(options: argparse.Namespace) -> None:
    from ..engine.engine import Engine

    with Engine(**arguments_of(options).engine, load_weights=False, on_log=logger(options)) as engine:
        found = engine.tokens(options.prompt, comma_backtrack=options.comma_backtrack)
    print(
        json.dumps(found.as_dict(), indent=2, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower())
        if options.json
        else "\n".join(_lines(found))
    )


def _lines(found: PromptTokens) -> Iterator[str]:
    for encoder in found.encoders:
        yield from _encoder_lines(encoder)
    yield from (f"note: {note}" for note in found.notes)


def _encoder_lines(encoder: EncoderTokens) -> Iterator[str]:
    count = sum(len(chunk.tokens) for chunk in encoder.chunks)
    limit = f" of at most {encoder.limit}" if encoder.limit else ""
    yield f"{encoder.encoder}: {count} tokens{limit}, in {len(encoder.chunks)} chunk{'s' * (len(encoder.chunks) != 1)}"
    for chunk in encoder.chunks:
        yield "  " + " ".join(map(_word, chunk.tokens))


def _word(token: Token) -> str:
    weight = "" if token.weight == 1 else f":{token.weight:.4g}"
    return f"{token.text.strip() or repr(token.text)}({token.id}){weight}"
