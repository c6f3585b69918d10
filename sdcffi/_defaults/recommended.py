"""The values for what a call leaves open, from all sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from .._models.files import Model
from .._public import public
from .._warnings import warn
from ..params.image import ImageParams
from ..params.names import build, flatten, parameters
from ..params.other_names import ENUMS, meant
from ..params.video import VideoParams
from .families import Family, Value, family_of
from .metadata import LIMITS, stated

__all__ = ["NAMES", "Default", "Recommended", "recommend"]

NAMES = tuple(LIMITS)
"""Parameters that `Engine.defaults` shows, if the call has them."""

_ENGINE = "the engine"
_IMAGES = frozenset({"init_image", "end_image", "control_image", "control_frames", "ref_images"})  # they have a size
_BY_SIGMAS = frozenset({"steps", "scheduler"})  # which custom_sigmas replaces
_TELLING = frozenset({"steps", "cfg_scale"})  # a file that states one of these is not in doubt
_ANY = (0.1, 4.0)  # areas of a model without a family
_TRIAL = 256 * 256  # pixels; who asks for so few wants to see that it works
_MOST_CFG = 4.0  # of models that need none; with negative prompts some use up to this

_CALLS: tuple[type[ImageParams], type[VideoParams]] = (ImageParams, VideoParams)
_Params = TypeVar("_Params", ImageParams, VideoParams)


@public
class Default(NamedTuple):
    """A value that a call uses where it says nothing.

    Attributes
    ----------
    value : int, float, str or None
        None: the engine chooses it for each call.
    source : str
        Where it comes from.
    """

    value: Value | None
    source: str


class Recommended:
    """Values for what a call leaves open, for one model.

    Attributes
    ----------
    values : mapping of str to Default
        By the names of parameter files.
    family : Family or None
        What the model's family was made for.
    others : tuple of Family
        Kinds of the family that the model may be too.
    """

    def __init__(
        self, values: Mapping[str, Default], family: Family | None = None, others: tuple[Family, ...] = ()
    ) -> None:
        self.values, self.family, self.others = dict(values), family, others
        self._warned: set[str] = set()

    def _changed(self, values: Mapping[str, Default], others: tuple[Family, ...]) -> Recommended:
        """Return other values for the same model, of which is warned as of these: once."""
        changed = Recommended(values, self.family, others)
        changed._warned = self._warned
        return changed

    def known_to(self, names: Mapping[str, Collection[str]], tell: Callable[[str], object]) -> Recommended:
        """Return these values in an engine's words, without those that only other revisions of the engine have.

        Parameters
        ----------
        names : mapping of str to collection of str
            Legal names of each C enumeration.
        tell : callable
            Called with a note on each value that is left out.
        """
        enums = {item.name: ENUMS.get(item.path[-1], "") for kind in _CALLS for item in parameters(kind)}
        values = {}
        for name, default in self.values.items():
            legal = tuple(names.get(enums[name], ())) if name in enums else ()
            value = meant(default.value, legal) if legal else default.value
            if not legal or value in legal:
                values[name] = Default(value, default.source)
            else:
                tell(f"{default.source}: this engine does not have the {name} {value}, which others have: not used")
        return self._changed(values, self.others)

    def updated(self, values: Mapping[str, Default]) -> Recommended:
        """Return these values with others that win over them, such as the catalogue's."""
        return self._changed(self.values | dict(values), ()) if values else self

    def params(self, kind: type[_Params]) -> _Params:
        """Return the values as parameters of a call."""
        paths = {item.name: item.path for item in parameters(kind)}
        values = {paths[name]: default.value for name, default in self.values.items() if name in paths}
        return build(kind, values)  # type: ignore[no-any-return]

    def fill(self, params: _Params) -> tuple[_Params, dict[str, str]]:
        """Return a call with values for what it leaves open, and where each of those comes from.

        The size is left open if there is an image, which decides it; so are steps and scheduler with noise levels.
        """
        given = flatten(params)
        skipped = {"width", "height"} if _has_image(params) else set()
        if params.sample_params is not None and params.sample_params.custom_sigmas is not None:
            skipped |= _BY_SIGMAS
        paths = {item.name: item.path for item in parameters(type(params))}
        filled = {
            name: default
            for name, default in self.values.items()
            if name in paths and paths[name] not in given and name not in skipped
        }
        values = build(type(params), {paths[name]: default.value for name, default in filled.items()})
        return values.updated(params), {name: default.source for name, default in filled.items()}

    def listed(self, own: ImageParams | VideoParams, sampler: str, scheduler: str) -> dict[str, Default]:
        """Return the value of each parameter in `NAMES`, and of others that are recommended.

        Parameters
        ----------
        own : ImageParams or VideoParams
            The engine's own values.
        sampler, scheduler : str
            The engine's choice for the model.
        """
        found = {}
        values = flatten(own)
        for item in parameters(type(own)):
            if item.name in self.values:
                found[item.name] = self.values[item.name]
            elif item.name in NAMES and item.path[0] != "high_noise_sample_params":
                value = {"sampler": sampler, "scheduler": scheduler}.get(item.name, values.get(item.path))
                if item.name == "scheduler" and "sampler" in self.values:
                    value = None  # it depends on the sampler
                found[item.name] = Default(_chosen(value), _ENGINE)
        return found

    @property
    def note(self) -> str | None:
        """What to do if the model is of another kind than its file tells; None if there is no other."""
        if not self.others:
            return None
        kinds = "; ".join(
            f"{other.title}: {', '.join(f'{name}={value}' for name, value in other.values.items())}"
            for other in self.others
        )
        return f"its tensors are also those of other models; if it is one of these, pass its values: {kinds}"

    def warn_of_unsuitable(self, asked: ImageParams | VideoParams, size: tuple[int, int]) -> None:
        """Warn, once for each kind, of values that were asked for and that the model is not made for.

        Parameters
        ----------
        asked : ImageParams or VideoParams
            The call, before it was filled.
        size : tuple of int
            Width and height of what it generates, in pixels.
        """
        for kind, message in {"cfg": self._of_guidance(asked), "size": self._of_size(asked, size)}.items():
            if message is not None and kind not in self._warned:
                self._warned.add(kind)
                warn(message)

    def _of_guidance(self, asked: ImageParams | VideoParams) -> str | None:
        guidance = asked.sample_params and asked.sample_params.guidance
        scale = guidance.txt_cfg if guidance else None
        usual = self.values.get("cfg_scale")
        if scale is None or scale <= _MOST_CFG or usual is None or usual.value != 1 or self.others:
            return None
        guidance_too = f" and guidance={self.values['guidance'].value}" if "guidance" in self.values else ""
        return (
            f"cfg_scale={scale:g} is for models that are not distilled, as this one is ({usual.source}): images burn,"
            f" and take twice as long; use cfg_scale=1{guidance_too}"
        )

    def _of_size(self, asked: ImageParams | VideoParams, size: tuple[int, int]) -> str | None:
        width, height = (self.values.get(name) for name in ("width", "height"))
        if width is None or height is None or (asked.width is None and asked.height is None) or _has_image(asked):
            return None
        area, own = math.prod(size), int(width.value or 0) * int(height.value or 0)
        least, most = self.family.areas if self.family else _ANY
        if area <= _TRIAL or least * own <= area <= most * own:
            return None
        remedy = "generate a smaller image, and enlarge it with hires=" if area > own else "pass another size"
        return (
            f"{size[0]}x{size[1]} pixels are far from the {width.value}x{height.value} that this model is made for"
            f" ({width.source}), so that images are worse than they could be: {remedy}, or leave the size out"
        )


def _has_image(params: ImageParams | VideoParams) -> bool:
    return any(getattr(params, name, None) is not None for name in _IMAGES)


def _chosen(value: Any) -> Value | None:
    """Return a value of the engine; None if it stands for one that the engine chooses."""
    if isinstance(value, (int, float)) and not (value >= 0 and math.isfinite(value)):
        return None
    return value  # type: ignore[no-any-return]


def recommend(
    model: Model, prediction: str | None = None, catalogue: Mapping[str, Default] | None = None
) -> Recommended:
    """Gather the values for a model.

    Parameters
    ----------
    model : Model
        The result of `check_context`.
    prediction : str, optional
        What it predicts, as the caller says.
    catalogue : mapping of str to Default, optional
        What the catalogue of models has of it, by the names of parameter files.

    Returns
    -------
    Recommended
    """
    file = stated(model)
    family, others = family_of(model, file.words | ({"v"} if prediction == "v" else set()))
    values: dict[str, Default] = {}
    if family is not None:
        source = f"{family.title} ({family.source})"
        values |= {name: Default(value, source) for name, value in family.values.items()}
    values |= {name: Default(value, f"metadata of {file.place}") for name, value in file.values.items()}
    is_told = not _TELLING.isdisjoint(file.values)
    return Recommended(values, family, () if is_told else others).updated(catalogue or {})
