"""The weights of a model's files, under their own names."""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors import safe_open

__all__ = ["Weights", "fill", "read"]

Weights = dict[str, torch.Tensor]


def read(path: Path, prefix: str = "") -> Weights:
    """Return the tensors whose names begin with `prefix`, in single precision and without it.

    Of a GGUF file, those of full or half precision: the others are zeros in the small models.
    """
    if path.suffix == ".gguf":
        kept = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
        tensors = [item for item in GGUFReader(path).tensors if item.tensor_type in kept]
        found = {
            item.name: torch.from_numpy(item.data.copy()).reshape(*reversed(item.shape.tolist())) for item in tensors
        }
    else:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    return {name.removeprefix(prefix): value.float() for name, value in found.items() if name.startswith(prefix)}


def fill(model: torch.nn.Module, weights: Weights, *, unused: tuple[str, ...] = ()) -> torch.nn.Module:
    """Load weights into a model made on the meta device; all that it has must be there, and no others but `unused`."""
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    unexpected = [name for name in unexpected if not name.startswith(unused or ("\0",))]
    if missing or unexpected:
        raise ValueError(f"missing: {missing[:9]}, unexpected: {unexpected[:9]}")
    return model.eval().requires_grad_(False)
