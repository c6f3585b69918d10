"""The tables of sdcffi/docs/defaults.md, made from the package's table of families.

`python tests/support/defaults_page.py` writes them. All else on that page is written by hand.
"""

from __future__ import annotations

from places import ROOT
from tables import put_between, table

from sdcffi._defaults.families import Family, families
from sdcffi._defaults.metadata import LIMITS, OURS
from sdcffi._files import replacing

PAGE = ROOT / "sdcffi" / "docs" / "defaults.md"
_COLUMNS = ("steps", "cfg_scale", "guidance", "sampler", "scheduler", "video_frames")


def write_page() -> None:
    """Put the tables into the page, between their marks."""
    text = with_tables(PAGE.read_text("utf-8"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, "utf-8")


def with_tables(text: str) -> str:
    """Return the page's text with the tables of what the package has now."""
    return put_between(put_between(text, "keys", _keys()), "families", _families())


def _keys() -> str:
    rows = [
        [f"`{OURS}{name}`", "a name of the engine" if limits is None else f"{limits[0]:g} to {limits[1]:g}"]
        for name, limits in LIMITS.items()
    ]
    return table(["key", "legal values"], rows)


def _families() -> str:
    rows = []
    for row in families():
        values = dict(row.values)
        size = f"{values.pop('width')}x{values.pop('height')}"
        cells = [str(values.pop(name, "")) for name in _COLUMNS]
        rest = "".join(f"; `{name}={value}`" for name, value in values.items())
        rows.append([row.title, _told_by(row), size, *cells, row.source + rest])
    return table(["model", "told by", "size", *map(_head, _COLUMNS), "source"], rows)


def _head(name: str) -> str:
    return "frames" if name == "video_frames" else f"`{name}`"


def _told_by(row: Family) -> str:
    ways = [f"the word {' or '.join(f'`{word}`' for word in row.words)}"] if row.words else []
    if row.tensor:
        ways.append(f"a tensor `{row.tensor}`" + (f" of {row.columns} columns" if row.columns else ""))
    if row.high_noise:
        ways.append("`high_noise_diffusion_model=`")
    return ", or ".join(ways) or "its other tensors"


if __name__ == "__main__":
    write_page()
