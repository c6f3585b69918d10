"""A LoRA on each weight type generates the image of the model merged in numpy.

PSNR in dB at 64x64 (2 steps, seed 42, CPU), on the tiny model with rows of 256, plain LoRA of rank 4. `exact` is what
the mode computes, made in numpy: at run time the type's own weights, read back, plus the difference, in float32
(`sum`), and merged that sum converted again to the type (`sum again`). `merged` is the float model merged and then
converted, `float` is the float model merged, `base` is what the type costs without any LoRA, and `cos` is the cosine
between what the LoRA changes in the images of this type and of the float model. All stand as at_runtime / immediately.

=======  ===========  ===========  ===========  ====  ===========
type     exact        merged       float        base  cos
=======  ===========  ===========  ===========  ====  ===========
f32      57.9 / inf   57.7 / 57.6  57.5 / 57.3  57.2  1.00 / 1.00
bf16     56.5 / inf   56.4 / 56.6  55.4 / 55.1  55.6  1.00 / 1.00
q8_0     52.1 / inf   52.3 / 52.4  50.7 / 50.3  50.6  1.00 / 1.00
q6_K     50.2 / 49.9  46.5 / 45.8  44.4 / 43.5  44.2  1.00 / 1.00
q5_1     52.0 / 42.4  43.2 / 40.1  38.6 / 37.9  40.6  0.99 / 0.99
q5_0     52.5 / 43.9  42.1 / 40.2  38.4 / 37.9  38.1  0.99 / 0.99
q5_K     49.8 / 44.3  41.6 / 40.3  39.2 / 38.4  39.8  0.99 / 0.99
q4_1     51.5 / 38.1  39.5 / 36.8  33.9 / 32.5  33.4  0.97 / 0.97
q4_0     52.0 / 39.5  36.0 / 34.1  32.2 / 31.6  32.6  0.96 / 0.95
q4_K     49.9 / 41.8  38.3 / 35.0  34.1 / 32.6  33.5  0.97 / 0.96
iq4_nl   51.9 / 40.2  38.3 / 35.9  33.3 / 32.5  33.5  0.97 / 0.96
iq4_xs   50.1 / 41.2  38.3 / 35.3  33.8 / 32.5  33.7  0.97 / 0.96
mxfp4    52.0 / inf   33.9 / 34.1  30.1 / 30.0  30.2  0.94 / 0.93
nvfp4    51.7 / inf   34.6 / 33.6  31.1 / 30.3  30.7  0.95 / 0.94
q3_K     50.3 / 34.9  32.5 / 29.7  28.2 / 27.4  28.4  0.91 / 0.89
q2_K     49.8 / 29.0  26.2 / 24.6  23.5 / 22.7  23.1  0.78 / 0.71
tq1_0    48.2 / inf   18.2 / 17.5  15.7 / 15.1  15.8  0.12 / 0.09
tq2_0    48.2 / inf   18.2 / 17.5  15.7 / 15.1  15.8  0.12 / 0.09
iq3_s    49.2 / -     31.1 / -     27.1 / -     27.0  0.90 / -
iq3_xxs  49.1 / -     30.5 / -     26.5 / -     26.1  0.88 / -
iq2_s    49.6 / -     26.4 / -     22.3 / -     23.1  0.73 / -
iq2_xs   49.3 / -     24.6 / -     22.0 / -     22.3  0.72 / -
iq2_xxs  49.2 / -     24.8 / -     19.0 / -     19.8  0.57 / -
iq1_m    48.5 / -     21.3 / -     20.0 / -     19.9  0.57 / -
iq1_s    48.5 / -     21.5 / -     19.8 / -     19.8  0.48 / -
=======  ===========  ===========  ===========  ====  ===========

So at run time the adapter is exact on every type, and what is lost is the type's own quantisation. Merging rounds once
more: up to 3.5 dB. A ternary type (tq1_0, tq2_0) cannot hold these random weights at all, with or without LoRA. The
engine cannot write the iq1, iq2 and iq3 types while it runs (ggml has no from_float for them), so merging is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import lora_references
import numpy as np
import pytest
import tiny_model
from lora_images import cosine, draw, generate, image, of_type, psnr
from lora_references import Adapter, lora
from sdcli import THREADS, Pixels
from tiny_model import TinyModel

from sdcffi import Engine, LoraError, convert


@dataclass(frozen=True)
class Quality:
    """The least that a weight type must reach: dB from `sum`, `sum again` and `merged`, and the cosine."""

    sum: float
    again: float
    merged: float
    cosine: float


TYPES = {
    "f32": Quality(54, 99, 53, 0.99),
    "bf16": Quality(52, 99, 52, 0.99),
    "q8_0": Quality(48, 99, 48, 0.99),
    "q6_K": Quality(46, 46, 42, 0.98),
    "q5_1": Quality(48, 38, 36, 0.98),
    "q5_0": Quality(48, 40, 36, 0.97),
    "q5_K": Quality(46, 40, 36, 0.98),
    "q4_1": Quality(47, 34, 33, 0.94),
    "q4_0": Quality(48, 35, 30, 0.92),
    "q4_K": Quality(46, 38, 31, 0.94),
    "iq4_nl": Quality(48, 36, 32, 0.94),
    "iq4_xs": Quality(46, 37, 31, 0.94),
    "mxfp4": Quality(48, 99, 30, 0.90),
    "nvfp4": Quality(47, 99, 30, 0.90),
    "q3_K": Quality(46, 31, 26, 0.86),
    "q2_K": Quality(46, 26, 22, 0.67),
    "tq1_0": Quality(44, 99, 14, 0.05),
    "tq2_0": Quality(44, 99, 14, 0.05),
}
UNMERGEABLE = ["iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"]
LEAST_SUM = 44.0  # dB, for each of these


@dataclass(frozen=True)
class Wide:
    """The tiny model with rows of 256, a LoRA for it, and the images of the float model."""

    model: TinyModel
    adapter: Adapter
    file: Path
    merged: TinyModel
    base_image: Pixels
    merged_image: Pixels

    def summed(self, type: str) -> TinyModel:
        """The model of a weight type, its weights read back into float32 and the LoRA added."""
        quantised = of_type(self.model, type).diffusion_model
        path = convert(quantised, self.file.with_name(f"{type}.safetensors"), type="f32")
        return self.adapter.merge(replace(self.model, diffusion_model=path), path)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Wide:
    directory = tmp_path_factory.mktemp("wide")
    model = lora_references.wide_model(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "HIDDEN", lora_references.WIDE_HIDDEN)
        adapter = lora()
    merged = adapter.merge(model, directory / "merged.safetensors")
    file = adapter.write(directory / "lora.safetensors")
    return Wide(model, adapter, file, merged, draw(model), draw(merged))


@pytest.mark.filterwarnings("ignore::sdcffi.LoraQualityWarning")
@pytest.mark.slow
@pytest.mark.parametrize("type", TYPES)
def test_lora_on_each_weight_type(type: str, wide: Wide) -> None:
    least, model, summed = TYPES[type], of_type(wide.model, type), wide.summed(type)
    merged_image = draw(of_type(wide.merged, type))
    exact = {
        "at_runtime": (draw(summed), least.sum),
        "immediately": (draw(summed if type == "f32" else summed.quantised(type)), least.again),
    }
    for mode, (reference, least_exact) in exact.items():
        with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", lora_apply_mode=mode) as engine:
            before, result, after = generate(engine), generate(engine, wide.file), generate(engine)
        base, drawn = before.arrays[0], result.arrays[0]
        assert result.loras[0].types == (type,)
        assert np.array_equal(base, after.arrays[0])
        assert psnr(drawn, reference) > least_exact
        assert psnr(drawn, merged_image) > least.merged
        assert cosine((base, drawn), (wide.base_image, wide.merged_image)) > least.cosine


@pytest.mark.filterwarnings("ignore::sdcffi.LoraQualityWarning")
@pytest.mark.slow
@pytest.mark.parametrize("type", UNMERGEABLE)
def test_type_that_ggml_cannot_write_works_at_runtime_only(type: str, wide: Wide) -> None:
    model = of_type(wide.model, type)
    summed_image = draw(wide.summed(type))
    assert psnr(draw(model, wide.file, lora_apply_mode="at_runtime"), summed_image) > LEAST_SUM
    with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", lora_apply_mode="immediately") as engine:
        with pytest.raises(LoraError, match=rf"merged into {type} weights.*at_runtime"):
            image(engine, wide.file)
        assert image(engine).std() > 1, "the engine goes on working"
