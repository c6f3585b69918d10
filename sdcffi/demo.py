"""The demonstration: a small trained model that is part of the package draws simple things, without and with LoRAs.

What it learned, how, and how often it is right stands in ``weights/README.md``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._files import replacing
from .engine.engine import Engine
from .engine.results import check_image_path
from .images.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LORAS", "PROMPTS", "SETTINGS", "DemoReport", "demo_model", "run"]

LORAS = ("outline", "sticker", "night")

SETTINGS: dict[str, Any] = {"width": 128, "height": 128, "steps": 12, "cfg_scale": 2.0}

PROMPTS = (
    "a red heart on a blue background",
    "a yellow diamond on a black background",
    "a large yellow circle on a green background",
    "a red circle to the left of a blue square on a yellow background",
)

_WEIGHTS = Path(__file__).resolve().parent / "weights"


def demo_model() -> dict[str, Any]:
    """Give the model that is part of the package, as `Engine` takes it.

    Returns
    -------
    dict of str to pathlib.Path
        ``diffusion_model`` (quantised to Q8_0), ``llm`` and ``taesd``: the model's files; ``lora_dir``: the directory
        of its LoRAs, so that ``loras=["outline"]`` and ``<lora:outline:0.8>`` find them. It draws 128x128 pixels best;
        `SETTINGS` are the parameters it was measured with.

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
        raise FileNotFoundError(f"{missing[0]} is missing: this installation of sdcffi is not whole; install it again")
    return paths


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the demonstration did.

    Parameters
    ----------
    sheet : pathlib.Path
        The contact sheet: a row for each prompt, without LoRA and with each one.
    prompts : tuple of str
        What was drawn.
    device : str
        What the engine computed on.
    loading : float
        Wall time until the model was loaded, in seconds.
    seconds : tuple of float
        Wall time of each picture, in the order of the sheet.
    """

    sheet: Path
    prompts: tuple[str, ...]
    device: str
    loading: float
    seconds: tuple[float, ...]

    def lines(self) -> list[str]:
        """The report as lines of text."""
        average = sum(self.seconds) / len(self.seconds)
        keywords = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
        return [
            str(self.sheet),
            f"{len(self.seconds)} pictures on {self.device}, {average:.2f} s each; loading took {self.loading:.2f} s.",
            "The same from Python:",
            "",
            "    import sdcffi",
            "",
            "    with sdcffi.Engine(**sdcffi.demo_model()) as engine:",
            f"        result = engine.generate({self.prompts[0]!r}, {keywords}, seed=42)",
            '    result.images[0].save("picture.png")  # loras=["outline"] draws it in another way',
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
) -> DemoReport:
    """Draw a contact sheet with the package's own model: each prompt without LoRA and with each of its LoRAs.

    Parameters
    ----------
    output : path
        Picture file to write, or a directory that gets ``sdcffi-demo.png``.
    prompts : sequence of str
        What to draw, at least one. The model knows shapes, colours, places and backgrounds, and nothing else.
    seed : int
        As in `Engine.generate`, the same for every picture.
    threads, backend, on_progress, on_log
        As in `Engine`.

    Returns
    -------
    DemoReport

    Raises
    ------
    ValueError
        If there is no prompt, or pictures cannot be written as `output` says.
    SDError
        As `Engine` and `Engine.generate` raise it.
    """
    if not prompts:
        raise ValueError("there is no prompt to draw")
    target = Path(output)
    if target.is_dir():
        target /= "sdcffi-demo.png"
    picture_format = check_image_path(target)  # before anything is drawn
    started = time.perf_counter()
    with Engine(**demo_model(), threads=threads, backend=backend, on_progress=on_progress, on_log=on_log) as engine:
        device, loading = engine.device, time.perf_counter() - started
        rows: list[list[Image.Image]] = []
        seconds: list[float] = []
        for prompt in prompts:
            rows.append([])
            for loras in ([], *([name] for name in LORAS)):
                started = time.perf_counter()
                rows[-1] += engine.generate(prompt, seed=seed, loras=loras, **SETTINGS).images
                seconds.append(time.perf_counter() - started)
    sheet = contact_sheet(rows, [""] * len(rows), ["no LoRA", *LORAS], below=prompts)
    with replacing(target) as temporary:
        sheet.save(temporary, format=picture_format)
    return DemoReport(
        sheet=target, prompts=tuple(prompts), device=device.description, loading=loading, seconds=tuple(seconds)
    )
