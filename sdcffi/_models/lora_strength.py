"""The factor of each module's difference: alpha over rank, from tensors, metadata or PEFT's configuration.

Tensors count before everything else. Then come settings as diffusers and PEFT read them. Notes of a trainer that no
loader reads, such as kohya's ``ss_network_alpha``, do not count: converters keep them that multiply alpha into the
weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._numbers import is_finite
from .._quoting import shown
from .headers import HeaderError
from .lora_checks import Parts, rank_of
from .patterns import compiled

__all__ = ["ADAPTER_FILES", "Settings", "Strength", "read_settings", "settings_for", "strength_of", "unsupported"]

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_CONFIG_FILE = "adapter_config.json"
_LONGEST_MODULE = 500  # characters
_MOST_CONFIG = 4 << 20  # bytes
_METADATA = "lora_adapter_metadata"  # diffusers' LORA_ADAPTER_METADATA_KEY
_COMPONENTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3")
_DEFAULT_ALPHA = 8  # of PEFT's configurations
_KNOWN_TYPES = ("LORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3")
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Settings:
    """Settings of PEFT for a component of a pipeline.

    Attributes
    ----------
    component : str
        ``"transformer"``, ``"text_encoder"``, ... Empty: the whole file.
    source : str
        Where they are from, for people.
    values : mapping
        By PEFT's names: ``r``, ``lora_alpha``, ``use_rslora``, ...
    """

    component: str
    source: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Strength:
    """The factor of a module's difference.

    Attributes
    ----------
    scale : float
        The factor.
    alpha : float or None
        The alpha in it. None: there is none.
    source : str
        Where it is from: ``"alpha tensor"``, ``"adapter_config.json"``, ... Empty: nothing says it, so it is 1.
    """

    scale: float = 1.0
    alpha: float | None = None
    source: str = ""


def read_settings(path: Path, metadata: Mapping[str, str]) -> tuple[Settings, ...]:
    """Read PEFT's settings, from ``adapter_config.json`` beside ``adapter_model.safetensors`` or a file's metadata.

    Raises
    ------
    HeaderError
        If they are malformed.
    """
    config = path.with_name(_CONFIG_FILE)
    if path.name in ADAPTER_FILES and config.is_file():
        if config.stat().st_size > _MOST_CONFIG:
            raise HeaderError(f"{config} must have at most {_MOST_CONFIG} bytes")
        return (Settings("", _CONFIG_FILE, _table(config.read_bytes(), str(config))),)
    if _METADATA in metadata:
        return _by_component(_table(metadata[_METADATA], f"metadata {_METADATA!r}"), _METADATA)
    return _plain_settings(metadata)


def _table(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{where} is not valid JSON: {error}") from error
    if table is not None and not isinstance(table, dict):
        raise HeaderError(f"{where} must be a JSON object, not a {type(table).__name__}")
    return table or {}


def _by_component(table: Mapping[str, Any], source: str) -> tuple[Settings, ...]:
    parts: dict[str, dict[str, Any]] = {}
    for name, value in table.items():
        component, dot, rest = name.partition(".")
        if not dot or component not in _COMPONENTS:
            component, rest = "", name
        parts.setdefault(component, {})[rest] = value
    return tuple(Settings(component, source, values) for component, values in parts.items())


def _plain_settings(metadata: Mapping[str, str]) -> tuple[Settings, ...]:
    """Read settings that stand in the metadata as plain keys: ``transformer.lora_alpha``, ``lora_alpha``, ``alpha``."""
    found: list[Settings] = []
    for component in ("", *_COMPONENTS):
        prefix = f"{component}." if component else ""
        values = {
            name: json.loads(text)
            for name in ("r", "rank", "lora_alpha", "alpha", "use_rslora", "alpha_pattern", "rank_pattern")
            if (text := metadata.get(prefix + name, "").replace("True", "true").replace("False", "false"))
            and _is_json(text)
        }
        if "lora_alpha" not in values and not ("alpha" in values and {"r", "rank"} & values.keys()):
            continue
        values.setdefault("lora_alpha", values.get("alpha"))
        found.append(
            Settings(component, f"metadata {prefix}{'lora_' * (prefix + 'lora_alpha' in metadata)}alpha", values)
        )
    return tuple(found)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def unsupported(settings: Sequence[Settings]) -> str:
    """Return what in the settings cannot be computed, such as a kind of adapter; empty if all can."""
    for one in settings:
        values = one.values
        kind = values.get("peft_type")
        if kind is not None and str(kind).rpartition(".")[2].upper() not in _KNOWN_TYPES:
            return f"an adapter of kind {kind} ({one.source})"
        for name in ("use_qalora", "layer_replication", "coft"):
            if values.get(name):
                return f"{name} ({one.source})"
    return ""


def strength_of(
    module: str, kind: str, parts: Parts, settings: Sequence[Settings], notes: Mapping[str, str]
) -> Strength:
    """Find a module's strength.

    Parameters
    ----------
    module : str
        Its name in the file.
    kind : str
        One of `lora_roles.KINDS`.
    parts : mapping of str to Part
        Its tensors by role.
    settings : sequence of Settings
        See `read_settings`.
    notes : mapping of str to str
        The file's metadata.

    Raises
    ------
    HeaderError
        If a setting is no number, or a pattern no regular expression.
    """
    scales = kind in ("lora", "loha", "lokr", "glora")
    found = _found(module, kind, parts, settings, notes) if scales else Strength()
    scale = found.scale * _scalar(parts)
    if not math.isfinite(scale):
        raise HeaderError(f"module {module!r}: the scale must be finite, not {scale} (from {found.source})")
    return Strength(scale, found.alpha, found.source)


def _scalar(parts: Parts) -> float:
    value = parts["scalar"].value if "scalar" in parts else None
    return 1.0 if value is None else value


def _found(module: str, kind: str, parts: Parts, settings: Sequence[Settings], notes: Mapping[str, str]) -> Strength:
    rank = rank_of(parts)
    if "scale" in parts and (scale := parts["scale"].value) is not None:
        return Strength(scale, None, "scale tensor")
    alpha = parts["alpha"].value if "alpha" in parts else None
    if alpha is not None:
        if rank is None:  # LyCORIS takes no account of it where both factors of a LoKr are whole
            return Strength(1.0, alpha, "none: both factors are whole")
        if kind == "glora" and _is_rank_stabilised(notes):  # other kinds have the square root in alpha
            return Strength(alpha / math.sqrt(rank), alpha, "alpha tensor, rs_lora of ss_network_args")
        return Strength(alpha / rank, alpha, "alpha tensor")
    if (one := settings_for(module, settings)) is None:
        return Strength()
    return _by_settings(module, kind, rank, one)


def _is_rank_stabilised(notes: Mapping[str, str]) -> bool:
    text = notes.get("ss_network_args", "")
    values = json.loads(text) if _is_json(text) else None
    return isinstance(values, dict) and str(values.get("rs_lora", "")).lower() in ("true", "1", "yes")


def settings_for(module: str, settings: Sequence[Settings]) -> Settings | None:
    """Return the settings for a module, by the component that its name begins with; None if there are none."""
    by_component = {one.component: one for one in settings}
    own = next((component for component in _COMPONENTS if module.startswith(f"{component}.")), None)
    if own in by_component:
        return by_component[own]
    if own is None:  # names without a component are those of the denoiser, which diffusers gives its prefix
        for component in ("transformer", "unet"):
            if component in by_component:
                return by_component[component]
    return by_component.get("")


def _by_settings(module: str, kind: str, rank: int | None, settings: Settings) -> Strength:
    key = module.removeprefix(_PEFT_PREFIX).removeprefix(f"{settings.component}.")
    values, source = settings.values, settings.source
    name = "lora_alpha" if kind == "lora" or "lora_alpha" in values else "alpha"
    alpha = _by_pattern(values, "alpha_pattern", key, source)
    if alpha is None:
        alpha = values.get(name)
    if alpha is None:
        alpha = _DEFAULT_ALPHA
    if rank is None:
        rank = _by_pattern(values, "rank_pattern", key, source) or values.get("r") or _DEFAULT_ALPHA
    for value, what in ((alpha, name), (rank, "r")):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
            raise HeaderError(f"{source}: {what} of {module!r} must be a finite number, not {shown(value)}")
    if rank <= 0:
        raise HeaderError(f"{source}: r of {module!r} must be at least 1, not {rank!r}")
    under = math.sqrt(rank) if values.get("use_rslora") else rank
    return Strength(alpha / under, float(alpha), source + ", rsLoRA" * bool(values.get("use_rslora")))


def _by_pattern(values: Mapping[str, Any], name: str, module: str, source: str) -> Any:
    """Look a module up in ``rank_pattern`` or ``alpha_pattern``, as `get_pattern_key` of PEFT does."""
    patterns = values.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise HeaderError(f"{source}: {name} must be a table, not {patterns!r}")
    for pattern, value in patterns.items():
        if pattern == module or module.endswith(f".{pattern}"):
            return value
        if len(module) > _LONGEST_MODULE:
            raise HeaderError(
                f"{source}: {module[:80]!r}... is too long for the patterns of {name}: write out the names"
            )
        try:
            compiled(f"pattern of {name}", pattern)
        except ValueError as error:
            raise HeaderError(f"{source}: {error}") from error
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return None
