"""The data files: what was traced, compactly.

``weights`` gives the shapes of the original tensors, with ``+b`` where a bias of so many rows is beside one. In a name,
``{0-9}`` stands for the blocks 0 to 9. ``modules`` gives for each module of diffusers the original tensor that it is,
or its places: original tensor, first row, first row of the module and number of rows, where the tensor's rows are
counted in so many equal units as the last number says. There, ``{}`` stands for the number of the module's block. A
bias has the same places as the weight beside it. ``parameters`` are tensors that no module of a LoRA holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .rows import Original, Place, Shape, Traced

__all__ = ["compact", "named", "write"]

# The number of a block: the last in a name.
_BLOCK = re.compile(r"^(.*(?:blocks|layers|refiner|block)\.)(\d+)(\..*)$")
_PACKAGES = ("torch", "diffusers", "transformers", "peft")


def _split(name: str) -> tuple[str, int | None]:
    """Return the name with ``{}`` for the block's number, and the number."""
    found = _BLOCK.match(name)
    return (f"{found[1]}{{}}{found[3]}", int(found[2])) if found else (name, None)


def _ranges(items: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names, those of successive blocks with equal values as one."""
    blocks: dict[str, list[tuple[int, Any]]] = {}
    for name, value in items.items():
        pattern, number = _split(name)
        if number is None:
            yield name, value
        else:
            blocks.setdefault(pattern, []).append((number, value))
    for pattern, numbered in blocks.items():
        while numbered:
            first, value = numbered.pop(0)
            last = first
            while numbered and numbered[0] == (last + 1, value):
                last = numbered.pop(0)[0]
            if last > first:
                yield pattern.replace("{}", f"{{{first}-{last}}}"), value
            else:
                yield pattern.replace("{}", str(first)), _numbered(value, first)


def _numbered(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return value.replace("{}", str(number))
    return [[place[0].replace("{}", str(number)), *place[1:]] for place in value]


def _shapes(shapes: Mapping[str, Shape]) -> dict[str, str]:
    found = {}
    for name, shape in shapes.items():
        bias = _bias(name)
        if name.endswith("bias") and _weight(name) in shapes:
            continue
        if bias != name and bias in shapes and shapes[bias] != shape[:1]:
            raise ValueError(f"{bias} has shape {shapes[bias]}")
        found[name] = "x".join(map(str, shape)) + ("+b" if bias != name and bias in shapes else "")
    return found


def _bias(name: str) -> str:
    return re.sub("weight$", "bias", name)


def _weight(name: str) -> str:
    return re.sub("bias$", "weight", name)


def _entry(name: str, places: tuple[Place, ...]) -> Any:
    number = _split(name)[1]
    named = []
    for weight, *rows in places:
        pattern, of_weight = _split(weight)
        named.append((pattern if number is not None and of_weight == number else weight, *rows))
    return named[0][0] if len(named) == 1 and named[0][-1] == 1 else named


def _modules(traced: Mapping[str, Traced]) -> tuple[dict[str, Any], dict[str, Any]]:
    modules, parameters = {}, {}
    for name, tensor in traced.items():
        base, kind = name.rsplit(".", 1) if "." in name else (name, "")
        if kind == "weight":
            modules[base] = _entry(base, tensor.places)
        elif kind == "bias":
            if [(_bias(weight), *rows) for weight, *rows in traced[f"{base}.weight"].places] != list(tensor.places):
                raise ValueError(f"the places of {name} differ from those of its weight")
        else:
            parameters[name] = _entry(name, tensor.places)
    return modules, parameters


def named(modules: Mapping[str, tuple[Place, ...]]) -> dict[str, Any]:
    """Return the modules of another tool, compactly."""
    return dict(_ranges({name: _entry(name, places) for name, places in modules.items()}))


def compact(source: str, prefix: str, original: Original, traced: Mapping[str, Traced], **more: Any) -> dict[str, Any]:
    """Return a data file's contents.

    Parameters
    ----------
    source : str
        What the data rest on.
    prefix : str
        What the engine has before the original names.
    original : Original
        The original checkpoint.
    traced : mapping of str to Traced
        The tensors of diffusers.
    **more
        Further keys.
    """
    modules, parameters = _modules(traced)
    return {
        "source": source,
        "versions": {name: version(name) for name in _PACKAGES},
        "prefix": prefix,
        **more,
        "weights": dict(_ranges(_shapes(original.shapes))),
        "modules": dict(_ranges(modules)),
        "parameters": dict(_ranges(parameters)),
    }


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a data file, one entry a line."""
    lines = []
    for key, value in contents.items():
        if isinstance(value, dict) and value:
            entries = (f"{json.dumps(name)}:{json.dumps(item, separators=(',', ':'))}" for name, item in value.items())
            lines.append(f"{json.dumps(key)}: {{\n" + ",\n".join(entries) + "\n}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
