"""Every parameter under one name: flags of the command line, keys of parameter files, and the table in the docs.

The fields, their types and descriptions come from the dataclasses of `params`. This module has only the names that
differ from the field's own. Names are the long flags of upstream's sd-cli with underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from .struct import KEYWORDS, Struct, struct_named

__all__ = ["Parameter", "build", "flag_of", "flatten", "parameters", "spoken", "words_of"]

# Prefixes of the names of a struct's fields; a struct that is not here has none.
_PREFIXES = {
    "slg": "slg_",
    "vae_tiling_params": "vae_",
    "cache": "cache_",
    "hires": "hires_",
    "pm_params": "pm_",
    "high_noise_sample_params": "high_noise_",
}
_NAMES = {
    **KEYWORDS,
    "shifted_timestep": "timestep_shift",
    "custom_sigmas": "sigmas",
    "img_cfg": "img_cfg_scale",
}
_SAMPLING = {"sample_params.": ("", ""), "high_noise_sample_params.": ("high_noise_", "high_noise.")}
_WHOLE_NAMES = {  # by path, without a prefix
    "slg.layers": "skip_layers",
    "slg.layer_start": "skip_layer_start",
    "slg.layer_end": "skip_layer_end",
    "vae_tiling_params.enabled": "vae_tiling",
    "vae_tiling_params.target_overlap": "vae_tile_overlap",
    "vae_tiling_params.rel_size_x": "vae_relative_tile_size_x",
    "vae_tiling_params.rel_size_y": "vae_relative_tile_size_y",
    "cache.scm_mask": "scm_mask",
    "cache.scm_policy_dynamic": "scm_policy_dynamic",
    "hires.enabled": "hires",
    "hires.target_width": "hires_width",
    "hires.target_height": "hires_height",
}
# Lists, and the name of the flag that gives one element.
_SINGULAR = {
    "loras": "lora",
    "ref_images": "ref_image",
    "control_frames": "control_frame",
    "pm_id_images": "pm_id_image",
    "embeddings": "embedding",
}
_known: dict[type[Struct], tuple[Parameter, ...]] = {}
_KINDS: dict[str, type] = {"bool": bool, "int": int, "float": float}


@dataclass(frozen=True)
class Parameter:
    """One field that a caller can set.

    Attributes
    ----------
    path : tuple of str
        Its C name, from the outermost struct on: ``("sample_params", "guidance", "txt_cfg")``.
    struct : type
        The dataclass that has it.
    name : str
        Its name in files, and with dashes as a flag: ``"cfg_scale"``.
    kind : type
        bool, int, float or str; str also for paths and images, which files and flags give by path.
    annotation : str
        Its type in the dataclass, without None.
    many : bool
        Whether it is a sequence.
    help : str
        Its description, from the dataclass's docstring.
    """

    path: tuple[str, ...]
    struct: type[Struct]
    name: str
    kind: type
    annotation: str
    many: bool
    help: str

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return flag_of(self.name)


def flag_of(name: str) -> str:
    """Return the flag of a name in `parameters`, or of another keyword."""
    return "--" + _SINGULAR.get(name, name).replace("_", "-")


def spoken(path: str) -> str:
    """Return what a caller types for a C field: ``"sampler"`` for ``"sample_params.sample_method"``.

    Parameters
    ----------
    path : str
        The field, from the outermost struct on.
    """
    for start, (of_keyword, of_field) in _SAMPLING.items():
        if path.startswith(start):
            rest = path[len(start) :]
            if (keyword := KEYWORDS.get(rest.removeprefix("guidance."))) is not None:
                return of_keyword + keyword
            return of_field + (rest.removeprefix("guidance.") if rest.startswith("guidance.slg.") else rest)
    if path.startswith("vae_tiling_params."):
        return path.replace("vae_tiling_params", "tiling", 1)
    return KEYWORDS.get(path, path)


def words_of(name: str, value: Any) -> list[str]:
    """Return the words of the command line that set a parameter."""
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of(name).replace("--", "--no-", 1)]
    return [flag_of(name), str(value)]


def parameters(struct: type[Struct]) -> tuple[Parameter, ...]:
    """Return every parameter of a struct and its inner structs, in the order of their fields."""
    if struct not in _known:
        _known[struct] = tuple(_walk(struct, (), ""))
    return _known[struct]


def _walk(struct: type[Struct], above: tuple[str, ...], prefix: str) -> Iterator[Parameter]:
    meanings = _meanings(struct.__doc__ or "")
    for field in fields(struct):  # type: ignore[arg-type]
        path = (*above, field.name)
        annotation = str(field.type).removesuffix(" | None")
        inner = struct_named(annotation)
        if inner is not None:
            yield from _walk(inner, path, prefix + _PREFIXES.get(field.name, ""))
            continue
        element = annotation.removeprefix("Sequence[").removesuffix("]")
        many = element != annotation
        kind = _KINDS.get(element, str)
        yield Parameter(path, struct, _name(path, prefix), kind, element, many, meanings.get(field.name, ""))


def _name(path: tuple[str, ...], prefix: str) -> str:
    whole = _WHOLE_NAMES.get(".".join(path[-2:]))
    if whole is not None:
        outer = _PREFIXES[path[0]] if path[0] in _PREFIXES and path[0] != path[-2] else ""
        return outer + whole
    return prefix + _NAMES.get(path[-1], path[-1].removesuffix("_path"))


def _meanings(docstring: str) -> dict[str, str]:
    """Read the parameters of a numpydoc docstring: the text below ``name, name : type``."""
    found: dict[str, str] = {}
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*) : [^\n]*\n((?: {8}[^\n]*\n)+)", docstring, re.MULTILINE)
    for names, text in entries:
        meaning = re.sub(r"``|`", "", " ".join(text.split()))
        found.update(dict.fromkeys(names.split(", "), meaning))
    return found


def build(struct: type[Struct], values: Mapping[tuple[str, ...], Any]) -> Any:
    """Return a struct with values by path; an inner struct is made if one of its values is given.

    Raises
    ------
    ValueError
        If a struct lacks a required value.
    """
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0] for path in values if len(path) > 1}:
        inner = {path[1:]: value for path, value in values.items() if path[0] == name}
        annotation = next(str(item.type) for item in fields(struct) if item.name == name)  # type: ignore[arg-type]
        kind = struct_named(annotation.removesuffix(" | None"))
        assert kind is not None, annotation
        own[name] = build(kind, inner)
    required = [item.name for item in fields(struct) if item.default is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in own]:
        raise ValueError(f"{struct.__name__} needs {' and '.join(missing)}, but only {', '.join(own)} is given")
    return struct(**own)


def flatten(struct: Struct) -> dict[tuple[str, ...], Any]:
    """Return the values that are set in a struct and its inner structs, by path: what `build` takes."""
    values: dict[tuple[str, ...], Any] = {}
    for name, value in struct.given().items():
        below = flatten(value) if isinstance(value, Struct) else {(): value}
        values |= {(name, *path): leaf for path, leaf in below.items()}
    return values
