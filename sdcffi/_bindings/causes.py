"""The last lines of the native log, and the cause of a failure among them.

The engine reports a failure from the inside out: first what is wrong, perhaps for a thousand tensors one by one, then
each function that could not go on. So the first error is the cause, and must not be pushed out by those that follow.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

__all__ = ["KEPT_LINES", "KeptLines", "cause", "unused_tensor"]

KEPT_LINES = 50
_KEPT_ERRORS = 20
_ERROR = "error: "
_MORE = re.compile(r"error: \.\.\. and \d+ more errors, (\d+) like the first")
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\d+(\.\d+)?""")  # names, shapes and numbers within an error
_UNKNOWN = re.compile(r"unknown tensor '(\S+) \|.*' in model file")
# Tensors of real checkpoints that no part of a model needs: counters, buffers that are computed, what training needs,
# the projection of a CLIP whose pooled text is not used, what else a language model has than its text layers, and the
# LoRA in a PhotoMaker file, which is read apart from the model.
_NEEDLESS = re.compile(
    r"position_ids|logit_scale|num_batches_tracked|(^|\.)(v_pred|ztsnr|loss|lpips|discriminator)(\.|$)|edm_vpred\.|model_ema"
    r"|rotary_emb\.inv_freq|text_projection(\.weight)?$|visual\.|vision_tower\.|vision_model\.|multi_modal_projector\."
    r"|audio_tower\.|lm_head\.|^pmid\.lora_"
)
_PLACE = re.compile(r"[\w.-]+\.\w+:\d+ +- ")


class KeptLines:
    """Keeps the last lines of a log, and of its errors the first ones."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._first: str | None = None
        self._errors = 0
        self._uncounted = 0  # errors like the first that are not kept

    def add(self, level: str, text: str) -> None:
        """Receive a line."""
        line = f"{level}: {text}"
        if line.startswith(_ERROR):
            self._errors += 1
            self._first = self._first or line
            if self._errors > _KEPT_ERRORS:
                self._uncounted += _kind(line) == _kind(self._first)
                return
        self._lines.append(line)

    def lines(self) -> tuple[str, ...]:
        """Return the lines, oldest first."""
        first = [self._first] if self._first and self._first not in self._lines else []
        more = self._errors - _KEPT_ERRORS
        last = [f"error: ... and {more} more errors, {self._uncounted} like the first"] if more > 0 else []
        return (*first, *self._lines, *last)


def unused_tensor(line: str) -> str | None:
    """Return the tensor that a line of the log says to be of no part of the model, unless no model needs it."""
    match = _UNKNOWN.search(line)
    return match[1] if match and not _NEEDLESS.search(match[1]) else None


def cause(lines: Sequence[str]) -> str:
    """Return the first error of a log, without its place in the source, and how many there are of its kind.

    Errors of other kinds follow from it: they are what the functions that could not go on say. Empty if there is none.
    """
    errors = [line for line in lines if line.startswith(_ERROR)]
    if not errors:
        return ""
    more = _MORE.fullmatch(errors[-1])
    count = sum(_kind(line) == _kind(errors[0]) for line in errors) + (int(more[1]) if more else 0)
    return f"{_text(errors[0])} (the first of {count} errors)" if count > 1 else _text(errors[0])


def _text(line: str) -> str:
    return _PLACE.sub("", line.removeprefix(_ERROR), count=1).strip()


def _kind(line: str) -> str:
    return _VARIES.sub("#", _text(line))
