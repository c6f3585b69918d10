"""Measure the fastest settings for a model on this machine, and store them for ``Engine(tuned=True)``.

`tune` changes one setting after another, and keeps a setting if the same image is generated faster with it. Settings
belong to loading, so each candidate is an engine of its own, in a child process, open beside the best one so far. The
two generate images by turns, so that a change in the machine's speed does not decide. The comparison uses the engine's
own clock, projected from two steps to an image of twenty.
"""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ._machine.limits import usable_cores, usable_processors
from ._models.files import Model, read_model
from ._numbers import check_integer, check_number
from ._public import public
from ._quoting import shown
from .engine.bench import SMALLEST, Bench, Measured, Settings
from .engine.engine import Engine
from .engine.tuned import TUNED, check_store, keep_choice, subject_of
from .errors import GenerationTimeoutError, SDError
from .images.compare import compare

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ._machine.devices import Device
    from ._records.origin import Origin
    from .params.context import ContextParams
    from .params.struct import StrPath

__all__ = ["Trial", "Tuning", "tune"]

_OURS = ("isolated", "restart", "timeout", "load_weights", "tuned", "on_progress", "on_preview")
_ROUNDS = 3
_FASTER = 0.97  # of the best time without the setting; a smaller gain is noise
_HOPELESS = 1.1  # times the time without the setting: no further rounds
_LEAST_PSNR = 30.0  # dB, of the image compared with that of the defaults


@public
@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting that was compared with the best settings before it.

    Attributes
    ----------
    name : str
        Keyword of `Engine`: ``"threads"``, ``"diffusion_fa"``, ...
    value : int, bool or str
        The value that was tried.
    verdict : str
        ``"faster"``: its median time is at least 3 % below the best time without it, so it is kept. ``"no faster"``.
        ``"different image"``: the PSNR is below 30 dB. ``"failed"``. ``"not measured"``: the budget was spent.
    seconds, before : float or None
        Seconds per image with it and without it, projected to 20 steps: medians of rounds by turns. None if they were
        not measured.
    psnr : float or None
        PSNR of its image compared with that of the defaults, in dB; infinite if both are the same. None if it was not
        measured.
    reason : str
        Why it failed; empty if it did not.
    """

    name: str
    value: int | bool | str
    verdict: str
    seconds: float | None = None
    before: float | None = None
    psnr: float | None = None
    reason: str = ""

    @property
    def gain(self) -> float:
        """How many times faster it is; 1 if that was not measured."""
        return self.before / self.seconds if self.before and self.seconds else 1.0

    @property
    def outcome(self) -> str:
        """The verdict with its numbers, in words."""
        if self.seconds is not None:
            return f"{self.verdict}, {self.seconds:.3g} s per image instead of {self.before:.3g} s"
        if self.verdict == "different image":
            return f"{self.verdict}, PSNR {self.psnr:.1f} dB"
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict

    def __str__(self) -> str:
        return f"{self.name}={self.value}: {self.outcome}"


@public
@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The result of `tune`.

    Attributes
    ----------
    choice : dict of str to int, bool or str
        The fastest settings, as keywords of `Engine`: those that were measured, and those that were given.
    trials : tuple of Trial
        The settings that were tried, in order.
    size : int
        Side of the images, in pixels.
    device : str
        Device on which they were generated.
    speedup : float
        How many times faster an image of 20 steps is with the choice than with the defaults, without loading.
    seconds : float
        Time that all measurements took, in seconds.
    path : Path
        File in which the choice is stored.
    """

    choice: Settings
    trials: tuple[Trial, ...]
    size: int
    device: str
    speedup: float
    seconds: float
    path: Path

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as a dictionary that `json.dumps` accepts; an infinite `psnr` is None."""
        trials = [asdict(trial) for trial in self.trials]
        for trial in trials:
            trial["psnr"] = None if trial["psnr"] == math.inf else trial["psnr"]
        return {**asdict(self), "trials": trials, "path": str(self.path)}


def tune(
    model: StrPath | None = None,
    *,
    size: int | None = None,
    budget: float = 100.0,
    on_trial: Callable[[Trial], object] | None = None,
    **engine: Any,
) -> Tuning:
    """Measure the fastest settings for a model on this machine, and store them for ``Engine(tuned=True)``.

    Parameters
    ----------
    model : path, optional
        As for `Engine`.
    size : int, optional
        Side of the images in pixels, a multiple of 64; best is the size that you generate. None: 128 to 512, as the
        budget allows.
    budget : float
        Time limit for all measurements, including loading, in seconds, above 0. Trials report what was not measured.
    on_trial : callable, optional
        Called with each `Trial` when it is decided. None: nothing is called.
    **engine
        Keywords of `Engine`: the model's other files, ``backend``, ``type``, ... Of ``precision``, ``threads``,
        ``fa``, ``diffusion_fa``, ``diffusion_conv_direct`` and ``vae_conv_direct``, those that are given are not tried;
        the choice has them as they are.

    Returns
    -------
    Tuning
        The choice, its file, and the measurements.

    Raises
    ------
    TypeError, ValueError
        For a bad argument, as `Engine` does, and if every setting is given.
    GenerationTimeoutError
        If the budget is spent before anything was compared; nothing is stored then.
    SDError
        As `Engine` and `Engine.generate` raise it, with the given settings.
    OSError
        If the choice could not be stored; nothing was measured then.

    Notes
    -----
    It tries flash attention and direct convolution on a GPU; and, if the model or a part of it runs on the CPU, fast
    precision and numbers of threads around the usable cores. It leaves settings about memory (offloading, tiling) as
    they are. The image with a setting must have a PSNR of at least 30 dB, compared with that of the defaults.
    """
    _check(size, budget, engine)
    check_store()  # before minutes of work
    started = time.monotonic()
    with Bench({**engine, "model": model}, started + budget, budget) as bench:
        first = bench.begin(size)
        origin = first.origin
        options = _options(origin.context, read_model(origin.context), origin.device)
        best, trials = _climb(bench, options, first.pixels, on_trial or _ignore)
    _check_measured(trials, budget)
    choice = _choice(best, trials, origin)
    subject = subject_of(origin.context, origin.states, origin.device, origin.build)
    return Tuning(
        choice=choice,
        trials=tuple(trials),
        size=bench.size,
        device=origin.device.description,
        speedup=math.prod(trial.gain for trial in trials if trial.verdict == "faster"),
        seconds=time.monotonic() - started,
        path=keep_choice(subject, choice, [str(trial) for trial in trials]),
    )


def _check(size: int | None, budget: float, engine: Mapping[str, Any]) -> None:
    check_integer("size", size, SMALLEST, 4096)
    if size is not None and size % SMALLEST:
        raise ValueError(f"size must be a multiple of {SMALLEST}, not {shown(size)}")
    if budget is None:
        raise TypeError("budget must be a number of seconds, not None")
    check_number("budget", budget, 0)
    if budget == 0:
        raise ValueError("budget must be above 0 seconds, not 0")
    known = inspect.signature(Engine).parameters.keys() - set(_OURS)
    if unknown := [name for name in engine if name not in known]:
        raise TypeError(
            f"tune() has no keyword {shown(unknown[0])}; it takes these of Engine: {', '.join(sorted(known))}"
        )


def _check_measured(trials: list[Trial], budget: float) -> None:
    if not trials:
        raise ValueError(f"nothing to measure: {', '.join(TUNED)} are given or have no effect here; give fewer of them")
    if all(trial.verdict == "not measured" for trial in trials):
        raise GenerationTimeoutError(
            f"the budget of {budget:g} seconds was spent before anything was compared; give a larger budget or a"
            " smaller size"
        )


def _options(context: ContextParams, model: Model, device: Device) -> list[tuple[str, int | bool | str]]:
    """Return the settings to try for a model on a device, the most promising first, without those that are given."""
    names: list[tuple[str, int | bool | str]] = []
    on_gpu = device.type != "cpu"
    if on_gpu and not context.flash_attn:  # the CPU has one attention
        names.append(("diffusion_fa", True))
    if on_gpu and model.architecture is not None and model.architecture.is_unet:
        names.append(("diffusion_conv_direct", True))
    if on_gpu and model.parts & {"vae", "taesd"}:
        names.append(("vae_conv_direct", True))
    if not on_gpu or context.keep_clip_on_cpu or context.keep_vae_on_cpu or context.keep_control_net_on_cpu:
        names.append(("precision", "fast"))
        names += [("threads", count) for count in _thread_counts(usable_cores(), usable_processors())]
    if on_gpu:
        names.append(("fa", True))
    return [(name, value) for name, value in names if getattr(context, TUNED[name]) is None]


def _thread_counts(cores: int, processors: int) -> list[int]:
    """Return the numbers of threads to try, beside that of the cores: two per core, one less than cores, fewer."""
    counts = [processors, cores - 1, cores * 3 // 4, cores // 2]
    return [count for count in dict.fromkeys(counts) if count not in (0, cores)]


class _Measures(Protocol):
    def measure(self, settings: Settings) -> Measured: ...
    def keep(self, settings: Settings) -> None: ...


def _ignore(_event: object) -> None:
    pass


def _climb(
    bench: _Measures,
    options: Iterable[tuple[str, int | bool | str]],
    reference: NDArray[np.uint8],
    on_trial: Callable[[Trial], object],
) -> tuple[Settings, list[Trial]]:
    """Change one setting after another, and keep those that are faster."""
    best, trials = Settings(), []
    for name, value in options:
        trial = _try(bench, best, name, value, reference)
        best = {**best, name: value} if trial.verdict == "faster" else best
        bench.keep(best)
        on_trial(trial)
        trials.append(trial)
    return best, trials


def _try(bench: _Measures, best: Settings, name: str, value: int | bool | str, reference: NDArray[np.uint8]) -> Trial:
    """Generate by turns with a setting and without it."""
    candidate, psnr = {**best, name: value}, None
    try:
        first = bench.measure(candidate)
        psnr = compare(reference, first.pixels).psnr
        if psnr < _LEAST_PSNR:
            return Trial(name=name, value=value, verdict="different image", psnr=psnr)
        mine, others = [first.seconds], [bench.measure(best).seconds]
        while len(mine) < _ROUNDS and mine[-1] < _HOPELESS * others[-1]:
            mine.append(bench.measure(candidate).seconds)
            others.append(bench.measure(best).seconds)
    except GenerationTimeoutError:
        return Trial(name=name, value=value, verdict="not measured", psnr=psnr)
    except SDError as error:
        return Trial(name=name, value=value, verdict="failed", psnr=psnr, reason=error.message)
    seconds, before = statistics.median(mine), statistics.median(others)
    verdict = "faster" if seconds < _FASTER * min(others) else "no faster"
    return Trial(name=name, value=value, verdict=verdict, seconds=seconds, before=before, psnr=psnr)


def _choice(best: Settings, trials: Iterable[Trial], origin: Origin) -> Settings:
    """Return the settings that were measured or given, with their final values."""
    measured = {trial.name for trial in trials if trial.verdict not in ("not measured", "failed")}
    given = origin.context.given()
    return {
        name: best.get(name, getattr(origin.resolved_context, field_name))
        for name, field_name in TUNED.items()
        if name in measured or field_name in given
    }
