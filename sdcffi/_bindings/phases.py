"""Tell the phases of a call apart: turn the engine's log and its untagged progress into `Progress` events.

The engine reports loading, sampling and tiles through one callback that says only "step k of m", and reports nothing
at all for prompts and for pictures that are encoded or decoded in one piece. Its log says what begins and ends. In the
order of a call (a phase in brackets comes where it applies; hires is the second pass at a larger size):

    [load]  [lora ...]  [encode a picture ...]  encode the prompts
    for each picture:  sample
    hires, for each picture:  [decode]  upscale  [encode]  sample
    for each picture:  decode

An occurrence of a phase begins with step 0, only rises, and ends with step = steps. Its count of steps is 1 until the
engine has told another, which it does before step 1. The lines are those of stable-diffusion.cpp, vae.hpp, lora.hpp,
upscaler.cpp and ggml_extend.hpp; a line that is missed costs an event, never the order.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ..events import Progress

__all__ = ["LINES", "Phases"]

# What the engine's log tells, in the order of a call. Prompts stand in the log too, so lines count from their start.
LINES = {
    "adapter_named": r"loading LoRA from '",
    "adapter_allocated": r"lora params backend buffer size",
    "adapter_read": r"finished loaded lora",
    "tensors_read": r"loading tensors completed",
    "planned": r"sampling using .+ method",
    "image_encoded": r"computing vae encode graph completed",
    "prompts_encoded": r"get_learned_condition completed",
    "sampling": r"generating image: (\d+)/(\d+) - seed",
    "sampled": r"sampling(?:\(high noise\))? completed",
    "upscaler_named": r"loading esrgan from '",
    "second_pass": r"hires fix: \d+ steps",
    "latent_enlarged": r"hires Latent.* upscale ",
    "computing": r"(?!esrgan)\w+ compute buffer size|VAE Tile size",
    "image_decoded": r"computing vae decode graph completed",
    "second_sampled": r"hires sampling (\d+)/\d+ completed",
    "decoding": r"decoding (\d+) latents|generating latent video completed",
    "decoded": r"latent (\d+) decoded|decode_first_stage completed",
    "upscaling": r"upscaling from \(",
    "upscaled": r"input_image_tensor upscaled",
}
_LINE = re.compile(r"\S+:\d+ +- (?:" + "|".join(f"(?P<{name}>{line})" for name, line in LINES.items()) + ")")


class Phases:
    """The phases of one native call.

    Parameters
    ----------
    phase : str
        What a report belongs to before the log has told anything.
    emit : callable
        Takes each event.

    Attributes
    ----------
    image, images : int
        The picture that is worked on, from 1, and how many there are.
    begun : int
        How many phases have begun.
    """

    def __init__(self, phase: str, emit: Callable[[Progress], None]) -> None:
        self.image = self.images = 0
        self._steps = 1
        self.begun = 0
        self._phase: str | None = phase  # of the occurrence that is open, or of the next report's
        self._open = False
        self._step = 0
        self._enlarging = ""  # between two passes: "decode", "upscale" or "encode"
        self._began = 0.0
        self._emit = emit

    def hear(self, line: str) -> None:
        """Take a line of the log."""
        found = _LINE.match(line)
        if found is None or found.lastgroup is None:
            return
        numbers = [int(group) for group in found.groups() if group and group.isdecimal()]
        match found.lastgroup:
            case "adapter_named":
                self._await(None)  # its names are read first, and reported like its tensors
            case "adapter_allocated":
                self._begin("lora")
            case "adapter_read" | "upscaler_named":
                self._await("load")
            case "tensors_read" | "sampled" | "upscaled":
                self._end()
            case "planned":
                self._begin("encode")
            case "prompts_encoded":
                self._await("sample", 1, 1)
            case "sampling":
                self._await("sample", *numbers)
            case "decoding":
                self._begin("decode", 1, *(numbers or [1]))
            case "decoded":
                self._end()
                if numbers and self.image < self.images:
                    self._begin("decode", self.image + 1)
            case "upscaling":
                self._begin("upscale", 1, 1)
            case line_between_passes:
                self._hear_between(line_between_passes)

    def _hear_between(self, what: str) -> None:
        """Take a line that stands between the first and the second sampling, or elsewhere too, where it says less."""
        match what, self._enlarging:
            case "image_encoded", "":
                self._begin("encode")  # another picture, or the prompts
            case "image_encoded", _:
                self._await("sample")
                self._enlarging = ""
            case "second_pass", _:
                self._enlarge(1)
            case "second_sampled", _:
                self._end()
                if self.image < self.images:
                    self._enlarge(self.image + 1)
            case "latent_enlarged", _:
                self._begin("upscale")
                self._await("sample")
                self._enlarging = ""
            case "computing", "decode" if not self._open:
                self._begin("decode")
            case "image_decoded", "decode":
                self._enlarging = "upscale"
                self._begin("upscale")
            case "computing", "upscale":
                self._enlarging = "encode"
                self._begin("encode")

    def _enlarge(self, image: int) -> None:
        self._await(None, image)
        self._enlarging = "decode"

    def report(self, step: int, steps: int, seconds: float) -> None:
        """Take a report of the engine."""
        if self._phase is None:
            return
        if self._open and self._step and (step == 0 or steps != self._steps):
            self._end()
        if not self._open:
            self._begin(self._phase, steps=steps)
        elif steps != self._steps:
            self._steps = steps
            self._tell(0, 0.0)
        if (done := min(step, steps)) > self._step:
            self._tell(done, seconds)

    def _begin(self, phase: str, image: int | None = None, images: int | None = None, *, steps: int = 1) -> None:
        self._await(phase, image, images)
        self._open, self._steps = True, steps
        self.begun += 1
        self._began = time.monotonic()
        self._tell(0, 0.0)

    def _end(self) -> None:
        if self._open and self._step < self._steps:
            self._tell(self._steps, (time.monotonic() - self._began) / self._steps)
        self._open = False

    def _await(self, phase: str | None, image: int | None = None, images: int | None = None) -> None:
        """Leave it to a report to begin a phase; None passes over reports."""
        self._end()
        self._phase = phase
        self.image = self.image if image is None else image
        self.images = self.images if images is None else images

    def _tell(self, step: int, seconds: float) -> None:
        self._step = step
        assert self._phase is not None
        is_of_image = self._phase in ("sample", "decode", "upscale") or self._enlarging
        image, images = (self.image, self.images) if is_of_image else (0, 0)
        self._emit(Progress(self._phase, step, self._steps, seconds, image, images))
