"""The engine as its user sees it: arguments, events, errors, seeds, threads, closing."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_defaults import IMAGE, VIDEO
from safetensors.numpy import load_file, save_file
from tiny_model import TinyModel

from sdcffi import (
    ContextParams,
    Engine,
    ImageParams,
    Log,
    ModelLoadError,
    NativeAssertError,
    NativeError,
    Progress,
    SampleParams,
)
from sdcffi.params.names import flatten, parameters

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def engine(either: Engine) -> Engine:
    """Every test here holds for both modes."""
    return either


# Arguments: what is refused is in test_validate, and that it is refused through the engine in test_failure_map.


def test_what_only_the_engine_finds_wrong_is_an_error_with_its_log(
    tiny_model: TinyModel, isolated: bool, tmp_path: Path
) -> None:
    tensors = load_file(tiny_model.taesd)
    short = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.layers.0.")}
    assert len(short) < len(tensors)
    save_file(short, tmp_path / "taesd.safetensors")
    with pytest.raises(ModelLoadError, match="the model could not be loaded: ") as caught:
        Engine(**{**tiny_model.engine_arguments(), "taesd": tmp_path / "taesd.safetensors"}, isolated=isolated)
    assert any("not in model " in line for line in caught.value.log)  # "file", or "metadata"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.log) == (str(caught.value), caught.value.log)


def test_keywords_win_over_params_and_leave_their_other_fields(engine: Engine) -> None:
    params = ImageParams(width=32, height=32, sample_params=SampleParams(sample_steps=1, custom_sigmas=[1, 0.2, 0]))
    result = engine.generate("a cat", params=params, **DRAW)
    sample = result.parameters.sample_params
    assert result.arrays[0].shape == (64, 64, 3)
    assert sample is not None
    assert (sample.sample_steps, sample.custom_sigmas) == (2, [1, 0.2, 0])
    plain = engine.generate("a cat", **DRAW)
    assert not np.array_equal(result.arrays[0], plain.arrays[0]), "custom_sigmas were lost"


def test_context_params_reach_the_engine(engine: Engine, tiny_model: TinyModel, isolated: bool) -> None:
    def generate(**keywords: Any) -> np.ndarray[Any, Any]:
        with Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated, **keywords) as engine:
            return engine.generate("a cat", **DRAW).arrays[0]

    through_context = generate(context=ContextParams(wtype="q4_0"))
    assert np.array_equal(through_context, generate(type="q4_0"))
    assert not np.array_equal(through_context, engine.generate("a cat", **DRAW).arrays[0])


def test_the_environment_chooses_the_backend(
    tiny_model: TinyModel, isolated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCFFI_BACKEND", "abacus")
    with pytest.raises(ValueError, match=r"SDCFFI_BACKEND must be auto, .*; not 'abacus'"):
        Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated)
    with Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated, backend="cpu") as engine:
        assert engine.device.backend == "cpu"


# Pictures


def test_image_to_image_keeps_more_at_less_strength(engine: Engine) -> None:
    start = np.zeros((64, 64, 3), np.uint8)
    start[:, 32:] = 255

    def draw(strength: float, **more: Any) -> np.ndarray[Any, Any]:
        picture = engine.generate("a cat", **{**DRAW, "steps": 8}, init_image=start, strength=strength, **more)
        return picture.arrays[0].astype(float)

    assert not np.array_equal(draw(0.3), draw(0.9))
    mask = np.zeros((64, 64), np.uint8)
    assert not np.array_equal(draw(0.9, mask_image=mask), draw(0.9))


def test_a_rounded_size_comes_with_a_warning(engine: Engine) -> None:
    with pytest.warns(UserWarning, match="64x64, not 60x64"):
        result = engine.generate("a cat", **{**DRAW, "width": 60})
    assert result.arrays[0].shape == (64, 64, 3)


def test_a_seed_that_is_drawn_stands_in_the_result_and_repeats_it(engine: Engine) -> None:
    drawn = engine.generate("a cat", **{**DRAW, "seed": -1})
    other = engine.generate("a cat", **{**DRAW, "seed": None})
    assert drawn.seeds != other.seeds
    assert 0 <= drawn.seeds[0] < 1 << 32
    again = engine.generate("a cat", **{**DRAW, "seed": drawn.seeds[0]})
    assert np.array_equal(drawn.arrays[0], again.arrays[0])


def test_saving_writes_what_was_drawn_and_replaces_whole_files(engine: Engine, tmp_path: Path) -> None:
    from PIL import Image

    result = engine.generate("a cat", **DRAW, batch_count=2)
    old = tmp_path / "cat_0.png"
    old.write_text("old")
    paths = result.save(tmp_path / "cat.png")
    assert [path.name for path in paths] == ["cat_0.png", "cat_1.png"]
    for path, array in zip(paths, result.arrays, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), array)
    assert [path.name for path in result.save(tmp_path / "{seed}.webp")] == ["7.webp", "8.webp"]
    with pytest.raises(ValueError, match="does not have the ending of an image file"):
        result.save(tmp_path / "cat.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        result.save(tmp_path / "nowhere" / "cat.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7.webp", "8.webp", "cat_0.png", "cat_1.png"]


# Events


def test_loading_and_sampling_report_their_progress(tiny_model: TinyModel, isolated: bool) -> None:
    events: list[Progress] = []
    with Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated, on_progress=events.append) as engine:
        assert {event.phase for event in events} == {"load"}
        assert events[-1].step == events[-1].steps > 100
        events.clear()
        engine.generate("a cat", **{**DRAW, "steps": 3}, loras=[tiny_model.lora])
    sampling = [event.step for event in events if event.phase == "sample"]
    assert sampling[-3:] == [1, 2, 3]
    assert {event.phase for event in events} == {"lora", "encode", "sample", "decode"}


def test_log_lines_have_levels_and_go_to_the_call_first(tiny_model: TinyModel, isolated: bool) -> None:
    of_engine: list[Log] = []
    of_call: list[Log] = []
    with Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated, on_log=of_engine.append) as engine:
        before = len(of_engine)
        engine.generate("a cat", **DRAW, on_log=of_call.append)
        assert len(of_engine) == before
    assert {line.level for line in of_engine} >= {"debug", "info"}
    assert any("generate_image 64x64" in line.text for line in of_call)
    assert not any(line.text.endswith("\n") for line in of_call)


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt()])
def test_an_exception_in_a_callback_stops_the_call_and_comes_out(error: BaseException, engine: Engine) -> None:
    steps: list[int] = []
    before = engine.generate("a cat", **DRAW).arrays[0]

    def fail(progress: Progress) -> None:
        if progress.phase == "sample" and progress.step > 0:
            steps.append(progress.step)
            raise error

    with pytest.raises(type(error)) as caught:
        engine.generate("a cat", **{**DRAW, "steps": 50}, on_progress=fail)
    assert caught.value is error
    assert steps == [1], "a function was called again after it failed"
    assert np.array_equal(engine.generate("a cat", **DRAW).arrays[0], before), "the engine is not as before"


def test_an_engine_may_be_closed_in_a_callback_of_another(
    engine: Engine, tiny_model: TinyModel, isolated: bool
) -> None:
    other = Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated)
    alone = engine.generate("a cat", **DRAW).arrays[0]
    assert np.array_equal(engine.generate("a cat", **DRAW, on_progress=lambda _: other.close()).arrays[0], alone)


def test_an_exception_while_loading_comes_out(tiny_model: TinyModel, isolated: bool) -> None:
    def fail(_event: object) -> None:
        raise KeyError("mine")

    for name in ("on_log", "on_progress"):
        with pytest.raises(KeyError, match="mine"):
            Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated, **{name: fail})  # type: ignore[arg-type]
    with Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated) as engine:
        assert engine.generate("a cat", **DRAW).arrays


# Life


def test_an_engine_that_is_dropped_frees_its_model(tiny_model: TinyModel, isolated: bool) -> None:
    def least_after(count: int) -> int:
        """Drop engines; what glibc keeps of the memory of one that is gone differs from one to the next."""
        sizes = []
        for _ in range(count):
            pid = Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated).pid
            gc.collect()
            assert pid is None or not Path(f"/proc/{pid}").exists()
            ctypes.CDLL(None).malloc_trim(0)
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return min(sizes)

    before = least_after(4)
    assert least_after(4) - before < 52 << 20  # half of what four models take


def test_other_threads_run_while_the_engine_works(engine: Engine) -> None:
    worked = threading.Event()
    counts: list[int] = []

    def count() -> None:
        number = 0
        while not worked.is_set():
            number += 1
        counts.append(number)

    thread = threading.Thread(target=count)
    thread.start()
    engine.generate("a cat", **{**DRAW, "steps": 8})
    worked.set()
    thread.join()
    assert counts[0] > 100_000, "the interpreter lock was held"


def test_a_failed_assertion_is_an_exception(tiny_model: TinyModel, isolated: bool, unchecked: None) -> None:
    zeros = np.zeros((8, 8, 3), np.uint8)  # sides must be multiples of 16
    uneven = ImageParams(ref_images=[zeros], auto_resize_ref_image=False)
    with Engine(**tiny_model.engine_arguments(), threads=1, isolated=isolated) as engine:
        before = engine.generate("a cat", **DRAW).arrays[0]
        with pytest.raises(NativeAssertError, match="GGML_ASSERT"):
            engine.generate("a cat", **DRAW, params=uneven)
        if isolated:  # in a process of its own the model is loaded again
            assert np.array_equal(engine.generate("a cat", **DRAW).arrays[0], before)
        else:
            with pytest.raises(NativeError, match=r"the engine cannot be used after an error.*GGML_ASSERT"):
                engine.generate("a cat", **DRAW)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bad parameters through to the engine."""
    monkeypatch.setattr("sdcffi.engine.engine.check_image", lambda params, *_: params)


def test_a_whole_life_prints_nothing(tiny_model: TinyModel, isolated: bool) -> None:
    code = (
        "import sys; from sdcffi import Engine, convert\n"
        "isolated = sys.argv[6] == 'True'\n"
        "files = {'diffusion_model': sys.argv[1], 'llm': sys.argv[2], 'taesd': sys.argv[3]}\n"
        "log = []\n"
        "with Engine(**files, isolated=isolated, on_log=log.append) as engine:\n"
        "    engine.generate('a cat', width=64, height=64, steps=2, cfg_scale=2, batch_count=2, loras=[sys.argv[4]])\n"
        "assert not [line for line in log if line.level == 'warn' and '.cpp' not in line.text], log\n"  # nor the child
        "convert(sys.argv[1], sys.argv[5], type='q8_0', isolated=isolated)\n"
        "engine = Engine(**files, isolated=isolated)\n"  # left open at exit
    )
    model = tiny_model
    output = model.diffusion_model.parent / "printed-nothing.gguf"
    paths = [model.diffusion_model, model.llm, model.taesd, model.lora, output]
    run = subprocess.run(
        [sys.executable, "-c", code, *paths, str(isolated)], capture_output=True, check=False, timeout=120
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert output.is_file()


def test_a_warning_points_at_the_programs_own_line(shared: Engine) -> None:
    with pytest.warns(UserWarning, match="the result will be") as caught:
        shared.generate("a cat", width=60, height=64, steps=1, cfg_scale=1.0)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_defaults_that_tests_of_checks_use_are_the_librarys(shared: Engine) -> None:
    defaults = shared._opened.defaults
    for ours, library in ((IMAGE, defaults.image), (VIDEO, defaults.video)):
        values = flatten(library)
        for path, value in flatten(ours).items():
            assert values[path] == (pytest.approx(value) if isinstance(value, float) else value), path


_DESCRIBED = re.compile(r"^ {8}(\w+(?:, \w+)*) : .*\n((?: {12}.*\n|\n)+)", re.MULTILINE)


@pytest.mark.parametrize("call", [Engine.generate, Engine.generate_video])
def test_the_defaults_that_docstrings_name_are_the_librarys(call: Any, shared: Engine) -> None:
    defaults = shared._opened.defaults
    struct = defaults.image if call is Engine.generate else defaults.video
    values = {parameter.name: flatten(struct).get(parameter.path) for parameter in parameters(type(struct))}
    described = {}
    for names, text in _DESCRIBED.findall(call.__doc__):
        if number := re.search(r"None: the engine's (\d+(\.\d+)?)", " ".join(text.split())):
            described.update(dict.fromkeys(names.split(", "), float(number[1])))
    assert len(described) >= 2  # the model decides the others
    assert described == pytest.approx({name: values[name] for name in described})
