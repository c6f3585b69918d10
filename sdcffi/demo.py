"""The demonstration: a tiny model with random weights, quantised, drawn without and with a LoRA.

The model's files are kept in the user's cache directory, so only the first run writes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._build.places import cache_directory
from ._demo_model import DemoModel, write_model
from .engine import Engine
from .lora import Lora

__all__ = ["DemoModel", "DemoReport", "Difference", "compare", "run", "write_model"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two pictures are apart.

    Parameters
    ----------
    mean : float
        Mean absolute difference of the samples, 0 to 255.
    psnr : float
        Peak signal-to-noise ratio in dB, ``10 log10(255**2 / mean squared error)``; infinite for equal pictures.
    changed : float
        Share of the pixels of which at least one channel differs, 0 to 1.
    """

    mean: float
    psnr: float
    changed: float


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the demonstration did.

    Parameters
    ----------
    model : DemoModel
        The converted model that was drawn with.
    type : str
        Weight type that the transformer was converted to.
    base, with_lora : pathlib.Path
        The two pictures, without and with the LoRA.
    difference : Difference
        What the LoRA changed.
    seconds : dict of str to float
        Wall time of each step, in order: model, convert, load, base, lora.
    """

    model: DemoModel
    type: str
    base: Path
    with_lora: Path
    difference: Difference
    seconds: dict[str, float]

    def lines(self) -> list[str]:
        """The report as lines of text."""
        d = self.difference
        times = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in self.seconds.items())
        return [
            f"without LoRA: {self.base}",
            f"with LoRA:    {self.with_lora}",
            f"It changed {d.changed:.1%} of the pixels, on average by {d.mean:.1f} of 255 (PSNR {d.psnr:.1f} dB).",
            f"Model: {self.model.diffusion_model} (FLUX.2-shaped, {self.type} weights).",
            "Its weights are random: the pictures are abstract patterns, not what the prompt says.",
            f"Time: {times}.",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def compare(one: Pixels, other: Pixels) -> Difference:
    """Measure how far two pictures of the same shape are apart.

    Parameters
    ----------
    one, other : numpy.ndarray
        ``uint8``, shape ``(height, width, channels)``.

    Returns
    -------
    Difference

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"pictures of different shapes: {one.shape} and {other.shape}")
    delta = one.astype(np.float64) - other.astype(np.float64)
    error = float(np.mean(delta**2))
    return Difference(
        mean=float(np.mean(np.abs(delta))),
        psnr=float(10 * np.log10(255**2 / error)) if error else float("inf"),
        changed=float(np.mean(np.any(delta != 0, axis=-1))),
    )


def run(
    directory: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] = ".",
    *,
    prompt: str = "a cat",
    type: str = "q8_0",
    width: int = 256,
    height: int = 256,
    steps: int = 4,
    seed: int = 42,
    threads: int | None = None,
    backend: str = "auto",
    on_progress: Callable[[Any], None] | None = None,
    on_log: Callable[[Any], None] | None = None,
) -> DemoReport:
    """Make the tiny model, quantise it, draw it without and with its LoRA, and save both pictures.

    Parameters
    ----------
    directory : path, optional
        Where the model is kept; None means ``demo`` in ``$SDCFFI_CACHE``, or else in the user's cache directory.
    output : path
        Directory that gets ``sdcffi-demo.png`` and ``sdcffi-demo-lora.png``; made where missing.
    prompt : str
        The prompt; with random weights it changes the pattern, nothing more.
    type : str
        Weight type to convert the transformer to.
    width, height : int
        Size of the pictures in pixels, multiples of 16.
    steps, seed
        As in `Engine.generate`.
    threads, backend, on_progress, on_log
        As in `Engine`.

    Returns
    -------
    DemoReport

    Raises
    ------
    SDError
        As `Engine` and `Engine.generate` raise it.
    """
    clock = _Stopwatch()
    model = write_model(cache_directory() / "demo" if directory is None else directory)
    clock.lap("model")
    model = model.quantised(type)
    clock.lap("convert")
    arguments = model.engine_arguments()
    with Engine(**arguments, threads=threads, backend=backend, on_progress=on_progress, on_log=on_log) as engine:
        clock.lap("load")
        draw: dict[str, Any] = {"width": width, "height": height, "steps": steps, "seed": seed, "cfg_scale": 1.0}
        base = engine.generate(prompt, **draw)
        clock.lap("base")
        with_lora = engine.generate(prompt, loras=[Lora(model.lora)], **draw)
        clock.lap("lora")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    return DemoReport(
        model=model,
        type=type,
        base=base.save(output / "sdcffi-demo.png")[0],
        with_lora=with_lora.save(output / "sdcffi-demo-lora.png")[0],
        difference=compare(base.arrays[0], with_lora.arrays[0]),
        seconds=clock.seconds,
    )


class _Stopwatch:
    """Wall time between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
