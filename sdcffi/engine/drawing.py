"""What calls that draw have in common, pictures and videos alike: adapters, listeners, previews, and how they run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from .._bindings.callbacks import PreviewOptions
from .._checks.sampling import check_preview
from .._models.loras import as_loras, merge_tags
from .._numbers import check_integer
from .._process.calls import Call
from .._process.handle import Handle
from .._records.origin import Origin
from ..events import Listeners, LogFunction, PreviewFunction, ProgressFunction
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.lora import Lora, LoraLike
from ..params.video import VideoParams
from .lora_policy import choose_usable, judge_applied, warn_of_coarse_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .._bindings.requests import Edges, Resolved
    from .._models.files import Model
    from .._records.digests import FileState
    from ..params.lora import LoraReport

__all__ = ["Drawing"]

_Params = TypeVar("_Params", ImageParams, VideoParams)


@dataclass(frozen=True)
class Drawn(Generic[_Params]):
    """What the session drew: the parameters with the adapters used, the pictures, and what became of the call."""

    params: _Params
    arrays: list[NDArray[np.uint8]]
    loras: tuple[LoraReport, ...]
    seconds: float
    origin: Origin


class Drawing(Handle):
    """The part of `Engine` that every call which draws goes through; `Engine` sets the attributes."""

    _model: Model
    _lora_dir: Path | None
    _standing: tuple[Lora, ...]
    _told_of_coarse_weights: bool
    _states: dict[Path, FileState | None]

    @property
    def commit(self) -> str:
        """The commit of stable-diffusion.cpp that the engine was built from."""
        return self._opened.commit

    def _adapters(
        self, prompt: str, loras: Iterable[LoraLike] | None, params: ImageParams | VideoParams | None, lora_tags: bool
    ) -> tuple[str, tuple[Lora, ...]]:
        """Give the prompt without its tags, and the adapters of a call."""
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a string, not {prompt!r}")
        wanted = loras if loras is not None else (params and params.loras) or self._standing
        if lora_tags:
            return merge_tags(prompt, wanted, self._lora_dir)
        return prompt, as_loras(wanted, self._lora_dir)

    def _hearing(
        self,
        preview: str | None,
        preview_interval: int,
        noisy: bool,
        on_log: LogFunction | None,
        on_progress: ProgressFunction | None,
        on_preview: PreviewFunction | None,
    ) -> tuple[Listeners, PreviewOptions | None]:
        """Give the functions that hear of a call, and which previews are made for them."""
        listeners = Listeners(
            on_log or self._listeners.on_log,
            on_progress or self._listeners.on_progress,
            on_preview or self._listeners.on_preview,
        )
        if preview_interval is None:
            raise TypeError("preview_interval must be an integer, not None")
        check_integer("preview_interval", preview_interval, 1, math.inf)
        check_preview(preview, self._model)
        if not isinstance(noisy, bool):
            raise TypeError(f"preview_noisy must be True or False, not {noisy!r}")
        if listeners.on_preview:
            return listeners, PreviewOptions("proj" if preview is None else preview, preview_interval, noisy)
        if preview is not None:
            raise ValueError(f"preview={preview!r} needs on_preview=, which is given the previews")
        return listeners, None

    def _draw(
        self,
        operation: str,
        given: _Params,
        loras: tuple[Lora, ...],
        strict: bool,
        listeners: Listeners,
        previews: PreviewOptions | None,
        timeout: float | None,
        edges: Edges | None = None,
    ) -> Drawn[_Params]:
        """Have the session draw."""
        started = time.perf_counter()
        with self._calls.call(listeners, timeout) as call:
            given = replace(given, loras=self._usable_loras(call, loras, strict) or None)
            if edges:
                hint = self._calls.run(call, "canny", given.control_image, edges)  # type: ignore[attr-defined]
                given = replace(given, control_image=hint)  # type: ignore[call-arg]
            states = Origin.look(given)
            arrays, reports, resolved = self._calls.run(call, operation, given, previews, parameters=given)
        seconds = time.perf_counter() - started
        judge_applied(reports, strict)
        return Drawn(given, arrays, tuple(reports), seconds, self._origin(resolved, states))

    def _origin(self, resolved: Resolved, states: dict[Path, FileState | None]) -> Origin:
        context = self._calls.opening.params
        assert isinstance(context, ContextParams)
        return Origin(
            context=context,
            resolved_context=resolved.context,
            resolved_params=resolved.params,
            device=self._opened.device,
            commit=self._opened.commit,
            build=self._opened.build,
            states=self._states | states,
        )

    def _usable_loras(self, call: Call, loras: tuple[Lora, ...], strict: bool) -> tuple[Lora, ...]:
        if not loras:
            return ()
        usable, coarse = choose_usable(loras, self._lora_reports(call, loras), self.device.backend, strict)
        if coarse and not self._told_of_coarse_weights:
            self._told_of_coarse_weights = True
            warn_of_coarse_weights()
        return usable

    def _lora_reports(self, call: Call, loras: tuple[Lora, ...]) -> list[LoraReport]:
        reports: list[LoraReport] = self._calls.run(call, "check_loras", loras, parameters=loras)
        return reports
