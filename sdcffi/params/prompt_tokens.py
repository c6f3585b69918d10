"""What the text encoders get of a prompt, as `Engine.tokens` returns it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .._public import public

__all__ = ["EncoderTokens", "PromptTokens", "Token", "TokenChunk"]


@public
@dataclass(frozen=True)
class Token:
    """One token of a prompt.

    Attributes
    ----------
    id : int
        Number in the encoder's vocabulary. A vector of an embedding has one beyond it.
    text : str
        What it stands for: part of a word, the name of a special token, or that of an embedding. A part of a character
        is written as the vocabulary has it.
    weight : float
        Factor by which its result is multiplied.
    """

    id: int
    text: str
    weight: float


@public
@dataclass(frozen=True)
class TokenChunk:
    """Tokens that an encoder reads together.

    Attributes
    ----------
    tokens : tuple of Token
        The tokens, start and end included, padding not.
    length : int
        Number of tokens with padding.
    padding : int
        Number of the token that fills the chunk up to `length`.
    """

    tokens: tuple[Token, ...]
    length: int
    padding: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens' numbers."""
        return tuple(token.id for token in self.tokens)


@public
@dataclass(frozen=True)
class EncoderTokens:
    """What one text encoder gets of a prompt.

    Attributes
    ----------
    encoder : str
        The encoder, by the keyword of `Engine`: ``"clip_l"``, ``"clip_g"``, ``"t5xxl"`` or ``"llm"``.
    chunks : tuple of TokenChunk
        The text. Only CLIP of Stable Diffusion 1, 2 and XL reads more than one chunk. A language model's text has the
        template around the prompt.
    limit : int or None
        Largest number of tokens. None: there is none.
    cut : str
        What is left out because the prompt is too long.
    unknown : str
        Characters that the vocabulary does not have.
    """

    encoder: str
    chunks: tuple[TokenChunk, ...]
    limit: int | None
    cut: str
    unknown: str


@public
@dataclass(frozen=True)
class PromptTokens:
    """What the text encoders get of a prompt, returned by `Engine.tokens`.

    Attributes
    ----------
    encoders : tuple of EncoderTokens
        One for each encoder that is loaded.
    notes : tuple of str
        What `Engine.generate` would warn of: text that is cut, characters that are not known, brackets that are text.
    """

    encoders: tuple[EncoderTokens, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as a dictionary for `json.dumps`."""
        return asdict(self)
