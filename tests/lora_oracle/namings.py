"""Tools whose modules are neither diffusers' nor the original ones: XLabs, DiffSynth-Studio, OneTrainer's OMI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

from .rows import Original, Place, Traced, place, runs

__all__ = ["NAMINGS", "SOURCES"]

SOURCES = {
    "xlabs": "diffusers.loaders.lora_conversion_utils._convert_xlabs_flux_lora_to_diffusers",
    "diffsynth": "DiffSynth-Studio, diffsynth/models/flux_lora_patcher.py: civitai_rename_dict, diffusers_rename_dict",
    "omi": "OneTrainer of 2025, modules/util/convert/lora/convert_flux_lora.py and convert_sd3_lora.py: parts of fused "
    "weights have a number, halves are swapped to the original order",
}
_WIDTH = 3072


def _xlabs(original: Original, traced: Mapping[str, Traced]) -> dict[str, tuple[Place, ...]]:
    """Follow each row of each `up` through diffusers' converter to its module, and on to the original weight."""
    modules = Original()
    for i in range(2):
        for part in "12":
            modules.add(f"double_blocks.{i}.processor.qkv_lora{part}", 3 * _WIDTH, 1)
            modules.add(f"double_blocks.{i}.processor.proj_lora{part}", _WIDTH, 1)
        modules.add(f"single_blocks.{i}.processor.qkv_lora", 3 * _WIDTH, 1)
        modules.add(f"single_blocks.{i}.processor.proj_lora", _WIDTH, 1)
    ups = modules.numbered()
    states = {f"{name}.up.weight": up for name, up in ups.items()}
    states.update({f"{name}.down.weight": torch.zeros(1, 1) for name in ups})
    source = original.numbered()
    found: dict[str, dict[int, int]] = {name: {} for name in ups}  # by module: its row, the original row's number
    for name, up in _convert_xlabs_flux_lora_to_diffusers(states).items():
        if not name.endswith(".lora_B.weight"):
            continue
        rows = _numbers(traced[name.removeprefix("transformer.").replace(".lora_B.weight", ".weight")], source)
        for number, row in zip(up[:, 0].tolist(), rows, strict=True):
            module, at = modules.source(number)
            found[module][at] = row
    return {
        module: tuple(place(original, *run) for run in runs([rows[at] for at in sorted(rows)]))
        for module, rows in found.items()
    }


def _numbers(tensor: Traced, source: Mapping[str, torch.Tensor]) -> list[int]:
    """Return the numbers of the original rows that a module of diffusers consists of."""
    numbers: list[int] = []
    for weight, row, _, rows, units in tensor.places:
        unit = source[weight].shape[0] // units
        numbers += source[weight].reshape(-1)[row * unit : (row + rows) * unit].tolist()
    return numbers


_DIFFSYNTH = {
    "blocks.{}.norm1_a.linear": "double_blocks.{}.img_mod.lin",
    "blocks.{}.norm1_b.linear": "double_blocks.{}.txt_mod.lin",
    "blocks.{}.attn.a_to_qkv": "double_blocks.{}.img_attn.qkv",
    "blocks.{}.attn.b_to_qkv": "double_blocks.{}.txt_attn.qkv",
    "blocks.{}.attn.a_to_out": "double_blocks.{}.img_attn.proj",
    "blocks.{}.attn.b_to_out": "double_blocks.{}.txt_attn.proj",
    "blocks.{}.ff_a.0": "double_blocks.{}.img_mlp.0",
    "blocks.{}.ff_a.2": "double_blocks.{}.img_mlp.2",
    "blocks.{}.ff_b.0": "double_blocks.{}.txt_mlp.0",
    "blocks.{}.ff_b.2": "double_blocks.{}.txt_mlp.2",
    "single_blocks.{}.norm.linear": "single_blocks.{}.modulation.lin",
    "single_blocks.{}.to_qkv_mlp": "single_blocks.{}.linear1",
    "single_blocks.{}.proj_out": "single_blocks.{}.linear2",
}


def _diffsynth(original: Original, traced: Mapping[str, Traced]) -> dict[str, tuple[Place, ...]]:
    return {
        name.format(i): ((f"{weight.format(i)}.weight", 0, 0, 1, 1),)
        for name, weight in _DIFFSYNTH.items()
        for i in range(2)
    }


def _omi(original: Original, traced: Mapping[str, Traced]) -> dict[str, tuple[Place, ...]]:
    """Number the modules that share a weight by their rows."""
    found: dict[str, tuple[Place, ...]] = {}
    for name, tensor in traced.items():
        weight, row, _, _, _ = tensor.places[0]
        base, _, kind = weight.rpartition(".")
        if not name.endswith(".weight") or kind != "weight" or len(tensor.shape) < 2:
            continue
        if len(tensor.places) > 1 or tensor.places[0][-1] == 1:
            module = "img_in.proj" if base == "img_in" else base
            found[f"transformer.{module}"] = ((weight, 0, 0, 1, 1),)
        else:  # rows are counted in widths, so the first row is the number; FLUX.1's mlp is the fourth
            found[f"transformer.{base}.{row}"] = tensor.places
    return found


NAMINGS: Mapping[str, Mapping[str, Any]] = {
    "flux": {"xlabs": _xlabs, "diffsynth": _diffsynth, "omi": _omi},
    "sd3": {"omi": _omi},
}
