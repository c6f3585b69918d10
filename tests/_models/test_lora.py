"""LoRA: the picture is that of a model into whose weights the adapter was merged in numpy.

PSNR in dB at 64x64 (4 steps, seed 42), of the picture drawn with the LoRA in each apply mode. `float` is the f16 model
with ``W + multiplier * alpha / rank * B @ A``; `merged` is that model converted to the same weight type (in f16 it is
`float` itself); `none` is the picture without the LoRA.

======  ============  =====  ======  ====
type    mode          float  merged  none
======  ============  =====  ======  ====
f16     auto            inf     inf  22.8
f16     at_runtime     58.2    58.2  22.8
f16     immediately     inf     inf  22.8
q8_0    auto           52.4    53.7  22.8
q8_0    at_runtime     52.4    53.7  22.8
q8_0    immediately    51.3    53.2  22.8
q4_0    auto           34.4    37.0  22.9
q4_0    at_runtime     34.4    37.0  22.9
q4_0    immediately    33.7    36.4  23.1
======  ============  =====  ======  ====

At 256x256 each differs by at most 0.8 dB where it is finite. The quantised models themselves are that far from the
float model without any LoRA (q8_0 51.8, q4_0 32.2), so what remains is quantisation, not the adapter.

Here is what `auto` does, and what happens while a model is loaded; `test_lora_kinds` has both other modes, multipliers,
several adapters and types of files, `test_lora_engine` what is counted and taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_references import MODEL, Adapter, write
from safetensors.numpy import load_file
from sdcli import THREADS, Pixels
from tiny_model import TinyModel

from sdcffi import Engine, LoraWarning
from sdcffi.images.compare import compare

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {
    "prompt": "a cat", "width": 64, "height": 64, "steps": 4, "seed": 42, "cfg_scale": 1.0,
}  # fmt: skip
LEAST_FLOAT = {"f16": 54.0, "q8_0": 47.0, "q4_0": 30.0}  # dB, about 4 below the worst of the table
LEAST_MERGED = {"f16": 54.0, "q8_0": 49.0, "q4_0": 33.0}
MOST_NONE = 25.0  # the LoRA's effect is far larger than every error above


def generate(model: TinyModel, *loras: Path, **keywords: Any) -> Pixels:
    with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", **keywords) as engine:
        return engine.generate(**DRAW, loras=loras).arrays[0]


@pytest.fixture(scope="module")
def adapter(tiny_model: TinyModel) -> Adapter:
    """The tiny model's own LoRA, with the ``alpha / rank * B @ A`` that it stands for."""
    tensors = load_file(tiny_model.lora)
    deltas = {}
    for name in (key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")):
        down, up = (tensors[f"{name}.lora_{side}.weight"].astype(np.float32) for side in "AB")
        module = name.removeprefix("diffusion_model.")
        deltas[f"{MODEL}{module}.weight"] = tensors[f"{name}.alpha"] / len(down) * (up @ down)
    return Adapter(tensors, deltas)


@pytest.fixture(scope="module")
def merged(tiny_model: TinyModel, adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return adapter.merge(tiny_model, tmp_path_factory.mktemp("merged") / "merged.safetensors")


@pytest.fixture(scope="module")
def in_floats(merged: TinyModel) -> Pixels:
    """The image of the float model into which the LoRA was merged."""
    return generate(merged)


@pytest.mark.filterwarnings("ignore::sdcffi.LoraQualityWarning")
@pytest.mark.parametrize("type", ["f16", "q8_0", pytest.param("q4_0", marks=pytest.mark.slow)])
def test_lora_draws_as_the_merged_model(
    type: str, models: dict[str, TinyModel], merged: TinyModel, in_floats: Pixels
) -> None:
    image = generate(models[type], models[type].lora)
    of_type = in_floats if type == "f16" else generate(merged.quantised(type))
    assert compare(image, in_floats).psnr > LEAST_FLOAT[type]
    assert compare(image, of_type).psnr > LEAST_MERGED[type]
    assert compare(image, generate(models[type])).psnr < MOST_NONE


def test_auto_mode_is_at_runtime_on_quantised_weights(models: dict[str, TinyModel]) -> None:
    model = models["q8_0"]
    assert np.array_equal(generate(model, model.lora), generate(model, model.lora, lora_apply_mode="at_runtime"))


@pytest.mark.parametrize("mode", ["at_runtime", "immediately"])
def test_lora_on_a_model_quantised_while_loading(mode: str, tiny_model: TinyModel, in_floats: Pixels) -> None:
    rules = {"lora_apply_mode": mode, "tensor_type_rules": "double_blocks|single_blocks=q8_0"}
    assert compare(generate(tiny_model, tiny_model.lora, **rules), in_floats).psnr > LEAST_FLOAT["q8_0"]


@pytest.mark.parametrize("mode", ["at_runtime", "immediately"])
def test_unused_tensors_are_reported_and_not_printed(
    mode: str,
    open_engine: OpenEngine,
    tiny_model: TinyModel,
    adapter: Adapter,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = "diffusion_model.double_blocks.0.img_attn.proj.unheard_of"
    file = write({**adapter.tensors, name: np.ones(4, np.float32)}, tmp_path / "l.safetensors")
    engine = open_engine(tiny_model, lora_apply_mode=mode)
    with pytest.warns(LoraWarning, match="unheard_of"):
        (report,) = engine.generate(**DRAW, loras=[file]).loras
    assert report.skipped == (name,)
    assert capfd.readouterr() == ("", "")
