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
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file
from sdcli import THREADS, Pixels
from tiny_model import TinyModel

from sdcffi import Engine, Log, Lora, LoraError, LoraWarning
from sdcffi.images.compare import compare

OpenEngine = Callable[..., Engine]
Tensors = dict[str, npt.NDArray[Any]]
STORED = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}

DRAW: dict[str, Any] = {
    "prompt": "a cat", "width": 64, "height": 64, "steps": 4, "seed": 42, "cfg_scale": 1.0,
}  # fmt: skip
MODES = ["auto", "at_runtime", "immediately"]
LEAST_FLOAT = {"f16": 54.0, "q8_0": 47.0, "q4_0": 30.0}  # dB, about 4 below the worst of the table
LEAST_MERGED = {"f16": 54.0, "q8_0": 49.0, "q4_0": 33.0}
MOST_NONE = 25.0  # the LoRA's effect is far larger than every error above


def draw(model: TinyModel, loras: tuple[Lora, ...] = (), **keywords: Any) -> Pixels:
    with Engine(**model.engine_arguments(), threads=THREADS, backend="cpu", **keywords) as engine:
        return engine.generate(**DRAW, loras=loras).arrays[0]


def merge(model: TinyModel, loras: tuple[Lora, ...], path: Path) -> TinyModel:
    """Write `model` with the adapters merged into its weights in float32, rounded to f16 as the model is."""
    weights = load_file(model.diffusion_model)
    for lora in loras:
        for name, delta in deltas(read(Path(lora.path))).items():
            key = f"model.{name}.weight"
            weights[key] = (weights[key].astype(np.float32) + lora.multiplier * delta).astype(np.float16)
    save_file(weights, path)
    return TinyModel(diffusion_model=path, llm=model.llm, taesd=model.taesd, lora=model.lora)


def deltas(lora: Tensors) -> Tensors:
    """The adapter's ``alpha / rank * B @ A`` by module name."""
    result: Tensors = {}
    for name in (key.removesuffix(".alpha") for key in lora if key.endswith(".alpha")):
        down, up = (lora[f"{name}.lora_{side}.weight"].astype(np.float32) for side in "AB")
        result[name] = lora[f"{name}.alpha"] / len(down) * (up @ down)
    return result


def read(path: Path) -> Tensors:
    """Read an adapter; bfloat16, which numpy lacks, is widened to float32."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    result: Tensors = {}
    for name, entry in header.items():
        values = np.frombuffer(data[slice(*entry["data_offsets"])], STORED[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        result[name] = values.reshape(entry["shape"])
    return result


def write(tensors: Tensors, path: Path, dtype: str) -> Path:
    """Write an adapter with all tensors as F32, F16 or BF16 (cut off, not rounded)."""
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        if dtype == "BF16":
            values = np.asarray(values, np.float32).view(np.uint32) >> 16
        raw = values.astype(STORED[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


@pytest.fixture(scope="module")
def lora(tiny_model: TinyModel) -> Lora:
    return Lora(tiny_model.lora)


@pytest.fixture(scope="module")
def merged(tiny_model: TinyModel, lora: Lora, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return merge(tiny_model, (lora,), tmp_path_factory.mktemp("merged") / "merged.safetensors")


@pytest.fixture(scope="module")
def references(merged: TinyModel, models: dict[str, TinyModel]) -> dict[str, dict[str, Pixels]]:
    """Pictures by weight type: of the merged model, and of the model without the LoRA."""
    merged_models = {name: merged if name == "f16" else merged.quantised(name) for name in models}
    return {name: {"merged": draw(merged_models[name]), "none": draw(models[name])} for name in models}


@pytest.mark.filterwarnings("ignore::sdcffi.LoraQualityWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", ["f16", "q8_0", pytest.param("q4_0", marks=pytest.mark.slow)])
def test_lora_draws_as_the_merged_model(
    type: str, mode: str, models: dict[str, TinyModel], lora: Lora, references: dict[str, dict[str, Pixels]]
) -> None:
    picture = draw(models[type], (lora,), lora_apply_mode=mode)
    assert compare(picture, references["f16"]["merged"]).psnr > LEAST_FLOAT[type]
    assert compare(picture, references[type]["merged"]).psnr > LEAST_MERGED[type]
    assert compare(picture, references[type]["none"]).psnr < MOST_NONE


def test_auto_mode_is_at_runtime_on_quantised_weights(models: dict[str, TinyModel], lora: Lora) -> None:
    auto, runtime = (draw(models["q8_0"], (lora,), lora_apply_mode=mode) for mode in ("auto", "at_runtime"))
    assert np.array_equal(auto, runtime)


@pytest.mark.parametrize("mode", MODES)
def test_lora_on_a_model_quantised_while_loading(
    mode: str, tiny_model: TinyModel, lora: Lora, references: dict[str, dict[str, Pixels]]
) -> None:
    picture = draw(tiny_model, (lora,), lora_apply_mode=mode, tensor_type_rules="double_blocks|single_blocks=q8_0")
    assert compare(picture, references["f16"]["merged"]).psnr > LEAST_FLOAT["q8_0"]


@pytest.mark.parametrize("mode", ["at_runtime", "immediately"])
@pytest.mark.parametrize("multiplier", [pytest.param(0.5, marks=pytest.mark.slow), -0.7])
def test_multiplier_scales_the_lora(
    multiplier: float, mode: str, tiny_model: TinyModel, lora: Lora, tmp_path: Path
) -> None:
    scaled = Lora(lora.path, multiplier)
    reference = draw(merge(tiny_model, (scaled,), tmp_path / "merged.safetensors"))
    assert compare(draw(tiny_model, (scaled,), lora_apply_mode=mode), reference).psnr > LEAST_FLOAT["f16"]


def test_several_loras_add_up(models: dict[str, TinyModel], lora: Lora, tmp_path: Path) -> None:
    negated = {name: -values if "lora_B" in name else values for name, values in read(Path(lora.path)).items()}
    other = write(negated, tmp_path / "other.safetensors", "F16")
    both = (Lora(lora.path, 0.9), Lora(other, 0.3))
    reference = draw(merge(models["f16"], both, tmp_path / "merged.safetensors"))
    assert compare(draw(models["q8_0"], both), reference).psnr > LEAST_FLOAT["q8_0"]


@pytest.mark.parametrize("dtype", ["F32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("F16", "BF16"))])
def test_lora_file_may_be_of_each_float_type(
    dtype: str, models: dict[str, TinyModel], lora: Lora, tmp_path: Path
) -> None:
    tensors = read(Path(lora.path))
    tensors |= {name: np.array(2, np.float32) for name in tensors if name.endswith(".alpha")}  # scale 2 / rank = 0.5
    typed = (Lora(write(tensors, tmp_path / "lora.safetensors", dtype)),)
    reference = draw(merge(models["f16"], typed, tmp_path / "merged.safetensors"))
    assert compare(draw(models["q8_0"], typed, lora_apply_mode="at_runtime"), reference).psnr > LEAST_FLOAT["q8_0"]
    assert compare(draw(models["q8_0"], typed, lora_apply_mode="immediately"), reference).psnr > LEAST_FLOAT["q8_0"]


def test_lora_leaves_nothing_behind_at_runtime(
    open_engine: OpenEngine, models: dict[str, TinyModel], lora: Lora
) -> None:
    engine = open_engine(models["q8_0"], lora_apply_mode="at_runtime")
    before, with_lora, zero, after = (
        engine.generate(**DRAW, loras=loras).arrays[0] for loras in ((), [lora], [Lora(lora.path, 0.0)], ())
    )
    assert compare(before, with_lora).psnr < MOST_NONE
    assert np.array_equal(before, after)
    assert np.array_equal(before, zero)


@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_lora_is_taken_back_in_immediate_mode(
    type: str, open_engine: OpenEngine, models: dict[str, TinyModel], lora: Lora
) -> None:
    engine = open_engine(models[type], lora_apply_mode="immediately")
    before, _, after = (engine.generate(**DRAW, loras=loras).arrays[0] for loras in ((), [lora], ()))
    assert compare(before, after).psnr > LEAST_MERGED[type]  # rounded twice, so not bit for bit


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (Lora("missing.safetensors"), LoraError, "missing.safetensors does not exist"),
        (Lora("."), LoraError, "not a file"),
        (Lora(__file__, float("nan")), ValueError, "nan"),
        (Lora(__file__, float("inf")), ValueError, "inf"),
        (Lora(__file__, "1"), TypeError, "'1'"),  # type: ignore[arg-type]
    ],
    ids=["missing", "directory", "nan", "inf", "text"],
)
def test_bad_lora_is_refused_before_native_code_runs(
    bad: Lora, error: type[Exception], text: str, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    log: list[Log] = []
    engine = open_engine(tiny_model)
    with pytest.raises(error, match=text):
        engine.generate(**DRAW, loras=[bad], on_log=log.append)
    assert log == []
    assert engine.generate(**DRAW).arrays[0].std() > 10, "the engine goes on working"


def test_lora_given_twice_is_refused(open_engine: OpenEngine, tiny_model: TinyModel, lora: Lora) -> None:
    with pytest.raises(ValueError, match="twice"):
        open_engine(tiny_model).generate(**DRAW, loras=[lora, Lora(lora.path, 0.5)])


@pytest.mark.parametrize("mode", ["at_runtime", "immediately"])
def test_unused_tensors_are_logged_and_not_printed(
    mode: str,
    open_engine: OpenEngine,
    tiny_model: TinyModel,
    lora: Lora,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tensors = read(Path(lora.path))
    tensors["diffusion_model.double_blocks.0.img_attn.proj.unheard_of"] = np.ones(4, np.float32)
    engine = open_engine(tiny_model, lora_apply_mode=mode)
    log: list[Log] = []
    with pytest.warns(LoraWarning, match="unheard_of"):
        engine.generate(**DRAW, loras=[Lora(write(tensors, tmp_path / "l.safetensors", "F32"))], on_log=log.append)
    assert [line for line in log if line.level == "warn" and "unheard_of" in line.text]
    assert capfd.readouterr() == ("", "")
