"""The table of sdcffi/docs/networks.md, and the values that it is made of.

`python tests/support/networks_page.py` writes the table, with PYTHONPATH=.:tests/models. With `--measure`, it first
measures every case, or those of the families that are named, on the engine that the package finds, and keeps the values
of that revision in tests/data/networks/measured.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from engines import name_of
from network_cases import NETWORKS
from networks import DATA, REVISIONS, decibels, generate, open_network, runs_on
from places import ROOT
from tables import put_between, table

from sdcffi._files import replacing
from sdcffi._machine.builds import locate

PAGE = ROOT / "sdcffi" / "docs" / "networks.md"
MEASURED = DATA / "measured.json"

Values = dict[str, dict[str, dict[str, float]]]  # by family, case and revision


def read_values() -> Values:
    values: Values = json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}
    return values


def measure(families: list[str]) -> None:
    """Measure on the engine at hand, and keep the values."""
    revision, values = name_of(locate()), read_values()
    for family, network in NETWORKS.items():
        if not runs_on(network, revision) or (families and family not in families):
            continue
        with (
            tempfile.TemporaryDirectory() as directory,
            open_network(network, network.write(Path(directory))) as engine,
        ):
            for name, case in network.cases.items():
                found = round(decibels(family, name, generate(engine, network, case)), 1)
                values.setdefault(family, {}).setdefault(name, {})[revision] = found
                print(f"{revision} {family} {name}: {found} dB", flush=True)
        _keep(values)


def _keep(values: Values) -> None:
    ordered = {
        family: {name: dict(sorted(values[family][name].items())) for name in network.cases if name in values[family]}
        for family, network in NETWORKS.items()
        if family in values
    }
    with replacing(MEASURED) as temporary:
        temporary.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")


def with_table(text: str) -> str:
    """Return the page's text with the table of the values that are kept."""
    values, rows = read_values(), []
    for family, network in NETWORKS.items():
        for name, case in network.cases.items():
            found: dict[str, Any] = values.get(family, {}).get(name, {})
            cells = [f"{found[revision]:.0f}" if revision in found else "" for revision in REVISIONS]
            rows.append([network.title, case.part, *cells, network.reference])
    heads = ["family", "part", *(f"dB, {revision}" for revision in REVISIONS), "reference"]
    return put_between(text, "networks", table(heads, rows))


def write_page() -> None:
    text = with_table(PAGE.read_text("utf-8"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, "utf-8")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure([word for word in sys.argv[1:] if not word.startswith("--")])
    write_page()
