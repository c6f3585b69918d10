"""The tables of sdcffi/docs/lora-names.md, made from the package's table of names.

`python tests/support/lora_names_page.py` writes them. All else on that page is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from places import ROOT
from tables import put_between, table

from sdcffi._files import replacing
from sdcffi._models.lora_name_table import read_data

PAGE = ROOT / "sdcffi" / "docs" / "lora-names.md"
_TITLES = {
    "unet": "Stable Diffusion 1, 2, XL",
    "flux": "FLUX.1, and the families made like it",
    "clip": "CLIP",
    "t5": "T5",
    "llm": "language models",
    "ltx2_text": "text projection of LTX-2",
    "vae": "autoencoder",
    "wan_vae": "Wan's autoencoder",
}


def write_page() -> None:
    """Put the tables into the page, between their marks."""
    text = with_tables(PAGE.read_text("utf-8"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, "utf-8")


def with_tables(text: str) -> str:
    """Return the page's text with the tables of what the package has now."""
    data = read_data()
    contents: Mapping[str, Callable[[dict[str, Any]], str]] = {
        "families": _families,
        "prefixes": _prefixes,
        "sets": _sets,
        "names": _names,
    }
    for name, content in contents.items():
        text = put_between(text, name, content(data))
    return text


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _families(data: dict[str, Any]) -> str:
    def link(name: str) -> str:
        return f"[{name}](#{_heading(data, name)})" if data["tables"][name].get("rows") else name

    titles = {name: part["title"] for name, part in data["parts"].items()}
    rows = [
        [
            family["title"],
            ", ".join(map(link, family["tables"])),
            ", ".join(titles[name] for name in family["encoders"]),
        ]
        for family in data["families"]
    ]
    return table(["family", "tables", "text encoders, in diffusers' order"], rows)


def _prefixes(data: dict[str, Any]) -> str:
    rows = [
        [part["title"], _code(part["engine"]), _code(filter(None, part["prefixes"]))] for part in data["parts"].values()
    ]
    ordinals = ("first", "second", "third")
    rows += [
        [f"{ordinal} text encoder", "", _code(item["prefixes"])]
        for ordinal, item in zip(ordinals, data["positions"], strict=True)
    ]
    return table(["part", "the engine's", "before the names in files"], rows)


def _sets(data: dict[str, Any]) -> str:
    def pair(item: str | list[str]) -> str:
        return f"`{item}`" if isinstance(item, str) else f"`{item[0]}` is `{item[1]}`"

    return table(
        ["set", "members"], [[f"`<{name}>`", ", ".join(map(pair, items))] for name, items in data["sets"].items()]
    )


def _names(data: dict[str, Any]) -> str:
    parts = []
    for name, item in data["tables"].items():
        if not item.get("rows"):
            continue
        rows = [
            [f"`{key}`", " or ".join(f"`{one}`" for one in ([value] if isinstance(value, str) else value))]
            for key, value in item["rows"].items()
        ]
        parts += [f"### {_title(data, name)}", table(["in files", "the engine's"], rows)]
    return "\n\n".join(parts)


def _title(data: dict[str, Any], name: str) -> str:
    return _TITLES.get(name) or next(family["title"] for family in data["families"] if family["tables"][-1] == name)


def _heading(data: dict[str, Any], name: str) -> str:
    kept = "".join(letter for letter in _title(data, name).lower() if letter.isalnum() or letter in "- ")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    write_page()
