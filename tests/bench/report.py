"""Results as tables in Markdown, as JSON, and as a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from places import ROOT
from tables import put_between, table

from sdcffi._files import replacing

from . import growth
from .contenders import CONTENDERS
from .idleness import TOLERABLE
from .roofline import Roofline, has_rates, rate
from .rounds import Runs, median, pairs, ratios
from .works import AIMS, OURS, WORKS, Aim, contender

PAGE = ROOT / "sdcffi" / "docs" / "speed.md"
PLOT = PAGE.with_suffix(".png")
_MIB = 2**20
_HOW_TO_READ = (
    "Median (smallest to largest): **what sdcffi takes in proportion to it**, the median of the rounds' ratios."
)


class Results:
    """What was measured so far, kept in a file that is written after each work.

    Parameters
    ----------
    path : Path
        The file.
    about : dict
        Date, machine, versions, command: what the numbers depend on.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.roofline: Roofline = {}
        self.works: dict[str, dict[str, Runs]] = {}
        self.growth: dict[str, growth.Measured] = {}
        self.disturbed: dict[str, float] = {}  # share of the cores that others took, before or after each work

    def resume(self) -> None:
        """Take over what the file holds, if that was measured with the same build, options and contenders."""
        if not self.path.is_file():
            return
        kept = json.loads(self.path.read_text("utf-8"))
        if kept["about"]["same"] != self.about["same"]:
            return
        self.disturbed = kept["disturbed"]
        self.roofline = kept["roofline"] if self._was_calm("roofline") and has_rates(kept["roofline"]) else {}
        works = {name: {label: Runs(**runs) for label, runs in lanes.items()} for name, lanes in kept["works"].items()}
        self.growth = {name: axis for name, axis in kept["growth"].items() if self._was_calm(name)}
        self.works = {
            name: lanes for name, lanes in works.items() if self._was_calm(name) and _is_complete(name, lanes)
        }

    def _was_calm(self, name: str) -> bool:
        return self.disturbed.get(name, 0.0) <= TOLERABLE

    def save(self) -> None:
        """Write the file."""
        works = {name: {label: asdict(runs) for label, runs in lanes.items()} for name, lanes in self.works.items()}
        content = {"about": self.about, "roofline": self.roofline, "disturbed": self.disturbed}
        content |= {"works": works, "growth": self.growth}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1), "utf-8")

    def only(self, names: Collection[str]) -> Results:
        """The same with these works alone."""
        part = Results(self.path, self.about)
        part.roofline, part.disturbed = self.roofline, self.disturbed
        part.works = {name: lanes for name, lanes in self.works.items() if name in names}
        part.growth = {name: measured for name, measured in self.growth.items() if name in names}
        return part

    def in_order(self) -> dict[str, dict[str, Runs]]:
        """The works in the order of the table of works."""
        return {name: self.works[name] for name in WORKS if name in self.works}


def _is_complete(name: str, lanes: dict[str, Runs]) -> bool:
    """Whether nobody failed, or was not installed and is now."""
    by_label = {lane.label: contender(lane).missing() for lane in WORKS[name].lanes} if name in WORKS else {}
    return bool(by_label) and all(runs.state == (by_label.get(label) or "measured") for label, runs in lanes.items())


def markdown(results: Results) -> str:
    """Everything."""
    sections = [
        about(results),
        "### Aims\n\n" + aims(results),
        f"### Medians\n\n{_HOW_TO_READ}\n\n{medians(results)}",
        "### Share of what the machine can do\n\n" + shares(results),
        "### Growth\n\n" + grown(results),
    ]
    return "\n\n".join(sections) + "\n"


def about(results: Results) -> str:
    """Where and when."""
    it = results.about
    versions = ", ".join(f"{name} {version}" for name, version in it["versions"].items())
    lines = [f"Measured on {it['date']} by `{it['command']}`: {it['machine']}; {versions}."]
    if results.roofline:
        rates = [
            f"{best['rate'] / 1e9:.0f} in {type} ({best['instructions']})"
            for type, best in results.roofline["arithmetic"].items()
        ]
        lines.append(
            f"The cores can do {', '.join(rates)} giga-operations per second, a multiply-add being two; memory is "
            f"copied at {results.roofline['memory'] / 1e9:.1f} GB/s."
        )
    names = [
        name for name in ("roofline", *results.works, *results.growth) if results.disturbed.get(name, 0) > TOLERABLE
    ]
    if names:
        lines.append(f"**Other processes were at work during {', '.join(names)}: measure again.**")
    return " ".join(lines)


def aims(results: Results) -> str:
    """The ratios aimed at, of those works that were measured."""
    rows = [aim_row(aim, results.works[aim.work]) for aim in AIMS if aim.work in results.works]
    return _table(["what", "who", "against", "takes", "the other", "ratio (rounds)", "aim", ""], rows)


def aim_row(aim: Aim, lanes: dict[str, Runs]) -> list[str]:
    """What was reached."""
    one, other = (lanes.get(label, Runs("not measured")) for label in (aim.lane, aim.against))
    cells = [_median(runs, aim.part) for runs in (one, other)]
    if aim.difference:
        reached = [a[aim.part] - b[aim.part] for a, b in pairs(one, other, aim.part)]
        told, limit = _spread(reached, lambda s: f"{1000 * s:.1f}", " ms"), f"≤ {1000 * aim.limit:.0f} ms"
    else:
        reached = ratios(one, other, aim.part)
        told, limit = _spread(reached, lambda q: f"{q:.2f}"), f"≤ {aim.limit:.2f}"
    verdict = "" if not reached else "met" if median(reached) <= aim.limit else "missed"
    return [aim.title, aim.lane, aim.against, *cells, told, limit, verdict]


def medians(results: Results) -> str:
    """Of every part what each lane took; works of the same lanes share a table."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for name, lanes in results.in_order().items():
        rows = tables.setdefault(tuple(lanes), [])
        for part, title in WORKS[name].parts.items():
            cells = [_cell(label, lanes, part) for label in lanes]
            rows.append([f"{WORKS[name].title}: {title}", *cells])
    return "\n\n".join(_table(["", *labels], rows) for labels, rows in tables.items()) or "Not measured."


def _cell(label: str, lanes: dict[str, Runs], part: str) -> str:
    runs = lanes[label]
    if runs.state != "measured":
        return runs.state
    proportion = ratios(lanes[OURS], runs, part) if label != OURS and OURS in lanes else []
    spread = _spread(runs.values(part), _quantity(part), _unit(part))
    return f"{spread}: **{median(proportion):.2f}**" if proportion else spread


def shares(results: Results) -> str:
    """How much of its type's rate of arithmetic each contender reaches; PyTorch has counted the operations."""
    if not results.roofline:
        return "Not measured."
    types = [type for type in _TYPES if type in results.roofline["arithmetic"]]
    shared = {label: type for label, type in _SHARED.items() if any(label in runs for runs in results.works.values())}
    rows = []
    for name, lanes in results.in_order().items():
        for part in WORKS[name].networks:
            counts = [count for runs in lanes.values() for count in runs.values(f"{part} operations")]
            if not counts:
                continue
            cells = [f"{counts[0] / rate(results.roofline, type):.2f} s" for type in types]
            for label, computes in shared.items():
                seconds = median(lanes[label].values(part)) if label in lanes else None
                share = counts[0] / rate(results.roofline, computes) / seconds if seconds else 0
                cells.append(f"{100 * share:.0f} %" if share else "")
            title = f"{WORKS[name].title}: {WORKS[name].parts[part]}"
            rows.append([title, f"{counts[0] / 1e9:.0f}", *cells])
    return _table(["what", "GFLOP", *(f"at {type}'s rate" for type in types), *shared], rows)


_TYPES = ("float32", "bfloat16", "int8")  # those that contenders compute in
_SHARED = {
    name: contender.computes
    for name, contender in CONTENDERS.items()
    if name in (OURS, "sd-cli") or "torch" in contender.needs
}


def grown(results: Results) -> str:
    """The fits."""
    rows = []
    for name, measured in results.growth.items():
        axis = growth.AXES[name]
        points = ", ".join(
            f"{value}: {seconds:.2f}"
            for value, seconds in zip(measured["values"], measured["seconds"]["call"], strict=True)
        )
        rows.append([axis.title, points, growth.formula(axis, measured)])
    return _table(["what", "seconds of a whole call", "fitted"], rows)


def write_page(results: Results) -> None:
    """Put the tables into the documentation's page, between its two marks."""
    text = put_between(PAGE.read_text("utf-8"), "measured", markdown(results).removesuffix("\n"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, "utf-8")


def _median(runs: Runs, part: str) -> str:
    value = median(runs.values(part))
    return runs.state if value is None else _quantity(part)(value) + _unit(part)


def _spread(values: list[float], show: Any, unit: str = "") -> str:
    if not values:
        return ""
    spread = f" ({show(min(values))} to {show(max(values))})" if len(values) > 1 else ""
    return f"{show(median(values))}{unit}{spread}"


def _quantity(part: str) -> Any:
    return (lambda b: f"{b / _MIB:.0f}") if part == "memory" else (lambda s: f"{s:.3f}" if s < 10 else f"{s:.1f}")


def _unit(part: str) -> str:
    return " MiB" if part == "memory" else " s"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return table(heads, rows) if rows else "Not measured."
