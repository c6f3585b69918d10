"""Names of the catalogue as models: the variant that fits the device which would compute."""

from __future__ import annotations

from .._bindings.requests import Description, Opening
from .._catalogue.expansion import Chosen, with_files
from .._catalogue.variants import Room, room_of
from .._machine.backends import backend_choice
from .._process.calls import run_alone
from ..events import Listeners, Log
from ..params.context import ContextParams
from ..params.struct import StrPath

__all__ = ["resolve_names"]


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
        As in `with_files`, or because the device cannot be used.
    """

    def room() -> Room:
        choice = backend_choice(backend)
        if choice.name == "cpu":
            return room_of(None, params)
        description: Description = run_alone(Opening(library, choice), "describe")
        return room_of(description.device, params)

    return with_files(params, room, lambda note: listeners.notify(Log("info", note)))
