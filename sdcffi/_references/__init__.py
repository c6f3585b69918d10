"""References to files elsewhere: ``hf://OWNER/REPO/PATH``, ``https://...#sha256=HEX`` and ``catalogue:NAME``.

A stand-in that tells them apart, and downloads nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .._quoting import shown_path
from ..errors import SDError

__all__ = ["CatalogueReference", "Reference", "fetch", "is_there", "parse"]

_NAME = re.compile(r"[\w.-]{1,96}")
_HUB = re.compile(r"hf://[\w.-]+/[\w.-]+(/[^@]+)?(@.+)?")
_WEB = re.compile(r"https?://.+#sha256=[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Reference:
    """A file elsewhere."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CatalogueReference:
    """A model or LoRA of the catalogue."""

    name: str
    variant: str | None = None


def parse(text: object) -> Reference | CatalogueReference | None:
    """Read a reference; None: it is a path.

    Raises
    ------
    ValueError
        If it begins as a reference, but is none.
    """
    if not isinstance(text, str):
        return None
    if text.startswith("catalogue:"):
        name, slash, variant = text.removeprefix("catalogue:").partition("/")
        if not _NAME.fullmatch(name) or (slash and not _NAME.fullmatch(variant)):
            raise ValueError(f"{shown_path(text)} must be of the form catalogue:NAME or catalogue:NAME/VARIANT")
        return CatalogueReference(name, variant or None)
    if text.startswith(("hf://", "https://", "http://")):
        if not (_HUB.fullmatch(text) or _WEB.fullmatch(text)):
            raise ValueError(f"{shown_path(text)} must be of the form hf://OWNER/REPO/PATH or https://...#sha256=HEX")
        return Reference(text)
    return None


def fetch(reference: Reference | CatalogueReference) -> Path:
    """Download a file, unless it is there."""
    raise SDError(f"{reference} cannot be downloaded by this version")


def is_there(reference: Reference | CatalogueReference) -> Path | None:
    """Return the file if it was downloaded, without the network."""
    return None
