"""What the engine makes of a prompt: how it is told to, and what it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import NativeError
from ..params.prompt_tokens import EncoderTokens, PromptTokens, Token, TokenChunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .library import Library

__all__ = ["COMMA_BACKTRACK", "read_notes", "read_tokens"]

COMMA_BACKTRACK = 20  # tokens, as in AUTOMATIC1111's web interface


def read_notes(library: Library) -> tuple[str, ...]:
    """Return what this thread's last call has to say about its prompts."""
    count = library.ffi.new("size_t *")
    rows = library.lib.sdg_prompt_notes(count)
    return tuple(library.text(rows[index]) for index in range(count[0]))


def read_tokens(
    library: Library, call: Callable[[Any, Any, Any], int], log: Callable[[], tuple[str, ...]]
) -> PromptTokens:
    """Call ``sdg_tokens`` and return its rows.

    Parameters
    ----------
    library : Library
    call : callable
        Takes the pointers to rows, count and error, and returns the status.
    log : callable
        Returns the last lines of the native log.

    Raises
    ------
    NativeError
        If it fails.
    """
    rows, count = library.ffi.new("sdg_encoder_tokens **"), library.ffi.new("size_t *")
    library.check(lambda error: call(rows, count, error), NativeError, "the prompt could not be read", log)
    return PromptTokens(
        tuple(_encoder(library, rows[0][index]) for index in range(count[0])),
        read_notes(library),
    )


def _encoder(library: Library, row: Any) -> EncoderTokens:
    chunks = tuple(_chunk(library, row.chunks[index]) for index in range(row.chunk_count))
    return EncoderTokens(
        library.text(row.encoder), chunks, int(row.limit) or None, library.text(row.cut), library.text(row.unknown)
    )


def _chunk(library: Library, row: Any) -> TokenChunk:
    tokens = (row.tokens[index] for index in range(row.count))
    return TokenChunk(
        tuple(Token(int(token.id), library.text(token.text), float(token.weight)) for token in tokens),
        int(row.length),
        int(row.padding),
    )
