"""How the cost of a call grows with the work: measured on the tiny model, fitted, one thing changed at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from .contenders import CONTENDERS, Job
from .models import loras, tiny
from .rounds import median
from .works import OURS, draw

PARTS = ("call", "sampling", "decode")
Measured = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """What is changed.

    Parameters
    ----------
    title, unit : str
        For tables and plots; `unit` is that of what the seconds are fitted over.
    values, quick : tuple of int
        What is measured in a full and in a quick run; nothing in a quick one if empty.
    call : callable
        The arguments of a call for a value.
    degree : int
        Of the polynomial that is fitted.
    scale : callable
        From a value to what the polynomial is in.
    """

    title: str
    unit: str
    values: tuple[int, ...]
    quick: tuple[int, ...]
    call: Callable[[int], dict[str, Any]]
    degree: int = 1
    scale: Callable[[int], float] = float


AXES: dict[str, Axis] = {
    "size": Axis(
        "size, one step",
        "megapixels",
        (128, 256, 384, 512, 640, 768),
        (128, 192, 256, 320),
        lambda size: draw(size, 1)(),
        2,
        lambda size: size * size / 1e6,
    ),
    "steps": Axis("steps at 256x256", "steps", (1, 2, 4, 8, 12), (1, 2, 4), lambda steps: draw(256, steps)()),
    "batch": Axis(
        "images of 128x128, 2 steps",
        "images",
        (1, 2, 3, 4, 6),
        (),
        lambda count: {**draw(128, 2)(), "batch_count": count},
    ),
    "loras": Axis(
        "LoRAs at run time, 256x256, 8 steps",
        "LoRAs",
        (0, 1, 2, 3, 4),
        (),
        lambda count: {**draw(256, 8)(), "loras": loras()[:count]},
    ),
}


def measure_growth(axis: Axis, quick: bool, rounds: int, threads: int | None) -> Measured:
    """Medians of the seconds of a call and its parts at each value; small and large ones take turns."""
    values = axis.quick if quick and axis.quick else axis.values
    job = Job({**tiny(), "lora_apply_mode": "at_runtime"}, draw(64, 1)(), threads=threads)
    with closing(CONTENDERS[OURS].open(job)) as session:
        session.call(**axis.call(values[-1]))  # warms up, reads adapters
        samples = [
            {value: session.call(**axis.call(value)) for value in (values if number % 2 else values[::-1])}
            for number in range(rounds)
        ]
    seconds = {part: [median([sample[value][part] for sample in samples]) for value in values] for part in PARTS}
    return {"values": list(values), "seconds": seconds}


def fit(axis: Axis, measured: Measured) -> list[float]:
    """The coefficients of the polynomial through the seconds of whole calls, the constant first."""
    x = [axis.scale(value) for value in measured["values"]]
    return [float(c) for c in np.polynomial.polynomial.polyfit(x, measured["seconds"]["call"], axis.degree)]


def formula(axis: Axis, measured: Measured) -> str:
    """The fit in words."""
    terms = [f"{c:.3f}" + ("", " n", " n²")[power] for power, c in enumerate(fit(axis, measured))]
    return f"{' + '.join(terms)} s, n {axis.unit}".replace("+ -", "- ")
