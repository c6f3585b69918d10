"""The forms of a reference to files elsewhere, which may be given wherever a path to a model, part or LoRA is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from .._quoting import shown, shown_path

__all__ = [
    "COMMIT",
    "LONGEST",
    "CatalogueReference",
    "HubReference",
    "Reference",
    "WebReference",
    "is_inside",
    "parse",
    "pinned",
]

HUB = "hf://"
_WEB = ("https://", "http://")  # its digest says that a file is the right one, so the way to it need not be safe
_CATALOGUE = "catalogue:"
_IN_A_PATH = re.compile(r"(hf|https?):/[^/]|catalogue:")  # the first is what pathlib leaves of hf://
_NAME = re.compile(r"[\w.-]{1,96}", re.ASCII)
_OTHER_KINDS = ("datasets", "spaces", "buckets", "kernels")
LONGEST = 255
"""Bytes of a name, in most file systems."""

_OF_DOWNLOADS = (".incomplete", ".lock")  # names beside a file that is downloaded
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_PAGE = re.compile(r"/([\w.-]+/[\w.-]+)/(?:resolve|blob)/([^/]+)/(.+)")  # a file's address on the Hub
COMMIT = re.compile(r"[0-9a-f]{40}")
_STORAGE = re.compile(r"models--(.+?)--(.+)")  # a repository's folder in the Hub's cache
_HUB_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True)
class HubReference:
    """A file, a folder or a whole repository of models on the Hugging Face Hub.

    Attributes
    ----------
    repository : str
        ``"OWNER/REPO"``.
    path : str
        The file or folder in it. Empty: the repository.
    revision : str
        Branch, tag or commit.
    sha256 : str or None
        Which the file must have, in hexadecimal, small letters. None: what the Hub has.
    """

    repository: str
    path: str = ""
    revision: str = "main"
    sha256: str | None = None

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        digest = "" if self.sha256 is None else f"#sha256={self.sha256}"
        return f"{HUB}{self.repository}{path}" + ("" if self.revision == "main" else f"@{self.revision}") + digest

    @property
    def name(self) -> str:
        """The name of the file or folder, or of the repository."""
        return (self.path or self.repository).rpartition("/")[2]


@dataclass(frozen=True)
class WebReference:
    """A file at an address, known by its digest.

    Attributes
    ----------
    url : str
        The address, without the digest.
    sha256 : str
        In hexadecimal, small letters.
    """

    url: str
    sha256: str

    def __str__(self) -> str:
        """Return the address without what follows a question mark, which may hold a key."""
        return f"{self.url.partition('?')[0]}#sha256={self.sha256}"

    @property
    def name(self) -> str:
        """The name of the file."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


@dataclass(frozen=True)
class CatalogueReference:
    """A model or LoRA of the catalogue.

    Attributes
    ----------
    name : str
        Its name there.
    variant : str or None
        Which of its variants. None: the best that fits.
    """

    name: str
    variant: str | None = None

    def __str__(self) -> str:
        return f"{_CATALOGUE}{self.name}" + (f"/{self.variant}" if self.variant else "")


Reference: TypeAlias = HubReference | WebReference | CatalogueReference


def parse(text: str | os.PathLike[str]) -> Reference | None:
    """Read a reference.

    Parameters
    ----------
    text : str or path
        ``hf://OWNER/REPO[/PATH][@REVISION][#sha256=HEX]``, ``https://...#sha256=HEX`` or ``catalogue:NAME[/VARIANT]``,
        or a path.

    Returns
    -------
    Reference or None
        None: it is a path.

    Raises
    ------
    ValueError
        If it begins as a reference, but is none.
    """
    if not isinstance(text, str):
        if isinstance(text, os.PathLike) and _IN_A_PATH.match(os.fsdecode(text)):
            raise ValueError(
                f"{shown_path(text)} is a reference in a Path, which is for files of this machine: pass a string"
            )
        return None
    if text.startswith(HUB):
        return _hub(text)
    if text.startswith(_WEB):
        return _web(text)
    return _catalogue(text) if text.startswith(_CATALOGUE) else None


def _hub(text: str) -> HubReference:
    words, _, fragment = text.removeprefix(HUB).removeprefix("models/").partition("#sha256=")
    digest = _SHA256.fullmatch(f"sha256={fragment}")
    place, _, revision = words.partition("@")
    owner, _, rest = place.partition("/")
    repository, _, path = rest.partition("/")
    if not path and "/" in revision and not revision.startswith("refs/"):  # hf://OWNER/REPO@REVISION/PATH, as of hffs
        revision, _, path = revision.partition("/")
    form = "hf://OWNER/REPO, hf://OWNER/REPO/PATH or hf://OWNER/REPO/PATH@REVISION"
    if owner in _OTHER_KINDS:
        raise ValueError(f"{shown_path(text)} must be of a repository of models, not of {owner}: {form}")
    if not all(_NAME.fullmatch(name) and name.strip(".") for name in (owner, repository)):
        raise ValueError(f"{shown_path(text)} must be of the form {form}")
    if "@" in words and not is_inside(revision):
        raise ValueError(f"{shown_path(text)}: the revision must be a branch, a tag or a commit, not {shown(revision)}")
    path = path.removesuffix("/")
    if path and not is_inside(path):
        raise ValueError(f"{shown_path(text)}: the path must lead to a file or folder in it, not {shown(path)}")
    if "#sha256=" in text and not (digest and path):
        raise ValueError(f"{shown_path(text)}: #sha256= must be of a file, and have 64 hexadecimal digits")
    return HubReference(f"{owner}/{repository}", path, revision or "main", digest[1].lower() if digest else None)


def is_inside(path: str) -> bool:
    """Return whether a path of a repository leads to a file or folder in it, on any system."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and all(part.strip() and part not in (".", "..") for part in parts)


def _web(text: str) -> WebReference:
    url, _, fragment = text.partition("#")
    hidden = shown_path(url.partition("?")[0])
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna"), parts.port
    except ValueError as error:
        raise ValueError(f"{hidden} must be an address: {error}") from None
    if parts.username is not None:
        raise ValueError(
            f"the address of {parts.hostname} must not have a user or password: download the file yourself"
        )
    match = _SHA256.fullmatch(fragment)
    if match is None:
        found = _PAGE.fullmatch(unquote(parts.path)) if parts.hostname in _HUB_HOSTS else None
        if found:
            instead = HubReference(found[1], found[3], found[2])
            raise ValueError(f"{hidden} is a file of the Hugging Face Hub: write {instead}")
        raise ValueError(
            f"{hidden} must end in #sha256= and the 64 digits of the file's sha256, so that nobody can put another file"
            " in its place: they are on the page of the file, or sha256sum prints them"
        )
    reference = WebReference(url, match[1].lower())
    if not url.isprintable() or " " in url or not parts.hostname or not is_inside(reference.name):
        raise ValueError(f"{hidden} must be the address of a file")
    if not (parts.path + parts.query).isascii():
        raise ValueError(f"{hidden} must have %XX, as browsers copy it, in place of characters that are not of ASCII")
    if len(os.fsencode(reference.name)) > LONGEST or reference.name.endswith(_OF_DOWNLOADS):
        raise ValueError(
            f"{hidden} must be a file with a name of at most {LONGEST} bytes, which does not end in"
            f" {' or '.join(_OF_DOWNLOADS)}"
        )
    return reference


def _catalogue(text: str) -> CatalogueReference:
    name, slash, variant = text.removeprefix(_CATALOGUE).partition("/")
    if not _NAME.fullmatch(name) or (slash and not _NAME.fullmatch(variant)):
        raise ValueError(f"{shown_path(text)} must be of the form catalogue:NAME or catalogue:NAME/VARIANT")
    return CatalogueReference(name, variant or None)


def pinned(path: Path) -> HubReference | None:
    """Return the reference to a file of the Hub's cache, at the commit that it is of; None for another file."""
    parts = path.parts
    for at in range(len(parts) - 2, 0, -1):
        match = _STORAGE.fullmatch(parts[at - 1])
        if match and parts[at] == "snapshots" and COMMIT.fullmatch(parts[at + 1]):
            return HubReference(f"{match[1]}/{match[2]}", "/".join(parts[at + 2 :]), parts[at + 1])
    return None
