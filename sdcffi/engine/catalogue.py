"""Names of the catalogue as models: the variant that fits the device which would compute."""

from __future__ import annotations

from functools import partial

from .._bindings.requests import Description, Opening
from .._catalogue.expansion import Chosen, with_files, with_variants
from .._catalogue.variants import Room, room_of
from .._machine.backends import backend_choice
from .._machine.builds import locate
from .._process.calls import run_alone
from ..errors import ModelLoadError
from ..events import Listeners
from ..params.context import ContextParams
from ..params.struct import StrPath

__all__ = ["refuse_open_variants", "resolve_names", "resolve_variants"]


def resolve_names(
    params: ContextParams, library: StrPath | None, backend: str, listeners: Listeners
) -> tuple[ContextParams, Chosen | None]:
    """Put the files of models, or references to them, in the places of their names.

    Parameters
    ----------
    params : ContextParams
    library : path, optional
        The native build.
    backend : str
        As for `Engine`: whose memory the model has to fit.
    listeners : Listeners
        Get a note if a variant was chosen.

    Returns
    -------
    params : ContextParams
    chosen : Chosen or None
        The entry that was named, and the variant. None: it was no name.

    Raises
    ------
    ValueError, SDError
        As in `with_files`, or because the device cannot be used, or the engine cannot run the model.
    """
    params, chosen = with_files(params, partial(_room, params, library, backend), listeners.note)
    if chosen is not None:
        _check_engine(chosen, library)
    return params, chosen


def resolve_variants(params: ContextParams, library: StrPath | None, backend: str) -> ContextParams:
    """Choose the variants of models that are given by name, for what is opened later, perhaps with less memory.

    Parameters are those of `resolve_names`, and the names stay names: ``catalogue:NAME/VARIANT``.
    """
    return with_variants(params, partial(_room, params, library, backend), Listeners().note)[0]


def refuse_open_variants(params: ContextParams) -> None:
    """Refuse a name that leaves the variant open, for engines on several machines: their memory would choose.

    Raises
    ------
    ValueError
        If the model of a name has several variants, or there is none.
    """

    def refuse() -> Room:
        raise ValueError(
            f"{params.model_path} leaves the variant to the memory of each machine, so that images would differ: name"
            " one, as 'catalogue:NAME/VARIANT'"
        )

    with_variants(params, refuse, str)


def _room(params: ContextParams, library: StrPath | None, backend: str) -> Room:
    choice = backend_choice(backend)
    if choice.name == "cpu":
        return room_of(None, params)
    description: Description = run_alone(Opening(library, choice), "describe")
    return room_of(description.device, params)


def _check_engine(chosen: Chosen, library: StrPath | None) -> None:
    """Refuse a model that the engine cannot run, before its files are downloaded."""
    build = locate(library)
    revision = build.manifest.get("upstream", {}).get("revision")
    if revision is not None and revision not in chosen.entry.engines:
        raise ModelLoadError(
            f"{chosen.entry.name} runs on engine {' and '.join(chosen.entry.engines)}, and the native library in"
            f" {build.directory} has engine {revision}: build another one: python -m sdcffi build --engine"
            f" {chosen.entry.engines[-1]}"
        )
