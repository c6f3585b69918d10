"""The results as one picture: seconds of each contender, and how the cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import growth
from .report import Results
from .rounds import median
from .works import LIBRARIES, OURS, PYTORCH, WORKS

COLOURS = {
    OURS: "#1f5fbf",
    "sd-cli": "#d1662f",
    LIBRARIES[0]: "#8a5a44",
    LIBRARIES[1]: "#c9a18d",
    PYTORCH[0]: "#5f6b76",
    PYTORCH[1]: "#aab4bd",
}


def draw_plot(results: Results, path: Path) -> None:
    """Write the plot as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = _groups(results)
    height = 2.2 + 0.42 * sum(0.6 + len(bars) * 0.42 for _, bars in groups)
    figure = pyplot.figure(figsize=(11, height + 3.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[height, 3.4])
    _bars(upper.subplots(), groups)
    axes = lower.subplots(1, len(growth.AXES))
    for axis, (name, measured) in zip(axes, _grown(results), strict=True):
        _curve(axis, name, measured)
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _groups(results: Results) -> list[tuple[str, list[tuple[str, float, float, float]]]]:
    """Of each part in seconds: its title, and of each contender the name, median, smallest and largest."""
    groups = []
    for name, lanes in results.in_order().items():
        for part, title in WORKS[name].parts.items():
            if part in ("memory", "outside", "condition"):
                continue
            measured = [(label, runs.values(part)) for label, runs in lanes.items() if label in COLOURS]
            bars = [(label, median(values), min(values), max(values)) for label, values in measured if values]
            if len(bars) > 1:
                groups.append((f"{WORKS[name].title}:\n{title}", bars))
    return groups


def _bars(axis: Any, groups: list[tuple[str, list[tuple[str, float, float, float]]]]) -> None:
    place, ticks = 0.0, []
    for _, bars in groups:
        first = place
        for label, middle, low, high in bars:
            axis.barh(place, middle, 0.9, color=COLOURS[label], xerr=[[middle - low], [high - middle]], ecolor="#222")
            axis.annotate(
                f"{middle:.2f}", (high, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7
            )
            place += 1
        ticks.append((first + place - 1) / 2)
        place += 0.9
    axis.set_yticks(ticks, [title for title, _ in groups], fontsize=8)
    axis.set_ylim(place, -1)
    axis.set_xscale("log")
    axis.margins(x=0.08)
    axis.set_xlabel("seconds (logarithmic): median, and smallest to largest")
    axis.spines[["top", "right"]].set_visible(False)
    shown = {label for _, bars in groups for label, *_ in bars}
    handles = [_patch(label) for label in COLOURS if label in shown]
    axis.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, fontsize=8, frameon=False)


def _patch(label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=COLOURS[label], label=label)


def _grown(results: Results) -> list[tuple[str, growth.Measured | None]]:
    return [(name, results.growth.get(name)) for name in growth.AXES]


def _curve(axis: Any, name: str, measured: growth.Measured | None) -> None:
    what = growth.AXES[name]
    axis.set_title(what.title, fontsize=9)
    axis.set_xlabel(what.unit, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if measured is None:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, fontsize=8)
        return
    x = np.array([what.scale(value) for value in measured["values"]])
    for part, colour in zip(growth.PARTS, ("#1f5fbf", "#3a9a5c", "#d1662f"), strict=True):
        axis.plot(x, measured["seconds"][part], "o", color=colour, markersize=4, label=part)
    smooth = np.linspace(x.min(), x.max(), 100)
    fitted = np.polynomial.polynomial.polyval(smooth, growth.fit(what, measured))
    axis.plot(smooth, fitted, color="#1f5fbf", linewidth=1, label="call, fitted")
    axis.set_ylim(0)
    axis.legend(fontsize=7, frameon=False)
