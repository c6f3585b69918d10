"""What image and video generation have in common: adapters, listeners, previews, and the call itself."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._bindings.callbacks import PreviewOptions
from .._bindings.requests import Edges, Resolved
from .._catalogue.loras import with_lora_files
from .._checks.prompt import MOST_WITH_TAGS, check_text
from .._checks.sampling import check_preview
from .._defaults.recommended import Default
from .._models.files import Model
from .._models.loras import as_loras, merge_tags
from .._numbers import as_text, check_flags, check_integer
from .._process.calls import Call, Calls
from .._quoting import shown
from .._records.digests import FileState
from .._records.origin import Origin
from .._warnings import warn
from ..events import Listeners, LogFunction, PreviewFunction, ProgressFunction
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.lora import Lora, LoraLike, LoraReport
from ..params.lora_tags import refuse_tags
from ..params.other_names import meant
from ..params.video import VideoParams
from .lora_plans import Planner
from .lora_policy import choose_usable, judge_applied, warn_of_coarse_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CallOptions", "Generated", "Generation"]

_Params = TypeVar("_Params", ImageParams, VideoParams)


@dataclass(frozen=True)
class CallOptions:
    """Who receives the events of a call, and its limits.

    Attributes
    ----------
    listeners : Listeners
        Functions that receive its events.
    previews : PreviewOptions or None
        How previews are made. None: no previews.
    timeout : float or None
        Time limit, in seconds. None: no limit.
    """

    listeners: Listeners
    previews: PreviewOptions | None
    timeout: float | None


@dataclass(frozen=True)
class Generated(Generic[_Params]):
    """What the session generated.

    Attributes
    ----------
    params : ImageParams or VideoParams
        The call's parameters, with the adapters and the control image that were used.
    arrays : list of uint8 arrays (H, W, 3)
        Images or frames: views of native memory, which lives as long as a view of it.
    loras : tuple of LoraReport
        How each adapter was applied.
    seconds : float
        Wall time of the call.
    origin : Origin
        Model, engine and device, for the record.
    cached_steps : tuple of tuple of int
        See `Result`.
    """

    params: _Params
    arrays: list[NDArray[np.uint8]]
    loras: tuple[LoraReport, ...]
    seconds: float
    origin: Origin
    cached_steps: tuple[tuple[int, ...], ...]


class Generation:
    """Runs calls that generate with a loaded model.

    Parameters
    ----------
    calls : Calls
        Calls of the session that has the model.
    model : Model
        The model's files.
    listeners : Listeners
        The engine's own.
    lora_dir : Path or None
        Directory in which adapters are looked up by name. None: adapters are given by path only.
    states : mapping of Path to FileState or None
        State of each model file when it was loaded, for the record. None: it could not be read.
    """

    def __init__(
        self,
        calls: Calls,
        model: Model,
        listeners: Listeners,
        lora_dir: Path | None,
        states: Mapping[Path, FileState | None],
    ) -> None:
        self._calls, self._model, self._listeners = calls, model, listeners
        self._lora_dir, self._states = lora_dir, dict(states)
        self._default_loras: tuple[Lora, ...] = ()
        self._default_values: dict[str, Default] = {}
        self._planner = Planner(calls)
        self._warned_of_coarse_weights = False

    def set_loras(self, loras: Iterable[LoraLike]) -> None:
        """Set the adapters for calls without `loras`."""
        files, values = self._with_files(loras)
        self._default_loras, self._default_values = as_loras(files, self._lora_dir), values

    def check_loras(self, loras: Iterable[LoraLike], timeout: float | None) -> list[LoraReport]:
        """Report what adapters would do to the model's weights, without changing anything."""
        checked = as_loras(self._with_files(loras)[0], self._lora_dir)
        with self._calls.call(self._listeners, timeout) as call:
            return self._reports(call, checked)

    def adapters(
        self,
        prompt: str,
        loras: Iterable[LoraLike] | None,
        params: ImageParams | VideoParams | None,
        lora_tags: bool,
        negative_prompt: str | None = None,
    ) -> tuple[str, tuple[Lora, ...], dict[str, Default]]:
        """Return the prompt without LoRA tags, the adapters of a call, and what the catalogue recommends with these.

        Raises
        ------
        TypeError, ValueError, LoraError
            If the prompt is not a string, or too long to be read, if there is a tag in the negative prompt, or if an
            adapter cannot be used.
        """
        if not isinstance(prompt, str):
            several = isinstance(prompt, (list, tuple))
            why = "; call generate() for each prompt, and use batch_count= for several images of one" * several
            raise TypeError(f"prompt must be a string, not {shown(prompt)}{why}")
        prompt = as_text("prompt", prompt)
        check_text("prompt", prompt, MOST_WITH_TAGS)
        if lora_tags:
            refuse_tags(
                "negative_prompt", (params and params.negative_prompt) if negative_prompt is None else negative_prompt
            )
        given = loras if loras is not None else (params and params.loras) or None
        wanted, values = (self._default_loras, self._default_values) if given is None else self._with_files(given)
        if lora_tags:
            return (*merge_tags(prompt, wanted, self._lora_dir), values)
        return prompt, as_loras(wanted, self._lora_dir), values

    def _with_files(self, loras: Iterable[LoraLike]) -> tuple[Iterable[LoraLike], dict[str, Default]]:
        return with_lora_files(loras, self._lora_dir is not None)

    def call_options(
        self,
        preview: str | None,
        preview_interval: int,
        preview_noisy: bool,
        timeout: float | None,
        on_log: LogFunction | None,
        on_progress: ProgressFunction | None,
        on_preview: PreviewFunction | None,
    ) -> CallOptions:
        """Check the preview options, and return who receives the events of a call: its own functions or the engine's.

        Raises
        ------
        TypeError, ValueError
            If an option is wrong, or previews are requested and no function receives them.
        """
        listeners = self._listeners.overridden(on_log, on_progress, on_preview)
        if preview_interval is None:
            raise TypeError("preview_interval must be an integer, not None")
        check_integer("preview_interval", preview_interval, 1, math.inf)
        if preview is not None:
            assert self._calls.opened is not None  # the engine was opened
            preview = meant(as_text("preview", preview).lower(), self._calls.opened.names["preview_t"])
        check_preview(preview, self._model)
        check_flags(preview_noisy=preview_noisy)
        if preview is not None and not listeners.on_preview:
            raise ValueError(f"preview={shown(preview)} needs on_preview; pass a function that receives the previews")
        mode = "proj" if preview is None else preview
        previews = PreviewOptions(mode, preview_interval, preview_noisy) if listeners.on_preview else None
        return CallOptions(listeners, previews, timeout)

    def run(
        self,
        operation: str,
        params: _Params,
        strict: bool,
        options: CallOptions,
        edges: Edges | None = None,
        *,
        sources: Mapping[str, str],
    ) -> Generated[_Params]:
        """Generate on the session, with the adapters that fit the model.

        Parameters
        ----------
        operation : str
            Method of `Session` to run.
        params : ImageParams or VideoParams
            Parameters of the call, checked.
        strict : bool
            True raises an error for an adapter that does not fit. False leaves it out, with a warning.
        options : CallOptions
            Who receives its events.
        edges : Edges, optional
            Settings with which `control_image` is replaced by its edges. None: it stays as it is.
        sources : mapping of str to str
            Where the values come from that the call left open, by name, for the record.

        Returns
        -------
        Generated
            Its arrays are views of native memory, which lives as long as a view of it.

        Raises
        ------
        LoraError, GenerationError, NativeError, NativeCrashError, CancelledError, GenerationTimeoutError
            As in `Engine.generate`.
        """
        started = time.perf_counter()
        with self._calls.call(options.listeners, options.timeout) as call:
            changes: dict[str, Any] = {"loras": self._usable(call, params.loras or (), strict) or None}
            if edges and isinstance(params, ImageParams):
                changes["control_image"] = self._calls.run(call, "canny", params.control_image, edges)
            params = replace(params, **changes)
            states = Origin.look(params)
            arrays, reports, resolved = self._calls.run(call, operation, params, options.previews, parameters=params)
        seconds = time.perf_counter() - started
        judge_applied(reports, strict)
        for note in resolved.notes:
            warn(note)
        origin = self._origin(resolved, states, sources)
        return Generated(params, arrays, tuple(reports), seconds, origin, resolved.cached_steps)

    def _origin(self, resolved: Resolved, states: dict[Path, FileState | None], sources: Mapping[str, str]) -> Origin:
        context, opened = self._calls.opening.params, self._calls.opened
        assert isinstance(context, ContextParams)
        assert opened is not None
        return Origin(
            context=context,
            resolved_context=resolved.context,
            resolved_params=resolved.params,
            device=opened.device,
            commit=opened.commit,
            build=opened.build,
            states=self._states | states,
            defaults=dict(sources),
        )

    def _usable(self, call: Call, loras: Sequence[Lora], strict: bool) -> tuple[Lora, ...]:
        if not loras:
            return ()
        reports = self._reports(call, loras)
        usable, coarse = choose_usable(loras, reports, strict)
        if coarse and not self._warned_of_coarse_weights:
            self._warned_of_coarse_weights = True
            warn_of_coarse_weights()
        return usable

    def _reports(self, call: Call, loras: Sequence[Lora]) -> list[LoraReport]:
        plans = self._planner.plans(call, loras)
        reports: list[LoraReport] = self._calls.run(call, "check_loras", plans, parameters=loras)
        return reports
