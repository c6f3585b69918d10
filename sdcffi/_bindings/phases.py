"""Detect the phases of a call: turn the engine's log and its untagged progress into `Progress` events.

The engine reports loading, sampling and tiles through one callback that only says "step k of m". It reports nothing
for prompts, and nothing for images that are encoded or decoded in one piece. Its log says what begins and ends. The
order of a call is (phases in brackets are optional; hires is the second pass at a larger size):

    [load]  [lora ...]  [encode an image ...]  encode the prompts
    for each image:  sample
    hires, for each image:  [decode]  upscale  [encode]  sample
    for each image:  decode

A run of a phase begins with step 0, only rises, and ends with step = steps. It has 1 step unless the engine reports
another number, which it does before step 1. Newer engines read an upscaling network's weights when it first computes:
that is within the phase "upscale", and not reported. The lines are those of stable-diffusion.cpp, model.cpp, vae.hpp,
upscaler.cpp and ggml_extend.hpp, and for adapters those of csrc/engine/lora_plan.hpp; `LINES` has the words of every
verified revision. If a line is missed, an event is lost, but the order is kept.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ..events import Progress

__all__ = ["LINES", "Phases"]

# Lines of the engine's log, in the order of a call. Prompts are logged too, so a line must match from its start.
LINES = {
    "adapter_named": r"loading LoRA from '",
    "adapter_read": r"finished loaded lora",
    "tensors_named": r"loading (?:\d+/\d+ )?tensors from ",
    "tensors_read": r"loading tensors completed",
    "planned": r"sampling using .+ method",
    "image_encoded": r"computing vae encode graph completed",
    "prompts_encoded": r"get_learned_condition completed",
    "sampling": r"generating image: (\d+)/(\d+) - seed",
    "sampled": r"sampling(?:\(high noise\))? completed",
    "upscaler_named": r"loading esrgan from '|hires fix: loading model upscaler from '",
    "second_pass": r"hires fix: (?:\d+ steps|scheduler_steps=)",
    "latent_enlarged": r"hires Latent.* upscale ",
    "computing": r"(?!esrgan)\w+ compute buffer size|VAE Tile size",
    "image_decoded": r"computing vae decode graph completed",
    "second_sampled": r"hires sampling (\d+)/\d+ completed",
    "decoding": r"decoding (\d+)(?:/\d+)? latents|generating latent video completed",
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
        Phase of the reports before the first matching line of the log.
    emit : callable
        Called with each event.

    Attributes
    ----------
    image, images : int
        Number of the current image, from 1, and number of images; 0 before sampling.
    begun : int
        Number of runs of phases that have begun.
    """

    def __init__(self, phase: str, emit: Callable[[Progress], None]) -> None:
        self.image = self.images = 0
        self._steps = 1
        self.begun = 0
        self._phase: str | None = phase  # of the open run, or of the next report
        self._open = False
        self._step = 0
        self._reading = False  # weights within the run of another phase, which goes on afterwards
        self._enlarging = ""  # between two passes: "decode", "upscale" or "encode"
        self._began = 0.0
        self._emit = emit

    def read_line(self, line: str) -> None:
        """Process a line of the log."""
        found = _LINE.match(line)
        if found is None or found.lastgroup is None:
            return
        numbers = [int(group) for group in found.groups() if group and group.isdecimal()]
        match found.lastgroup:
            case "adapter_named":
                self._await("lora")
            case "adapter_read" | "upscaler_named":
                self._await("load")
            case "tensors_named" if self._open and self._phase not in ("load", "lora"):
                self._reading = True
            case "tensors_read" if self._reading:
                self._reading = False
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
                self._read_between_passes(line_between_passes)

    def _read_between_passes(self, what: str) -> None:
        """Process a line that is ambiguous: its meaning depends on the place between two hires passes."""
        match what, self._enlarging:
            case "image_encoded", "":
                self._begin("encode")  # another image, or the prompts
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
        """Process a progress report of the engine; `seconds` is the time per step."""
        if self._phase is None or self._reading:
            return
        if self._open and self._step and (step == 0 or steps != self._steps):
            self._end()
        if not self._open:
            self._begin(self._phase, steps=steps)
        elif steps != self._steps:
            self._steps = steps
            self._emit_step(0, 0.0)
        if (done := min(step, steps)) > self._step:
            self._emit_step(done, seconds)

    def _begin(self, phase: str, image: int | None = None, images: int | None = None, *, steps: int = 1) -> None:
        self._await(phase, image, images)
        self._open, self._steps = True, steps
        self.begun += 1
        self._began = time.monotonic()
        self._emit_step(0, 0.0)

    def _end(self) -> None:
        if self._open and self._step < self._steps:
            self._emit_step(self._steps, (time.monotonic() - self._began) / self._steps)
        self._open = False

    def _await(self, phase: str | None, image: int | None = None, images: int | None = None) -> None:
        """End the open run. The next report begins a run of `phase`; None ignores reports."""
        self._end()
        self._phase = phase
        self.image = self.image if image is None else image
        self.images = self.images if images is None else images

    def _emit_step(self, step: int, seconds: float) -> None:
        self._step = step
        assert self._phase is not None
        is_of_image = self._phase in ("sample", "decode", "upscale") or self._enlarging
        image, images = (self.image, self.images) if is_of_image else (0, 0)
        self._emit(Progress(self._phase, step, self._steps, seconds, image, images))
