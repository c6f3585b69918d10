"""Read the parts of a call from the engine's own log, whose lines are the same whoever links the engine."""

from __future__ import annotations

import re

_LINES = {
    "encode": r"encode_first_stage completed, taking ([\d.]+)s",
    "condition": r"get_learned_condition completed, taking ([\d.]+)s",
    "sampling": r" - sampling completed, taking ([\d.]+)s",
    "decode": r"decode_first_stage completed, taking ([\d.]+)s",
    "upscale": r"input_image_tensor upscaled, taking ([\d.]+)s",
    "call": r"generate_image completed in ([\d.]+)s",
}


def read_parts(log: str, steps: int = 1) -> dict[str, float]:
    """Seconds of each part of a call, to 10 ms; `step` is the sampling of one image by its number of steps."""
    found = {part: [float(number) for number in re.findall(line, log)] for part, line in _LINES.items()}
    parts = {part: sum(numbers) for part, numbers in found.items() if numbers}
    if found["sampling"]:
        parts["step"] = parts["sampling"] / len(found["sampling"]) / steps
    return parts
