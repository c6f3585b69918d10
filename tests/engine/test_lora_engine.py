"""Adapters in the engine: what is counted, refused, remembered and taken back."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel
from torch_files import write_torch

from sdcffi import Engine, Log, Lora, LoraError, LoraQualityWarning, LoraWarning, Progress, SDError

OpenEngine = Callable[..., Engine]
Pixels = npt.NDArray[np.uint8]
MODES = ["at_runtime", "immediately"]
DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
PROJECTION = "diffusion_model.double_blocks.0.img_attn.proj"


def adapter(path: Path, down: int = 128, up: int = 128, name: str = PROJECTION) -> Path:
    """Write an adapter of rank 4 for one projection."""
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {
        f"{name}.lora_A.weight": rng.standard_normal((4, down)).astype(np.float32) / 8,
        f"{name}.lora_B.weight": rng.standard_normal((up, 4)).astype(np.float32) / 8,
    }
    save_file(tensors, str(path))
    return path


def test_the_result_counts_what_was_applied(open_engine: OpenEngine, models: dict[str, TinyModel]) -> None:
    model = models["q8_0"]
    (report,) = open_engine(model).generate(**DRAW, loras=[(model.lora, 0.5)]).loras
    assert (report.path, report.multiplier, report.mode) == (str(model.lora), 0.5, "at_runtime")
    assert report.applied == report.total == len(load_file(model.lora))
    assert report.skipped == report.misfits == ()
    assert report.types == ("q8_0",)
    assert str(report) == f"{model.lora}: applied {report.total} of {report.total} tensors, mode at_runtime"


@pytest.mark.parametrize("mode", MODES)
def test_tensors_that_the_model_lacks_are_a_warning_with_counts_and_names(
    mode: str, open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    tensors = dict(load_file(tiny_model.lora))
    for side, shape in (("A", (4, 128)), ("B", (128, 4))):
        tensors[f"diffusion_model.double_blocks.99.img_attn.proj.lora_{side}.weight"] = np.ones(shape, np.float16)
    save_file(tensors, str(tmp_path / "partly.safetensors"))
    engine = open_engine(tiny_model, lora_apply_mode=mode)
    with pytest.warns(LoraWarning, match=r"12 of 14 tensors were applied, not .*double_blocks\.99"):
        result = engine.generate(**DRAW, loras=[tmp_path / "partly.safetensors"])
    (report,) = result.loras
    assert (report.applied, report.total, len(report.skipped)) == (12, 14, 2)
    whole = engine.generate(**DRAW, loras=[tiny_model.lora])
    assert np.array_equal(result.arrays[0], whole.arrays[0])


UNUSABLE = [
    pytest.param({"down": 96}, r"does not fit the model: .*proj\.weight: .*96 columns.*\(128, 128\)", id="inputs"),
    pytest.param({"up": 256}, r"does not fit the model: .*proj\.weight: .* shape \(128, 128\)", id="outputs"),
    pytest.param(
        {"name": "lora_unet_input_blocks_1_1_proj_in"}, "none of its 2 tensors matches this model", id="architecture"
    ),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "message"), UNUSABLE)
def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(
    shape: dict[str, Any], message: str, mode: str, open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = adapter(tmp_path / "misfit.safetensors", **shape)
    engine = open_engine(tiny_model, lora_apply_mode=mode)
    base = engine.generate(**DRAW).arrays[0]
    steps: list[Progress] = []
    with pytest.raises(LoraError, match=message) as caught:
        engine.generate(**DRAW, loras=[tiny_model.lora, path], on_progress=steps.append)
    assert str(path) in str(caught.value)
    assert not [step for step in steps if step.phase == "sample"]
    assert np.array_equal(engine.generate(**DRAW).arrays[0], base)
    with pytest.warns(LoraWarning, match="is left out"):
        drawn = engine.generate(**DRAW, loras=[path], strict=False)
    assert np.array_equal(drawn.arrays[0], base)
    assert drawn.loras == ()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", ["q8_0", *(pytest.param(type, marks=pytest.mark.slow) for type in ("f16", "q4_0"))])
def test_base_after_other_adapters_is_the_first_picture_bit_for_bit(
    type: str, mode: str, open_engine: OpenEngine, models: dict[str, TinyModel], tmp_path: Path
) -> None:
    engine = open_engine(models[type], lora_apply_mode=mode)
    one, other = models[type].lora, adapter(tmp_path / "other.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoraQualityWarning)
        base, first, _, both, again, zero, after = (
            engine.generate(**DRAW, loras=loras).arrays[0]
            for loras in ((), [one], [(other, -2.0)], [one, other], [one], [(one, 0.0)], ())
        )
    assert not np.array_equal(base, first)
    assert not np.array_equal(first, both)
    assert np.array_equal(first, again)
    assert np.array_equal(base, zero) or (type, mode) == ("q4_0", "immediately")  # which merging rounds again
    assert np.array_equal(base, after)


def lines(engine: Engine, pattern: str, **keywords: Any) -> int:
    log: list[Log] = []
    engine.generate(**DRAW, **keywords, on_log=log.append)
    return sum(pattern in line.text for line in log)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_read_once_and_again_when_it_changed(
    mode: str, open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = adapter(tmp_path / "one.safetensors")
    engine = open_engine(tiny_model, lora_apply_mode=mode)
    assert lines(engine, "loading LoRA from", loras=[path]) > 0
    assert lines(engine, "loading LoRA from", loras=[path]) == 0
    assert lines(engine, "loading LoRA from", loras=[(path, 0.5)]) == 0
    before = engine.generate(**DRAW, loras=[path]).arrays[0]
    tensors = {name: 2 * tensor for name, tensor in load_file(path).items()}
    save_file(tensors, str(path))
    os.utime(path, ns=(1, 1))  # another time, whatever the file system's clock resolves
    assert lines(engine, "loading LoRA from", loras=[path]) > 0
    assert not np.array_equal(engine.generate(**DRAW, loras=[path]).arrays[0], before)


@pytest.mark.parametrize("mode", ["immediately", "at_runtime"])
def test_a_file_of_pytorch_is_applied_as_its_safetensors(
    mode: str, open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    tensors = {name: np.asarray(tensor) for name, tensor in load_file(tiny_model.lora).items()}
    tensors |= {name.replace("lora_A.weight", "alpha"): np.array(3, np.float32) for name in tensors if "lora_A" in name}
    save_file(tensors, str(tmp_path / "same.safetensors"))
    path = write_torch(tensors, tmp_path / "lora.pt")
    engine = open_engine(tiny_model, lora_apply_mode=mode)
    expected = engine.generate(**DRAW, loras=[tmp_path / "same.safetensors"])
    result = engine.generate(**DRAW, loras=[path])
    assert result.loras[0].applied == result.loras[0].total == len(tensors)
    assert np.array_equal(result.arrays[0], expected.arrays[0])
    assert not np.array_equal(result.arrays[0], engine.generate(**DRAW, loras=[tiny_model.lora]).arrays[0])


def test_an_unchanged_set_is_neither_read_nor_merged_again(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, lora_apply_mode="immediately")
    assert lines(engine, "LoRA merged into", loras=[tiny_model.lora]) > 0
    assert lines(engine, "LoRA merged into", loras=[tiny_model.lora]) == 0
    assert lines(engine, "loading tensors", loras=[tiny_model.lora]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_set_reads_no_more_than_the_weights_that_it_changes(
    open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    engine = open_engine(tiny_model, lora_apply_mode="immediately")
    one = adapter(tmp_path / "one.safetensors")

    def bytes_read(loras: list[Any]) -> int:
        def read() -> int:
            return int(Path(f"/proc/{engine.pid}/io").read_text().split()[1])

        before = read()
        engine.generate(**DRAW, loras=loras)
        return read() - before

    engine.generate(**DRAW, loras=[one])
    assert max(map(bytes_read, ([], [one], [tiny_model.lora], []))) < 1_000_000 < tiny_model.llm.stat().st_size / 10


def test_the_cache_keeps_no_more_than_its_limit(open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path) -> None:
    paths = [adapter(tmp_path / f"{index}.safetensors") for index in range(2)]
    engine = open_engine(tiny_model, lora_apply_mode="at_runtime", lora_cache=0)
    engine.generate(**DRAW, loras=[paths[0]])
    engine.generate(**DRAW, loras=[paths[1]])
    assert lines(engine, "loading LoRA from", loras=[paths[0]]) > 0, "the first file was kept beyond the limit"


def test_auto_mode_looks_at_the_weights_really_loaded(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    def mode(**keywords: Any) -> str:
        return open_engine(tiny_model, **keywords).generate(**DRAW, loras=[tiny_model.lora]).loras[0].mode

    assert mode() == "immediately"
    assert mode(type="q8_0") == "at_runtime"
    assert mode(tensor_type_rules="img_attn=q8_0") == "at_runtime"


def test_cancelling_while_merging_leaves_no_trace(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, lora_apply_mode="immediately")
    base, merged = (engine.generate(**DRAW, loras=loras).arrays[0] for loras in ((), [tiny_model.lora]))

    def stop(progress: Progress) -> None:
        if progress.phase in ("lora", "sample"):
            raise KeyboardInterrupt

    for loras in ([(tiny_model.lora, 3.0)], ()):
        with pytest.raises(KeyboardInterrupt):
            engine.generate(**DRAW, loras=loras, on_progress=stop)
        assert np.array_equal(engine.generate(**DRAW).arrays[0], base)
        assert np.array_equal(engine.generate(**DRAW, loras=[tiny_model.lora]).arrays[0], merged)


def test_a_standing_set_is_used_until_a_call_names_its_own(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model)
    base, with_lora = (engine.generate(**DRAW, loras=loras).arrays[0] for loras in ((), [tiny_model.lora]))
    engine.set_loras([tiny_model.lora])
    assert np.array_equal(engine.generate(**DRAW).arrays[0], with_lora)
    assert np.array_equal(engine.generate(**DRAW, loras=[]).arrays[0], base)
    with pytest.raises(LoraError, match="missing"):
        engine.set_loras(["missing.safetensors"])
    assert np.array_equal(engine.generate(**DRAW).arrays[0], with_lora)
    engine.set_loras([])
    assert np.array_equal(engine.generate(**DRAW).arrays[0], base)


def test_a_tag_in_the_prompt_is_the_same_as_the_argument(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, lora_dir=tiny_model.lora.parent)
    named = engine.generate(**DRAW, loras=[Lora("lora", 0.5)])
    tagged = engine.generate(**{**DRAW, "prompt": "a cat<lora:lora:0.5>"})
    assert np.array_equal(named.arrays[0], tagged.arrays[0])
    assert tagged.parameters.prompt == "a cat"
    untouched = engine.generate(**{**DRAW, "prompt": "a cat<lora:lora:0.5>"}, lora_tags=False)
    assert untouched.loras == ()
    assert untouched.parameters.prompt == "a cat<lora:lora:0.5>"


def test_checking_tells_what_would_apply_and_changes_nothing(
    open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    engine = open_engine(tiny_model, lora_apply_mode="immediately")
    base = engine.generate(**DRAW).arrays[0]
    good, bad = engine.check_loras([tiny_model.lora, adapter(tmp_path / "bad.safetensors", down=96)])
    assert (good.applied, good.total, good.misfits) == (12, 12, ())
    assert bad.misfits
    assert np.array_equal(engine.generate(**DRAW).arrays[0], base)


def test_coarse_weights_are_told_of_once(open_engine: OpenEngine, models: dict[str, TinyModel]) -> None:
    engine = open_engine(models["q4_0"])
    with pytest.warns(LoraQualityWarning, match=r"34 dB \(q4_K\) to 22 dB"):
        engine.generate(**DRAW, loras=[models["q4_0"].lora])
    engine.generate(**DRAW, loras=[models["q4_0"].lora])  # a second warning would be an error here


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ({"lora_dir": "/does/not/exist"}, ValueError, "does not exist"),
        ({"lora_cache": -1}, ValueError, "lora_cache must be from 0 to"),
        ({"lora_cache": 1 << 80}, ValueError, "lora_cache must be from 0 to 9223372036854775807"),
        ({"lora_cache": None}, TypeError, "lora_cache must be an integer, not None"),
    ],
)
def test_bad_lora_options_are_refused(
    argument: dict[str, Any], error: type[Exception], message: str, tiny_model: TinyModel
) -> None:
    with pytest.raises(error, match=message):
        Engine(**tiny_model.engine_arguments(), **argument)


def test_without_weights_an_engine_checks_and_does_not_draw(
    open_engine: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    engine = open_engine(tiny_model, load_weights=False, type="q8_0")
    good, bad = engine.check_loras([tiny_model.lora, adapter(tmp_path / "bad.safetensors", down=96)])
    assert (good.applied, good.total, good.types, good.mode) == (12, 12, ("q8_0",), "at_runtime")
    assert bad.misfits
    with pytest.raises(SDError, match="without weights"):
        engine.generate(**DRAW)
