"""The tables of sdcffi/docs/models.md, made from the package's catalogue.

`python tests/support/models_page.py` writes them. All else on that page is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

from places import ROOT
from tables import put_between, table

from sdcffi._catalogue.entries import Entry, ModelEntry, Variant
from sdcffi._catalogue.files import files_of, total
from sdcffi._catalogue.reader import package_catalogue
from sdcffi._defaults.recommended import Default
from sdcffi._files import replacing
from sdcffi._references.weights import size_text

PAGE = ROOT / "sdcffi" / "docs" / "models.md"
_BEGINNING = "sdcffi/"  # of a page that is part of the package
_NEWEST = ("2026-08",)


def write_page() -> None:
    """Put the tables into the page, between their marks."""
    text = with_tables(PAGE.read_text("utf-8"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, "utf-8")


def with_tables(text: str) -> str:
    """Return the page's text with the tables of what the package's catalogue has now."""
    catalogue = package_catalogue()
    models = table(
        ("name", "good at", "variants", "recommended", "licence"),
        (
            (
                _named(model),
                model.good_at,
                _variants(model),
                _recommended({**model.options, **model.parameters}),
                model.licence,
            )
            for model in catalogue.models
        ),
    )
    loras = table(
        ("name", "for", "good at", "size", "recommended", "licence"),
        (
            (
                _named(lora),
                ", ".join(f"`{base}`" for base in lora.base),
                lora.good_at,
                _size(lora),
                _recommended(lora.parameters),
                lora.licence,
            )
            for lora in catalogue.loras
        ),
    )
    return put_between(put_between(text, "models", models), "loras", loras)


def _named(entry: Entry) -> str:
    page = f"../{entry.page.removeprefix(_BEGINNING)}" if entry.page.startswith(_BEGINNING) else entry.page
    title = entry.title.replace("[", "").replace("]", "")
    newest = " (newest engine only)" if isinstance(entry, ModelEntry) and entry.engines == _NEWEST else ""
    return f"`{entry.name}`: [{title}]({page}){newest}"


def _variants(model: ModelEntry) -> str:
    return ", ".join(f"`{variant.name}` {_size(model, variant)}" for variant in model.variants.values())


def _size(entry: Entry, variant: Variant | None = None) -> str:
    files = files_of(entry, variant)
    size = total(files)
    doubt = "" if all(file.confirmed for file in files) else ", not confirmed"
    return (size_text(size) if size is not None else "(size unknown)") + doubt


def _recommended(values: Mapping[str, Default]) -> str:
    """The values, with width and height in one."""
    texts = {
        name: str(item.value).lower() if isinstance(item.value, bool) else f"{item.value}"
        for name, item in values.items()
    }
    width, height = texts.pop("width", ""), texts.pop("height", "")
    size = [f"{width}x{height}"] if width and height else []
    return ", ".join([*(f"{name} {text}" for name, text in texts.items()), *size])


if __name__ == "__main__":
    write_page()
