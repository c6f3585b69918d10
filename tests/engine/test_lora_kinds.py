"""Each kind of LoRA, on each weight type, draws the picture of the model merged in numpy.

PSNR in dB at 64x64 (2 steps, seed 42, CPU) of the picture drawn with a LoRA.

Kinds, on the tiny model: from the float model merged in numpy (`float`), and for q8_0 also from that model converted to
q8_0 (`conv`); `none` is the merged model's distance from the picture without LoRA.

==================  ========  =======  ======================  ======================  ====
kind                f16                q8_0, at_runtime        q8_0, immediately
------------------  -----------------  ----------------------  ----------------------  ----
..                  at_run.   immed.   float       conv        float       conv        none
==================  ========  =======  ==========  ==========  ==========  ==========  ====
lora                    58.1      inf        52.7        53.5        52.3        53.0  26.1
lora-rank-1             58.4      inf        52.9        53.6        52.2        53.4  29.1
lora-ranks-1-..-32      58.5      inf        52.4        53.8        51.7        53.3  28.9
lora-q                  58.3      inf        52.7        55.8        52.5        56.2  40.7
diff                     inf      inf        52.7        53.5        51.8        54.0  26.3
loha, loha-alpha         inf      inf        53.2        53.7        52.1        52.9  27.1
loha-rank-1              inf      inf        52.2        53.3        51.4        53.4  25.3
lokr                     inf      inf        52.9        54.4        52.0        54.0  26.2
lokr-w1-split            inf      inf        53.1        53.4        52.6        53.4  25.6
lokr-w2-split            inf      inf        53.2        53.5        52.4        53.5  24.9
lokr-both-split          inf      inf        53.2        53.9        52.5        53.8  24.4
==================  ========  =======  ==========  ==========  ==========  ==========  ====

Other names (kohya) and the precision of the file (f32, f16, bf16) change nothing. Two and three parts of a stacked
query, key and value (lora-qk, lora-qkv) lie within 1 dB of lora-q, apart from `none` (39.4 and 36.9).

Weight types, on the tiny model with rows of 256, plain LoRA of rank 4. `exact` is what the mode computes, made in
numpy: at run time the type's own weights, read back, plus the difference, in float32 (`sum`), and merged that sum
converted again to the type (`sum again`). `merged` is the float model merged and then converted, `float` is the float
model merged, `base` is what the type costs without any LoRA, and `cos` is the cosine between what the LoRA changes in
the pictures of this type and of the float model. All stand as at_runtime / immediately.

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

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import lora_references
import numpy as np
import pytest
import tiny_model
from lora_references import Adapter, kohya, lora, merge, q8_0
from sdcli import THREADS, Pixels
from tiny_model import TinyModel

from sdcffi import Engine, ImageParams, LoraError, LoraWarning, Result, SampleParams, convert
from sdcffi.images.compare import compare
from sdcffi.params.lora import LoraLike

# Noise levels that 2026-05 takes by itself. Newer engines take others, and would not be held to the same numbers.
NOISE_LEVELS = ImageParams(sample_params=SampleParams(custom_sigmas=[1, 0.0070589385, 0]))
DRAW: dict[str, Any] = {
    "prompt": "a cat", "width": 64, "height": 64, "steps": 2, "seed": 42, "cfg_scale": 1.0, "params": NOISE_LEVELS,
}  # fmt: skip
MODES = ["at_runtime", "immediately"]
OpenEngine = Callable[[str, str], Engine]

KINDS: dict[str, Callable[[], Adapter]] = {
    "lora": lora,
    "lora-kohya": lambda: lora(names=kohya),
    "lora-no-alpha": lambda: lora(alpha=None),
    "lora-rank-1": lambda: lora(ranks=(1,), alpha=0.5),
    "lora-ranks-1-2-8-32": lambda: lora(ranks=(1, 2, 8, 32)),
    "lora-q": lambda: lora_references.split_qkv(parts="q"),
    "lora-qk": lambda: lora_references.split_qkv(parts="qk"),
    "lora-qkv": lora_references.split_qkv,
    "diff": lora_references.full_difference,
    "loha": lora_references.loha,
    "loha-alpha": lambda: lora_references.loha(alpha=2.0),
    "loha-rank-1": lambda: lora_references.loha(rank=1, alpha=0.5),
    "lokr": lora_references.lokr,
    "lokr-idle-alpha": lambda: lora_references.lokr(alpha=2.0),
    "lokr-w1-split": lambda: lora_references.lokr(low_rank="w1", alpha=2.0),
    "lokr-w2-split": lambda: lora_references.lokr(low_rank="w2"),
    "lokr-both-split": lambda: lora_references.lokr(low_rank="w1 w2", alpha=2.0),
    "lokr-rank-1": lambda: lora_references.lokr(low_rank="w2", rank=1, alpha=0.5),
}
# These differ from the other kinds in names and scales only.
SCALES = {"lora-kohya", "lora-no-alpha", "lora-ranks-1-2-8-32", "lora-qk", "loha", "loha-rank-1", "lokr-idle-alpha"}
LEAST = {"f16": 54.0, "q8_0": 48.0}  # dB against the float model merged in numpy: 4 below the worst of the table
MOST_NONE = 42.0  # dB against no LoRA: above the kind that changes least


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


def kinds_and_types() -> list[Any]:
    return [
        pytest.param(kind, type, marks=pytest.mark.slow if kind in SCALES else ())
        for kind in KINDS
        for type in ("f16", "q8_0")
    ]


def of_type(model: TinyModel, type: str) -> TinyModel:
    return model if type == "f16" else model.quantised(type)


def generate(engine: Engine, *loras: LoraLike) -> Result:
    return engine.generate(**DRAW, loras=loras)


def picture(engine: Engine, *loras: LoraLike) -> Pixels:
    return generate(engine, *loras).arrays[0]


def draw(model: TinyModel, *loras: LoraLike, **keywords: Any) -> Pixels:
    with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", **keywords) as engine:
        return picture(engine, *loras)


def psnr(one: Pixels, other: Pixels) -> float:
    return compare(one, other).psnr


def cosine(one: tuple[Pixels, Pixels], other: tuple[Pixels, Pixels]) -> float:
    """How far two changes, each from one picture to another, point the same way."""
    a, b = ((new.astype(np.float64) - old).ravel() for old, new in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.fixture(scope="module")
def engine_of(models: dict[str, TinyModel]) -> Iterator[OpenEngine]:
    """The engine of a weight type and an apply mode, opened once for this module."""
    with ExitStack() as stack:

        @cache
        def engine_of(type: str, mode: str) -> Engine:
            arguments = models[type].engine_arguments()
            return stack.enter_context(Engine(**arguments, threads=THREADS, backend="cpu", lora_apply_mode=mode))

        yield engine_of


@pytest.fixture(scope="module")
def base_of(engine_of: OpenEngine) -> Callable[[str, str], Pixels]:
    """The picture without LoRA of a weight type and an apply mode."""
    return cache(lambda type, mode: picture(engine_of(type, mode)))


@pytest.fixture(scope="module")
def merged(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pixels]:
    """The picture of the float model into which a kind of LoRA was merged in numpy."""
    directory = tmp_path_factory.mktemp("merged")
    return cache(lambda kind: draw(KINDS[kind]().merge(tiny_model, directory / f"{kind}.safetensors")))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "type"), kinds_and_types())
def test_kind_draws_as_the_merged_model(
    kind: str,
    type: str,
    mode: str,
    engine_of: OpenEngine,
    base_of: Callable[[str, str], Pixels],
    merged: Callable[[str], Pixels],
    tmp_path: Path,
) -> None:
    adapter = KINDS[kind]()
    result = generate(engine_of(type, mode), adapter.write(tmp_path / f"{kind}.safetensors"))
    assert psnr(result.arrays[0], merged(kind)) > LEAST[type]
    assert psnr(result.arrays[0], base_of(type, mode)) < MOST_NONE
    (report,) = result.loras
    assert (report.applied, report.total, report.skipped) == (len(adapter.tensors), len(adapter.tensors), ())
    assert (report.mode, report.types) == (mode, (type,))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["lora", "loha-alpha", "lokr-w2-split", "diff"])
@pytest.mark.parametrize("dtype", ["F16", pytest.param("BF16", marks=pytest.mark.slow)])
def test_half_precision_files_draw_as_the_merged_model(
    dtype: str, kind: str, mode: str, engine_of: OpenEngine, merged: Callable[[str], Pixels], tmp_path: Path
) -> None:
    file = KINDS[kind]().write(tmp_path / "half.safetensors", dtype)
    assert psnr(picture(engine_of("q8_0", mode), file), merged(kind)) > LEAST["q8_0"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", [pytest.param("f16", marks=pytest.mark.slow), "q8_0"])
def test_quantised_lora_file_draws_as_its_dequantised_factors(
    type: str, mode: str, engine_of: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    adapter = lora(ranks=(32,), rounding=q8_0)
    file = convert(adapter.write(tmp_path / "lora.safetensors"), tmp_path / "lora.gguf", type="q8_0")
    assert file.stat().st_size < sum(values.nbytes for values in adapter.tensors.values()) / 2
    reference = draw(adapter.merge(tiny_model, tmp_path / "merged.safetensors"))
    result = generate(engine_of(type, mode), file)
    assert psnr(result.arrays[0], reference) > LEAST[type]
    assert result.loras[0].applied == len(adapter.tensors)


# What the engine does not know, or one mode does not: it is said, and the rest is as merged.


@pytest.mark.parametrize("magnitude", ["dora_scale", "lora_magnitude_vector.weight"])
def test_dora_is_refused(magnitude: str, engine_of: OpenEngine, tmp_path: Path) -> None:
    file = lora_references.dora(magnitude).write(tmp_path / "dora.safetensors")
    with pytest.raises(LoraError, match="DoRA"):
        generate(engine_of("f16", "at_runtime"), file)


@pytest.mark.parametrize("mode", MODES)
def test_value_without_key_is_reported_as_skipped(
    mode: str, engine_of: OpenEngine, merged: Callable[[str], Pixels], tmp_path: Path
) -> None:
    file = lora_references.split_qkv(parts="qv").write(tmp_path / "qv.safetensors")
    with pytest.warns(LoraWarning, match="4 of 8.*qkv.weight.2"):
        result = generate(engine_of("f16", mode), file)
    assert psnr(result.arrays[0], merged("lora-q")) > LEAST["f16"]


def test_norm_differences_are_merged_or_refused(engine_of: OpenEngine, tiny_model: TinyModel, tmp_path: Path) -> None:
    adapter = lora_references.norm_difference()
    file = adapter.write(tmp_path / "norm.safetensors")
    reference = draw(adapter.merge(tiny_model, tmp_path / "merged.safetensors"))
    assert psnr(picture(engine_of("f16", "immediately"), file), reference) > LEAST["f16"]
    with pytest.raises(LoraError, match="0 of 4 tensors"):
        generate(engine_of("f16", "at_runtime"), file)


@pytest.mark.parametrize("mode", MODES)
def test_names_without_a_network_fit_nothing(mode: str, engine_of: OpenEngine, tmp_path: Path) -> None:
    file = lora(names=lora_references.lycoris).write(tmp_path / "lycoris.safetensors")
    with pytest.raises(LoraError, match="none of its 12 tensors"):
        generate(engine_of("f16", mode), file)


# Several.


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two LoRAs on the same modules."""
    return (lora(seed=1).write(tmp_path / "one.safetensors"), lora(seed=2).write(tmp_path / "two.safetensors"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", [pytest.param("f16", marks=pytest.mark.slow), "q8_0"])
def test_order_of_loras_does_not_matter(
    type: str, mode: str, engine_of: OpenEngine, tiny_model: TinyModel, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    engine, (one, two) = engine_of(type, mode), pair
    first, second = (picture(engine, *loras) for loras in (((one, 0.7), (two, -0.4)), ((two, -0.4), (one, 0.7))))
    adapters = [(lora(seed=1), 0.7), (lora(seed=2), -0.4)]
    reference = draw(merge(tiny_model, adapters, tmp_path / "merged.safetensors"))
    assert psnr(first, second) > LEAST[type]
    assert psnr(first, reference) > LEAST[type]
    assert psnr(first, picture(engine, (one, 0.7))) < MOST_NONE


# Weight types.


@dataclass(frozen=True)
class Wide:
    """The tiny model with rows of 256, a LoRA for it, and the pictures of the float model."""

    model: TinyModel
    adapter: Adapter
    file: Path
    merged: TinyModel
    base_picture: Pixels
    merged_picture: Pixels

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
    merged_picture = draw(of_type(wide.merged, type))
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
        assert psnr(drawn, merged_picture) > least.merged
        assert cosine((base, drawn), (wide.base_picture, wide.merged_picture)) > least.cosine


@pytest.mark.filterwarnings("ignore::sdcffi.LoraQualityWarning")
@pytest.mark.slow
@pytest.mark.parametrize("type", UNMERGEABLE)
def test_type_that_ggml_cannot_write_works_at_runtime_only(type: str, wide: Wide) -> None:
    model = of_type(wide.model, type)
    summed_picture = draw(wide.summed(type))
    assert psnr(draw(model, wide.file, lora_apply_mode="at_runtime"), summed_picture) > LEAST_SUM
    with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", lora_apply_mode="immediately") as engine:
        with pytest.raises(LoraError, match=rf"merged into {type} weights.*at_runtime"):
            picture(engine, wide.file)
        assert picture(engine).std() > 1, "the engine goes on working"
