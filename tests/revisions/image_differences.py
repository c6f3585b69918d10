"""Where sdcffi's image differs from upstream's: the rows of `differences/*.toml`, and the page that is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from places import ROOT
from tables import put_between, table

from sdcffi.params.plain import read_table

PAGE = ROOT / "sdcffi" / "docs" / "differences.md"
_TITLES = {
    "tokens": "Tokens",
    "prompts": "Prompts",
    "conditioning": "What the denoiser gets of the text",
    "transformers": "Positions, language models and tiles",
    "sampling": "Samplers and schedules",
    "modes": "Masks, passes and step caches",
    "engine": "LoRA, files and weights",
}


@dataclass(frozen=True)
class Difference:
    """One case in which upstream generates another image than the right one.

    Attributes
    ----------
    case, upstream, here : str
        What a user does, what upstream makes of it, and what sdcffi makes of it.
    reference : str
        The implementation or paper that says what is right.
    size : str
        How far upstream's image is from the right one.
    revisions : tuple of str
        The engine's revisions that have the fault.
    by : tuple of str
        The patches and source files that correct it, relative to the checkout.
    test : str
        The test that fails without them, relative to the checkout: a file, or a function in it after ``::``.
    """

    case: str
    upstream: str
    here: str
    reference: str
    size: str
    revisions: tuple[str, ...]
    by: tuple[str, ...]
    test: str


@dataclass(frozen=True)
class Part:
    """The differences of one part of the engine, and the patches that change no image."""

    title: str
    differences: tuple[Difference, ...]
    same_image: tuple[str, ...]


def read_parts() -> list[Part]:
    """Return what the files say, in the order of the page."""
    files = {path.stem: path for path in Path(__file__).with_name("differences").glob("*.toml")}
    if unknown := set(files) - set(_TITLES):
        raise ValueError(f"no title for {', '.join(sorted(unknown))}.toml in {Path(__file__).name}")
    return [_part(title, read_table(files[name])) for name, title in _TITLES.items() if name in files]


def _part(title: str, data: dict[str, Any]) -> Part:
    differences = tuple(
        Difference(**{**row, "revisions": tuple(row["revisions"]), "by": _several(row["by"])})
        for row in data.get("difference", ())
    )
    return Part(title, differences, tuple(data.get("same_image", ())))


def _several(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def write_page() -> None:
    """Put the tables into the page, between their marks."""
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


def with_tables(text: str) -> str:
    """Return the page's text with the tables of the differences that the repository has now."""
    parts = [f"## {part.title}\n\n{_table(part.differences)}" for part in read_parts() if part.differences]
    return put_between(text, "differences", "\n\n".join(parts))


def _table(differences: Sequence[Difference]) -> str:
    heads = ["case", "upstream", "sdcffi", "reference", "size", "revisions", "by, and test"]
    return table(heads, map(_cells, differences))


def _cells(difference: Difference) -> list[str]:
    by = [*map(Path, difference.by), Path(difference.test.partition("::")[0])]
    cells = [difference.case, difference.upstream, difference.here, difference.reference, difference.size]
    cells += [", ".join(f"`{name}`" for name in difference.revisions), ", ".join(f"`{path.name}`" for path in by)]
    return [re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells]


def has_test(test: str) -> bool:
    """Whether a test that a row names is there."""
    file, _, function = test.partition("::")
    path = ROOT / file
    if not path.is_file():
        return False
    return not function or any(name == function.partition("[")[0] for name in _functions(path))


def _functions(path: Path) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))
