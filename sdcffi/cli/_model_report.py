"""The report of ``sdcffi models inspect``, from the header of a model file alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._defaults.recommended import Recommended, recommend
from .._models.companions import strays
from .._models.files import UNKNOWN, Model, examine
from .._models.memory import compute_bytes, weight_bytes
from .._models.upscaler_file import Network, read_network
from ..params.image import ImageParams

__all__ = ["inspect_model", "model_lines"]

_NOTHING = "used by nothing; if images are not as expected, the model is of a kind that the engine reads in part"
_SIDE = 512  # of the image whose memory is reported, in pixels


def inspect_model(path: Path) -> dict[str, Any]:
    """Describe a file.

    Parameters
    ----------
    path : Path
        A model file, or a diffusers directory.

    Returns
    -------
    dict
        ``path``, ``bytes``, ``format``, ``kind``, ``family`` (None if it is not known), ``parts``, ``needs``
        (keywords of `Engine`), ``tensors``, ``parameters``, ``types`` (tensors, parameters and bytes of each weight
        type), ``unused`` (names of tensors that are not read, with the reason), ``pixel_multiple``, ``memory``, in
        bytes, estimated as before each call, ``defaults`` (the values that a call uses where it says nothing, each with
        its source; the others are the engine's own), and ``note`` (on models that have the same tensors, or None).

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    kind, model, params, needs = examine(path)
    unused = {name: why for file in model.files for name, why in file.unused.items()}
    unused |= {name: _NOTHING for file in model.files for name in strays(file.tensors)}
    if kind == UNKNOWN and (network := _network(path)):
        kind = f"an upscaling network of factor {network.factor}"
        unused |= dict.fromkeys(network.unused, _NOTHING)
    architecture = model.architecture
    recommended = recommend(model) if architecture or kind == UNKNOWN else Recommended({})
    types = _types(model)
    image = ImageParams(width=_SIDE, height=_SIDE)
    return {
        "path": str(path),
        "bytes": sum(part.stat().st_size for file in model.files for part in file.parts),
        "format": model.files[0].format,
        "kind": kind,
        "family": architecture and architecture.title,
        "parts": sorted(model.parts) if architecture else [],
        "needs": needs,
        "tensors": sum(count["tensors"] for count in types.values()),
        "parameters": sum(count["parameters"] for count in types.values()),
        "types": types,
        "unused": unused,
        "pixel_multiple": model.pixel_multiple,
        "memory": {
            "weights": weight_bytes(model, params),
            f"image_{_SIDE}": compute_bytes(model, image, params),
        },
        "defaults": {name: default._asdict() for name, default in recommended.values.items()},
        "note": recommended.note,
    }


def _network(path: Path) -> Network | None:
    try:
        return read_network("model", path)
    except ValueError:
        return None


def _types(model: Model) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for file in model.files:
        for tensor in file.tensors.values():
            count = found.setdefault(tensor.dtype.lower(), {"tensors": 0, "parameters": 0, "bytes": 0})
            count["tensors"] += 1
            count["parameters"] += math.prod(tensor.shape)
            count["bytes"] += tensor.size
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def model_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report of `inspect_model`, for people."""
    family = f" of {report['family']}" if report["family"] else ""
    yield f"{report['path']}: {report['kind']}{family}, {report['format']}, {_size(report['bytes'])}"
    yield f"{report['tensors']} tensors, {_count(report['parameters'])} parameters"
    for name, count in report["types"].items():
        share = count["parameters"] / max(1, report["parameters"])
        yield f"  {name}: {count['tensors']} tensors, {share:.1%} of the parameters, {_size(count['bytes'])}"
    for why, count in Counter(report["unused"].values()).items():
        yield f"not read: {count} tensors: {why}"
    if report["parts"]:
        yield f"parts: {', '.join(report['parts'])}"
    if report["needs"]:
        yield f"also needs: {', '.join(report['needs'])}"
    if report["pixel_multiple"]:
        yield f"width and height: multiples of {report['pixel_multiple']}"
        yield f"memory: about {_size(report['memory']['weights'])} for the weights"
        image = report["memory"][f"image_{_SIDE}"]
        yield f"        about {_size(image)} more to generate {_SIDE}x{_SIDE}"

    for source, names in _by_source(report["defaults"]).items():
        yield f"defaults: {', '.join(names)}"
        yield f"  from: {source}"
    if report["note"]:
        yield f"note: {report['note']}"


def _by_source(defaults: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, default in defaults.items():
        found.setdefault(default["source"], []).append(f"{name}={default['value']}")
    return found


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _count(number: int) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)
