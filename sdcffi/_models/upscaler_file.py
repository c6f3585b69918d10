"""Check by its header that a file is an upscaling network of the kind that the engine supports: ESRGAN, Real-ESRGAN.

These are RRDBNets. The engine's esrgan.hpp fixes 3 channels in and out, 64 features and 32 growth channels, and reads
the number of blocks and the factor from the names, in either of two spellings. It detects a misfit late, and only logs
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .files import ModelFile, read_file

__all__ = ["MOST_PASSES", "Network", "read_network"]

MOST_PASSES = 3  # of a network over its own result; three passes of 4x make an image 64 times as wide

_CHANNELS, _FEATURES, _GROWTH = 3, 64, 32
_MOST_BLOCKS = 1000  # real networks have 6 to 23; the engine builds as many as the names say

# By the factor: names in files of Real-ESRGAN, and the same tensors in files of ESRGAN.
_OLD = {
    1: {"conv_hr": "model.2", "conv_last": "model.4"},
    2: {"conv_up1": "model.3", "conv_hr": "model.5", "conv_last": "model.7"},
    4: {"conv_up1": "model.3", "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10"},
}


@dataclass(frozen=True)
class Network:
    """An upscaling network.

    Attributes
    ----------
    path : Path
    blocks : int
        Number of residual blocks.
    factor : int
        Factor by which it enlarges width and height: 1, 2 or 4.
    unused : tuple of str
        Tensors of the file that the network does not have.
    """

    path: Path
    blocks: int
    factor: int
    unused: tuple[str, ...] = ()


def read_network(keyword: str, path: Path) -> Network:
    """Read the header of an upscaling network.

    Parameters
    ----------
    keyword : str
        Name of the parameter, for messages.
    path : Path

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If it cannot be read, or is no such network. The message names tensors that are missing or have another shape.
    """
    file = read_file(keyword, path)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    old = "model.0.weight" in shapes
    if not old and "conv_first.weight" not in shapes:
        raise ValueError(
            f"{keyword}: {file.path} is not an upscaling network that the engine reads (ESRGAN, Real-ESRGAN): it has"
            f" neither 'conv_first.weight' nor 'model.0.weight', but {', '.join(map(repr, list(shapes)[:3]))}"
        )
    pattern = r"model\.1\.sub\.(\d+)\.RDB" if old else r"body\.(\d+)\."
    blocks = max((int(match[1]) + 1 for name in shapes if (match := re.match(pattern, name))), default=0)
    if blocks > _MOST_BLOCKS:
        raise ValueError(f"{keyword}: {file.path} must have at most {_MOST_BLOCKS} blocks, not {blocks}")
    factor = _old_factor(shapes) if old else _factor(shapes)
    expected = _expected(blocks, factor, old)
    _check_shapes(file, shapes, expected)
    return Network(file.path, blocks, factor, tuple(name for name in shapes if name not in expected))


def _factor(names: Mapping[str, object]) -> int:
    return 4 if "conv_up2.weight" in names else 2 if "conv_up1.weight" in names else 1


def _old_factor(names: Mapping[str, object]) -> int:
    last = max(int(match[1]) for name in names if (match := re.match(r"model\.(\d+)\.", name)))
    return 1 if last <= 4 else 2 if last <= 7 else 4


def _expected(blocks: int, factor: int, old: bool) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor that the engine needs."""
    widths = {"conv_first": (_FEATURES, _CHANNELS), "conv_body": (_FEATURES, _FEATURES)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                inp = _FEATURES + (layer - 1) * _GROWTH
                widths[f"body.{block}.rdb{dense}.conv{layer}"] = (_FEATURES if layer == 5 else _GROWTH), inp
    for name in _OLD[factor]:
        widths[name] = (_CHANNELS if name == "conv_last" else _FEATURES), _FEATURES
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, inp) in widths.items():
        spelt = _old_name(name, blocks, factor) if old else name
        shapes |= {f"{spelt}.weight": (out, inp, 3, 3), f"{spelt}.bias": (out,)}
    return shapes


def _old_name(name: str, blocks: int, factor: int) -> str:
    if match := re.match(r"body\.(\d+)\.rdb(\d)\.conv(\d)", name):
        return "model.1.sub.{}.RDB{}.conv{}.0".format(*match.groups())
    return {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", **_OLD[factor]}[name]


def _check_shapes(
    file: ModelFile, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = [name for name in expected if name not in shapes]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{file.keyword}: {file.path} is not a complete upscaling network: {len(missing)} of {len(expected)}"
            f" tensors are missing: {', '.join(missing[:3])}{more}"
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ValueError(
                f"{file.keyword}: {file.path}: tensor {name!r} must have shape {shape} ({_CHANNELS} channels,"
                f" {_FEATURES} features, {_GROWTH} growth channels), not {shapes[name]}"
            )
