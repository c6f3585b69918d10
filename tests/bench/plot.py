"""The results as one image: seconds of each contender, and how the cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import growth
from .report import Results
from .rounds import median
from .works import INT8, LIBRARIES, OPENVINO, OURS, PYTORCH, WORKS

Group = tuple[str, list[tuple[str, float, float, float]]]

# What stands in the left and in the right half; the other works are about other things than contenders.
_SMALL = tuple(name for name in WORKS if name.endswith("-256") or "-256-" in name)
_LARGE = tuple(name for name in WORKS if name.endswith("-512") or "-512-" in name or name == "upscale")

COLOURS = {
    OURS: "#1f5fbf",
    "sd-cli": "#d1662f",
    LIBRARIES[0]: "#8a5a44",
    LIBRARIES[1]: "#c9a18d",
    PYTORCH[0]: "#5f6b76",
    PYTORCH[1]: "#aab4bd",
    OPENVINO[0]: "#5b3f8c",
    OPENVINO[1]: "#8f78b8",
    INT8: "#c3b5dc",
}


def draw_plot(results: Results, path: Path) -> None:
    """Write the plot as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    halves = [_groups(results, _SMALL), _groups(results, _LARGE)]
    height = 1.5 + 0.15 * max(sum(len(bars) + 1 for _, bars in groups) for groups in halves)
    figure = pyplot.figure(figsize=(12, height + 2.8), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[height, 2.8])
    for axis, groups in zip(upper.subplots(1, 2), halves, strict=True):
        _bars(axis, groups)
    shown = {label for groups in halves for _, bars in groups for label, *_ in bars}
    handles = [_patch(label) for label in COLOURS if label in shown]
    upper.legend(handles=handles, loc="outside upper center", ncols=len(handles) or 1, fontsize=8, frameon=False)
    axes = lower.subplots(1, len(growth.AXES))
    for axis, name in zip(axes, growth.AXES, strict=True):
        _curve(axis, name, results.growth.get(name))
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _groups(results: Results, names: tuple[str, ...]) -> list[Group]:
    """Of each part in seconds: its title, and of each contender the name, median, smallest and largest."""
    groups = []
    for name, lanes in results.in_order().items():
        for part, title in WORKS[name].parts.items() if name in names else ():
            measured = [(label, runs.values(part)) for label, runs in lanes.items() if label in COLOURS]
            bars = [(label, median(values), min(values), max(values)) for label, values in measured if values]
            if part != "memory" and len(bars) > 1:
                groups.append((f"{WORKS[name].title}:\n{title}", bars))
    return groups


def _bars(axis: Any, groups: list[Group]) -> None:
    place, ticks = 0.0, []
    for _, bars in groups:
        first = place
        for label, middle, low, high in bars:
            axis.barh(place, middle, 0.9, color=COLOURS[label], xerr=[[middle - low], [high - middle]], ecolor="#222")
            axis.annotate(
                f"{middle:.2f}", (high, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6
            )
            place += 1
        ticks.append((first + place - 1) / 2)
        place += 1
    axis.set_yticks(ticks, [title for title, _ in groups], fontsize=7)
    axis.tick_params("x", labelsize=7)
    axis.set_ylim(place, -1)
    if groups:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    axis.margins(x=0.1)
    axis.set_xlabel("seconds (logarithmic): median, and smallest to largest", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _patch(label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=COLOURS[label], label=label)


def _curve(axis: Any, name: str, measured: growth.Measured | None) -> None:
    what = growth.AXES[name]
    axis.set_title(what.title, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.set_xlabel(what.unit, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if measured is None:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, fontsize=8)
        return
    x = np.array([what.scale(value) for value in measured["values"]])
    for part, colour in zip(growth.PARTS, ("#1f5fbf", "#3a9a5c", "#d1662f"), strict=True):
        axis.plot(x, measured["seconds"][part], "o", color=colour, markersize=4, label=part)
    if what.scale is float:
        axis.set_xticks(x)
    smooth = np.linspace(x.min(), x.max(), 100)
    fitted = np.polynomial.polynomial.polyval(smooth, growth.fit(what, measured))
    axis.plot(smooth, fitted, color="#1f5fbf", linewidth=1, label="call, fitted")
    axis.set_ylim(0)
    axis.legend(fontsize=7, frameon=False)
