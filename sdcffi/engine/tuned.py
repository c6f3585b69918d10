"""The choices that `tuning.tune` has measured, stored as one file each in the user's cache directory.

A choice is valid for one subject: everything that determines how fast a model is. That is its files, their weight
types, the devices of its parts, the native build, and the number of usable cores.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import cache_directory, check_output, read_kept_json, replacing
from .._machine.limits import MOST_THREADS, usable_cores
from .._quoting import shown
from .._warnings import warn
from ..params.context import PRECISIONS, ContextParams
from ..params.names import parameters, words_of
from ..params.plain import detach

if TYPE_CHECKING:
    from .._bindings.requests import Opened, Opening
    from .._machine.devices import Device
    from .._records.digests import FileState

__all__ = ["TUNED", "Subject", "check_store", "keep_choice", "subject_of", "with_stored_choice"]

Subject = dict[str, Any]

_SCHEMA = 1
# What is measured: keywords of `Engine`, each with its field of `ContextParams`.
TUNED = {
    "precision": "precision",
    "threads": "n_threads",
    "fa": "flash_attn",
    "diffusion_fa": "diffusion_flash_attn",
    "diffusion_conv_direct": "diffusion_conv_direct",
    "vae_conv_direct": "vae_conv_direct",
}
# Fields other than files that determine the speed.
_SETTINGS = (
    *("wtype", "tensor_type_rules", "offload_params_to_cpu", "max_vram"),
    *("keep_clip_on_cpu", "keep_control_net_on_cpu", "keep_vae_on_cpu"),
)


def subject_of(context: ContextParams, states: Mapping[Path, FileState | None], device: Device, build: str) -> Subject:
    """Return what a choice is valid for.

    Parameters
    ----------
    context : ContextParams
        The context as the caller set it.
    states : mapping of Path to FileState or None
        State of each of its files. None: the file could not be read.
    device : Device
        The device that computes.
    build : str
        Key of the native build.

    Returns
    -------
    dict
        Plain data, for JSON.
    """
    plain, files, _ = detach(context)
    return {
        "files": {role: _file(path, states.get(path)) for role, path in files.items() if "embeddings" not in role},
        "settings": {name: value for name, value in plain.given().items() if name in _SETTINGS},
        "device": [device.backend, device.description, *filter(None, [device.variant])],
        "build": build,
        "cores": usable_cores(),
    }


def _file(path: Path, state: FileState | None) -> list[str | int]:
    """Identify a file without reading it, also after it was moved."""
    return [path.name, *((state.size, state.mtime_ns) if state else ())]


def _place(subject: Subject) -> Path:
    key = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()
    return cache_directory() / "tuning" / f"{key}.json"


def check_store() -> None:
    """Refuse to measure what could not be stored.

    Raises
    ------
    OSError
        If the user's cache directory cannot be written.
    """
    path = _place({})
    path.parent.mkdir(parents=True, exist_ok=True)
    check_output(path)


def keep_choice(subject: Subject, choice: Mapping[str, int | bool | str], measured: Any) -> Path:
    """Store a choice, in place of an earlier one for the same subject.

    Parameters
    ----------
    subject : dict
        What the choice is valid for: the result of `subject_of`.
    choice : mapping of str to int, bool or str
        Values of the keywords in `TUNED`.
    measured : object
        The measurements that it comes from, as plain data for JSON.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = _place(subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"schema": _SCHEMA, "subject": subject, "choice": dict(choice), "measured": measured}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    return path


def with_stored_choice(
    context: ContextParams, states: Mapping[Path, FileState | None], opened: Opened, opening: Opening
) -> ContextParams:
    """Return the context with the stored choice in those fields that are None.

    Parameters
    ----------
    context : ContextParams
        The context as the caller set it.
    states : mapping of Path to FileState or None
        State of each of its files.
    opened : Opened
        Device and native build.
    opening : Opening
        How the session was opened, for the command in the warning.

    Returns
    -------
    ContextParams
        The same context if no choice is stored.

    Warns
    -----
    UserWarning
        If no choice is stored, or it cannot be read, with the command that measures one.
    """
    subject = subject_of(context, states, opened.device, opened.build)
    path: Path | None = None
    try:
        path = _place(subject)
        choice = _checked(read_kept_json(path), subject)
    except FileNotFoundError:
        missing = f"nothing was measured yet for this model on {opened.device.description} with this build"
    except (OSError, ValueError) as error:
        missing = f"{path or 'the stored choice'} cannot be used ({error})"
    else:
        fields: dict[str, Any] = {TUNED[name]: value for name, value in choice.items()}
        return ContextParams(**fields).updated(context)
    warn(f"tuned: {missing}; the defaults are used. To measure: {_command(context, opening)}")
    return context


def _checked(stored: Any, subject: Subject) -> dict[str, int | bool | str]:
    if not isinstance(stored, dict) or stored.get("schema") != _SCHEMA or stored.get("subject") != subject:
        raise ValueError("another version wrote it, or for another model")
    choice = stored.get("choice")
    if not isinstance(choice, dict) or not all(_is_legal(name, value) for name, value in choice.items()):
        raise ValueError(f"choice must have legal values of {', '.join(TUNED)}, not {shown(choice)}")
    return choice


def _is_legal(name: str, value: Any) -> bool:
    if name == "threads":
        return type(value) is int and 1 <= value <= MOST_THREADS
    if name == "precision":
        return value in PRECISIONS
    return name in TUNED and isinstance(value, bool)


def _command(context: ContextParams, opening: Opening) -> str:
    words = ["sdcffi", "tune"]
    for item in parameters(ContextParams):
        value = getattr(context, item.path[0])
        if value is not None and (item.path[0].endswith("_path") or item.path[0] in _SETTINGS):
            words += words_of(item.name, value)
    if opening.backend.name != "auto" and opening.backend.origin == "backend":
        words += ["--backend", str(opening.backend)]
    if opening.library is not None:
        words += ["--library", str(opening.library)]
    return shlex.join(words)
