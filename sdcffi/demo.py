"""The demonstration: a small trained model in the package generates simple images, without and with LoRAs.

``weights/README.md`` says what it learned, how, and how often it is right.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._files import expanded
from .engine.engine import Engine
from .engine.results import check_image_path, save_sheet
from .images.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LORAS", "PROMPTS", "SETTINGS", "DemoReport", "demo_model", "run"]

LORAS = ("outline", "sticker", "night")

SETTINGS: dict[str, Any] = {"width": 128, "height": 128, "steps": 12, "cfg_scale": 2.0}
"""What the model was measured with; its file says so too, so that calls need not."""

PROMPTS = (
    "a red heart on a blue background",
    "a yellow diamond on a black background",
    "a large yellow circle on a green background",
    "a red circle to the left of a blue square on a yellow background",
)

_WEIGHTS = Path(__file__).resolve().parent / "weights"


def demo_model() -> dict[str, Any]:
    """Return the files of the model in the package, as keywords of `Engine`.

    Returns
    -------
    dict of str to pathlib.Path
        ``diffusion_model`` (quantised to Q8_0), ``llm`` and ``taesd``: the model's files; ``lora_dir``: the directory
        of its LoRAs, so that ``loras=["outline"]`` and ``<lora:outline:0.8>`` find them. What a call leaves open is
        as the model was measured: 128x128 pixels, 12 steps and ``cfg_scale=2``.

    Raises
    ------
    FileNotFoundError
        If a file is missing from the installation.
    """
    paths = {
        "diffusion_model": _WEIGHTS / "dit.gguf",
        "llm": _WEIGHTS / "llm.safetensors",
        "taesd": _WEIGHTS / "taef2.safetensors",
        "lora_dir": _WEIGHTS / "loras",
    }
    if missing := [path for path in paths.values() if not path.exists()]:
        raise FileNotFoundError(
            f"{missing[0]} is missing, so this installation of sdcffi is incomplete: install it again"
        )
    return paths


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """The report of the demonstration.

    Parameters
    ----------
    sheet : pathlib.Path
        The contact sheet: one row per prompt, without LoRA and with each LoRA.
    prompts : tuple of str
        The prompts.
    device : str
        The device that the engine used.
    loading : float
        Wall time until the model was loaded, in seconds.
    seconds : tuple of float
        Wall time of each image in seconds, in the order of the sheet.
    """

    sheet: Path
    prompts: tuple[str, ...]
    device: str
    loading: float
    seconds: tuple[float, ...]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        average = sum(self.seconds) / len(self.seconds)
        return [
            str(self.sheet),
            f"{len(self.seconds)} images on {self.device}, {average:.2f} s each; loading took {self.loading:.2f} s.",
            "The same from Python:",
            "",
            "    import sdcffi",
            "",
            "    with sdcffi.Engine(**sdcffi.demo_model()) as engine:",
            f"        result = engine.generate({self.prompts[0]!r}, seed=42)",
            '    result.images[0].save("image.png")  # loras=["outline"] changes its style',
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def run(
    output: str | os.PathLike[str] = "sdcffi-demo.png",
    *,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 42,
    threads: int | None = None,
    backend: str = "auto",
    on_progress: Callable[[Any], None] | None = None,
    on_log: Callable[[Any], None] | None = None,
    saving: Callable[[Callable[..., list[Path]], Path], Any] = lambda save, path: save(path),
) -> DemoReport:
    """Write a contact sheet of images by the model in the package: each prompt without LoRA and with each LoRA.

    Parameters
    ----------
    output : path
        Image file to write, or a directory in which to write ``sdcffi-demo.png``.
    prompts : sequence of str
        What to generate, at least one. The model knows only shapes, colours, positions and backgrounds.
    seed : int
        Random seed of every image, as in `Engine.generate`.
    threads, backend, on_progress, on_log
        As in `Engine`.
    saving : callable
        Called with a function that saves the sheet at a path, and with the path.

    Returns
    -------
    DemoReport

    Raises
    ------
    ValueError
        If there is no prompt, or `output` cannot be written as an image.
    SDError
        As `Engine` and `Engine.generate` raise it.
    """
    if not prompts:
        raise ValueError("prompts must have at least one prompt")
    target = expanded(output)
    if target.is_dir():
        target /= "sdcffi-demo.png"
    check_image_path(target)  # before anything is generated
    started = time.perf_counter()
    with Engine(**demo_model(), threads=threads, backend=backend, on_progress=on_progress, on_log=on_log) as engine:
        device, loading = engine.device, time.perf_counter() - started
        rows: list[list[Image.Image]] = []
        seconds: list[float] = []
        for prompt in prompts:
            rows.append([])
            for loras in ([], *([name] for name in LORAS)):
                started = time.perf_counter()
                rows[-1] += engine.generate(prompt, seed=seed, loras=loras).images
                seconds.append(time.perf_counter() - started)
    sheet = contact_sheet(rows, [""] * len(rows), ["no LoRA", *LORAS], below=prompts)
    saving(partial(save_sheet, sheet), target)
    return DemoReport(
        sheet=target, prompts=tuple(prompts), device=device.description, loading=loading, seconds=tuple(seconds)
    )
