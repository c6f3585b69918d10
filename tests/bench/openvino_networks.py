"""The networks of `torch_networks` in OpenVINO, converted once and kept beside the models.

Weights are kept in half precision, as OpenVINO's users have them, or as int8 after `nncf.quantize`, with activations of
int8 too. It sees one random input: what the network makes of an image does not matter here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino as ov
import torch

from .models import kept
from .torch_networks import NETWORKS, Network

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def compile_network(name: str, path: str, size: int, type: str, threads: int | None) -> Callable[[], object]:
    """Return what computes a network for random inputs.

    Raises
    ------
    RuntimeError
        If OpenVINO computes in another type.
    """
    core = ov.Core()
    hint = _hint(core, type)
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(_converted(name, path, size, type), "CPU", options)
    taken = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    if taken != hint:
        raise RuntimeError(f"OpenVINO computes in {taken} in place of {hint}")
    request, inputs = compiled.create_infer_request(), [_random(port) for port in compiled.inputs]
    return lambda: request.infer(inputs)


def _hint(core: ov.Core, type: str) -> str:
    """OpenVINO's name of a type; what an int8 network has in float is computed in the processor's fastest type."""
    fastest = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    return _HINTS.get(type, fastest)


def _random(port: Any) -> Any:
    return torch.randn(tuple(port.shape)).numpy()


def _converted(name: str, path: str, size: int, type: str) -> Path:
    """The file of a network for one size, with weights in float or int8."""

    def write(directory: Path) -> None:
        os.mkdir(directory)
        model = _quantised(name, path, size) if type == "int8" else _traced(NETWORKS[name](path, size, torch.float32))
        ov.save_model(model, directory / "model.xml")

    kind = "int8" if type == "int8" else "float"
    return kept(f"openvino-{Path(path).stem}-{name}-{size}-{kind}", write) / "model.xml"


def _quantised(name: str, path: str, size: int) -> ov.Model:
    import nncf

    model = ov.Core().read_model(_converted(name, path, size, "float32"))
    inputs = [_random(port) for port in model.inputs]
    return nncf.quantize(
        model,
        nncf.Dataset([inputs], lambda item: item),
        subset_size=1,
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
    )


class _Module(torch.nn.Module):
    """A network's function as a module, which is what OpenVINO traces."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._function(*inputs)


@torch.inference_mode()
def _traced(network: Network) -> ov.Model:
    shapes = [list(tensor.shape) for tensor in network.inputs]
    return ov.convert_model(_Module(network.function), example_input=network.inputs, input=shapes)
