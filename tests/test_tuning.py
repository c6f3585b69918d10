"""What is measured to be fastest is stored, and used where it is asked for; nothing here asserts a time."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from leftovers import wait_until
from sdcli import Pixels, flags
from tiny_model import TinyModel

from sdcffi import (
    ContextParams,
    Engine,
    GenerationTimeoutError,
    OutOfMemoryError,
    Progress,
    SDError,
    cli,
    replay,
    tune,
    tuning,
)
from sdcffi._machine.devices import Device
from sdcffi._machine.limits import usable_cores
from sdcffi._models.architectures import Architecture
from sdcffi._models.files import Model
from sdcffi._records.digests import FileState
from sdcffi.engine.bench import Bench, Measured, Settings
from sdcffi.engine.tuned import TUNED, Subject, keep_choice, subject_of
from sdcffi.parameter_files import as_arguments
from sdcffi.tuning import _climb, _options, _thread_counts, _try

Capture = pytest.CaptureFixture[str]
DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def keywords(tiny_model: TinyModel) -> dict[str, Any]:
    return {**tiny_model.engine_arguments(), "backend": "cpu"}


def effective(engine: Engine) -> Settings:
    """What a picture's record tells of the settings that are tuned."""
    origin = engine.generate(**DRAW).origin
    assert origin is not None
    return {name: getattr(origin.resolved_context, field) for name, field in TUNED.items()}


DEFAULTS: Settings = {"precision": "exact"}
DEFAULTS |= {"fa": False, "diffusion_fa": False, "diffusion_conv_direct": False, "vae_conv_direct": False}
NEVER = time.monotonic() + 1e6
STORED: Settings = {"threads": usable_cores() + 1, "diffusion_fa": True}


@pytest.fixture(scope="module")
def tiny(tiny_model: TinyModel) -> Subject:
    """What a choice for the tiny model holds for."""
    with Engine(**tiny_model.engine_arguments(), backend="cpu", threads=1) as engine:
        origin = engine.generate(**DRAW).origin
    assert origin is not None
    return subject_of(origin.context, origin.states, origin.device, origin.build)


@pytest.fixture
def stored(tiny: Subject, cache: Path) -> Path:
    """A choice for the tiny model that is none of the defaults."""
    return keep_choice(tiny, STORED, [])


# Measuring


def test_the_tiny_model_is_measured_and_its_choice_used(
    keywords: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuning.Trial] = []
    monkeypatch.setattr(tuning, "usable_cores", lambda: 2)  # so that one thread is tried too
    monkeypatch.setattr(tuning, "usable_processors", lambda: 2)
    found = tune(**keywords, size=64, budget=60, on_trial=told.append)
    assert [trial.name for trial in found.trials] == ["precision", "threads"]
    assert told == list(found.trials)
    for trial in found.trials:
        assert trial.verdict in ("faster", "no faster"), trial
        assert trial.psnr is not None
        assert trial.psnr > 30
        assert trial.seconds is not None
        assert trial.seconds > 0
    assert found.choice.keys() == {"precision", "threads"}
    defaults = {**DEFAULTS, "threads": usable_cores()}
    for trial in found.trials:
        assert found.choice[trial.name] == (trial.value if trial.verdict == "faster" else defaults[trial.name])
    assert found.size == 64
    assert found.speedup >= 1
    assert found.path.parent == cache / "tuning"
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name], "temporary files are left"
    assert json.loads(json.dumps(found.as_dict()))["choice"] == found.choice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Engine(**keywords, tuned=True) as engine:
            assert effective(engine) == {**DEFAULTS, **found.choice}


@pytest.mark.parametrize(
    ("budget", "size"),
    [(1, 128), (40 * 4 - 1, 128), (40 * 4 + 1, 256), (40 * 16 - 1, 256), (40 * 16 + 1, 512), (1e6, 512)],
)
def test_a_size_is_taken_that_leaves_room_for_forty_pictures(
    budget: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 128 pixels a side takes a second, a larger one as much more as it has pixels."""

    def measure(bench: Bench, settings: Settings) -> Measured:
        assert settings == {}
        return Measured(picture(bench.size % 255), None, (bench.size / 128) ** 2, 0)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "measure", measure)
    bench = Bench({}, NEVER, budget)
    assert np.array_equal(bench.begin(None).pixels, picture(size % 255))
    assert bench.size == size
    assert bench.begin(64).wall == 0.25


@pytest.mark.parametrize("image", [True, False], ids=["pictures", "videos"])
def test_the_engines_own_clock_is_projected_to_twenty_steps(image: bool) -> None:
    def draw(**call: Any) -> Any:
        assert (call["width"], call["height"], call["steps"]) == (192, 192, 2)
        assert call.get("video_frames") == (None if image else 5)
        for phase, steps, seconds in (("encode", 1, 0.5), ("sample", 2, 3.0), ("decode", 4, 0.25)):
            for step in range(steps + 1):
                call["on_progress"](Progress(phase, step, steps, seconds if step else 0.0))
        return SimpleNamespace(arrays=[picture(9)], origin=None)

    engine: Any = SimpleNamespace(capabilities=lambda: SimpleNamespace(image=image))
    setattr(engine, "generate" if image else "generate_video", draw)
    assert Bench({}, NEVER, 1, 192)._once(engine).seconds == 0.5 + 20 * 3 + 4 * 0.25


def test_a_budget_that_is_too_small_says_so_and_stores_nothing(keywords: dict[str, Any], cache: Path) -> None:
    with pytest.raises(GenerationTimeoutError, match=r"budget of 0.001 seconds was spent on loading .* 64x64 pixels"):
        tune(**keywords, size=64, budget=0.001)
    assert not list((cache / "tuning").glob("*"))


@pytest.mark.parametrize("steps", [3, 6], ids=["no candidate", "one picture of the first"])
def test_what_the_budget_has_no_room_for_is_told(
    steps: int, keywords: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine is opened in one step and warmed up in another; each further picture is one."""
    left, begun = Bench._left, itertools.count()

    def until(bench: Bench) -> float:
        if next(begun) >= steps:
            raise GenerationTimeoutError("the budget is spent")
        return left(bench)

    monkeypatch.setattr(Bench, "_left", until)
    trials: list[tuning.Trial] = []
    with pytest.raises(GenerationTimeoutError, match="before anything was compared"):
        tune(**keywords, threads=1, size=64, budget=60, on_trial=trials.append)
    assert [str(trial) for trial in trials] == ["precision=fast: not measured"]
    assert not list((cache / "tuning").glob("*"))


def test_an_engine_that_memory_has_no_room_for_beside_another_is_alone(
    keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdcffi._checks.memory.free_memory", lambda: 1)
    with Bench({**keywords, "threads": 1, "memory_check": "off"}, NEVER, 1, 64) as bench:
        first = bench.measure({})
        other = bench.measure({"diffusion_fa": True})
        assert first.pixels.shape == other.pixels.shape == (64, 64, 3)
        assert [dict(key) for key in bench._engines] == [{"diffusion_fa": True}]
        assert first.origin.resolved_context.diffusion_flash_attn is False
        assert other.origin.resolved_context.diffusion_flash_attn is True
    assert bench._engines == {}
    with Bench({**keywords, "memory_check": "strict"}, NEVER, 1, 64) as bench, pytest.raises(OutOfMemoryError):
        bench.measure({})


class Scripted:
    """A bench on which times and pictures are known."""

    def __init__(self, draw: Callable[[Settings, int], tuple[float, int]]) -> None:
        self._draw = draw
        self.drawn: list[Settings] = []

    def keep(self, settings: Settings) -> None:
        self.kept = settings

    def measure(self, settings: Settings) -> Measured:
        before = self.drawn.count(settings)
        self.drawn.append(settings)
        seconds, colour = self._draw(settings, before)
        return Measured(picture(colour), None, seconds, seconds)  # type: ignore[arg-type]


def picture(colour: int) -> Pixels:
    return np.full((8, 8, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("seconds", "verdict", "draws"),
    [
        ({True: [5, 5, 5], False: [6, 6, 6]}, "faster", 6),
        ({True: [5, 9, 5], False: [6, 9, 6]}, "faster", 6),  # the machine was slow meanwhile
        ({True: [5.9, 5.9, 5.9], False: [6, 6, 6]}, "no faster", 6),
        ({True: [5, 5, 5], False: [6, 5.1, 6]}, "no faster", 6),  # without it, it can be as fast
        ({True: [7, 0, 0], False: [6, 6, 6]}, "no faster", 2),
    ],
)
def test_a_setting_is_taken_if_it_is_faster_by_more_than_noise(
    seconds: dict[bool, list[float]], verdict: str, draws: int
) -> None:
    bench = Scripted(lambda settings, index: (seconds["fa" in settings][index], 100))
    best: Settings = {"threads": 2}
    trial = _try(bench, best, "fa", True, picture(101))
    assert trial.verdict == verdict
    assert len(bench.drawn) == draws
    assert bench.drawn[:2] == [{"threads": 2, "fa": True}, best], "not by turns"
    assert bench.drawn[::2] == [{"threads": 2, "fa": True}] * (draws // 2)


def test_a_setting_with_a_different_image_is_refused_however_fast() -> None:
    trial = _try(Scripted(lambda settings, _: (0.1 if settings else 9.0, 100)), {}, "fa", True, picture(110))
    assert (trial.verdict, trial.seconds) == ("different image", None)
    assert trial.outcome == "different image, PSNR 28.1 dB"


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (SDError("no kernel"), "failed", "no kernel"),
        (GenerationTimeoutError("the budget is spent"), "not measured", ""),
    ],
)
def test_a_setting_that_fails_leaves_the_others_to_be_tried(error: SDError, verdict: str, reason: str) -> None:
    def draw(settings: Settings, _: int) -> tuple[float, int]:
        raise error

    trial = _try(Scripted(draw), {}, "fa", True, picture(0))
    assert (trial.verdict, trial.reason, trial.gain) == (verdict, reason, 1.0)


def test_what_is_faster_is_gone_on_from() -> None:
    seconds = {"": 10.0, "fa": 12.0, "threads": 8.0, "diffusion_fa threads": 7.0}
    bench = Scripted(lambda settings, _: (seconds[" ".join(sorted(settings))], 100))
    options: list[tuple[str, int | bool | str]] = [("fa", True), ("threads", 4), ("diffusion_fa", True)]
    told: list[tuning.Trial] = []
    best, trials = _climb(bench, options, picture(100), told.append)
    assert best == bench.kept == {"threads": 4, "diffusion_fa": True}
    assert [trial.verdict for trial in trials] == ["no faster", "faster", "faster"]
    assert [trial.gain for trial in trials] == [10 / 12, 10 / 8, 8 / 7]
    assert told == trials


# What is tried


def device(kind: str) -> Device:
    return Device("X0", f"a {kind}", {"cpu": "cpu"}.get(kind, "cuda"), kind, 0, 0)


UNET = Model(architecture=Architecture("sd1", "", 64, (), is_unet=True), parts=frozenset({"diffusion_model", "vae"}))
DIT = Model(architecture=Architecture("flux2", "", 16, ()), parts=frozenset({"diffusion_model", "taesd"}))
PIXELS = Model(architecture=Architecture("chroma_radiance", "", 1, (), has_autoencoder=False))


@pytest.mark.parametrize(
    ("model", "kind", "given", "names"),
    [
        (UNET, "cpu", {}, ["precision", "threads"]),
        (UNET, "gpu", {}, ["diffusion_fa", "diffusion_conv_direct", "vae_conv_direct", "fa"]),
        (DIT, "gpu", {}, ["diffusion_fa", "vae_conv_direct", "fa"]),
        (PIXELS, "igpu", {}, ["diffusion_fa", "fa"]),
        (DIT, "gpu", {"keep_clip_on_cpu": True}, ["diffusion_fa", "vae_conv_direct", "precision", "threads", "fa"]),
        (DIT, "cpu", {"n_threads": 3}, ["precision"]),
        (DIT, "cpu", {"flash_attn": True, "precision": "exact"}, ["threads"]),
        (DIT, "gpu", {"flash_attn": True}, ["vae_conv_direct"]),
    ],
)
def test_what_acts_and_is_not_given_is_tried(
    model: Model, kind: str, given: dict[str, Any], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "usable_cores", lambda: 4)
    monkeypatch.setattr(tuning, "usable_processors", lambda: 4)
    options = _options(ContextParams(**given), model, device(kind))
    assert list(dict.fromkeys(name for name, _ in options)) == names
    assert [value for name, value in options if name == "threads"] == ([3, 2] if "threads" in names else [])


@pytest.mark.parametrize(
    ("cores", "processors", "counts"),
    [(1, 1, []), (2, 2, [1]), (4, 8, [8, 3, 2]), (16, 16, [15, 12, 8]), (1, 2, [2]), (3, 3, [2, 1])],
)
def test_numbers_of_threads_around_the_cores_are_tried(cores: int, processors: int, counts: list[int]) -> None:
    assert _thread_counts(cores, processors) == counts


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be from 64 to 4096, not 0"),
        ({"size": 100}, ValueError, "size must be a multiple of 64, not 100"),
        ({"size": 64.0}, TypeError, "size must be an integer, not 64.0"),
        ({"budget": -1}, ValueError, "budget must be at least 0, not -1"),
        ({"budget": 0}, ValueError, "budget must be above 0 seconds"),
        ({"budget": None}, TypeError, "budget must be a number of seconds, not None"),
        ({"budget": "long"}, TypeError, "budget must be a number, not 'long'"),
        (
            {"isolated": False},
            TypeError,
            r"tune\(\) has no keyword 'isolated'; it takes these of Engine: backend, .*, vae_on_cpu$",
        ),
        ({"on_progress": print}, TypeError, r"tune\(\) has no keyword 'on_progress'"),
        ({"colour": 1}, TypeError, r"tune\(\) has no keyword 'colour'"),
        ({"diffusion_model": None}, ValueError, "there is no model to load"),
        ({"threads": 1, "precision": "exact"}, ValueError, "nothing to measure: precision, threads, .* are given"),
    ],
)
def test_bad_arguments_are_refused(
    changed: dict[str, Any], error: type[Exception], message: str, keywords: dict[str, Any], cache: Path
) -> None:
    with pytest.raises(error, match=message):
        tune(**{**keywords, "size": 64, **changed})
    assert not list((cache / "tuning").glob("*"))


# Using


def test_a_stored_choice_fills_what_is_left_open(stored: Path, keywords: dict[str, Any], isolated: bool) -> None:
    with Engine(**keywords, tuned=True, isolated=isolated) as engine:
        assert effective(engine) == {**DEFAULTS, **STORED}
        asked = engine.generate(**DRAW).origin
    assert asked is not None
    assert (asked.context.n_threads, asked.context.diffusion_flash_attn) == (None, None)
    with Engine(**keywords, threads=1, tuned=True, isolated=isolated) as engine:
        assert effective(engine) == {**DEFAULTS, **STORED, "threads": 1}
    context = ContextParams(diffusion_flash_attn=False)
    with Engine(**keywords, context=context, tuned=True, isolated=isolated) as engine:
        assert effective(engine) == {**DEFAULTS, **STORED, "diffusion_fa": False}
    with Engine(**keywords, isolated=isolated) as engine:
        assert effective(engine) == {**DEFAULTS, "threads": usable_cores()}


def test_a_child_that_is_started_again_computes_as_the_first(stored: Path, keywords: dict[str, Any]) -> None:
    with Engine(**keywords, tuned=True) as engine:
        stored.unlink()
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not engine._calls.runner.alive)
        assert effective(engine) == {**DEFAULTS, **STORED}
        assert engine.pid != pid


def test_what_was_drawn_with_a_choice_is_replayed_without(
    stored: Path, keywords: dict[str, Any], tmp_path: Path
) -> None:
    with Engine(**keywords, tuned=True) as engine:
        engine.generate(**DRAW).save(tmp_path / "a.png")
    stored.unlink()
    again = replay(tmp_path / "a.png", models=Path(keywords["llm"]).parent)
    assert (again.max_difference, again.differences) == (0, ())
    assert again.result.origin is not None
    assert again.result.origin.resolved_context.diffusion_flash_attn is True


def test_memory_is_estimated_with_the_choice(stored: Path, keywords: dict[str, Any]) -> None:
    with Engine(**keywords, tuned=True) as engine:
        assert engine._memory.params.diffusion_flash_attn is True


def test_without_a_stored_choice_the_command_that_measures_one_is_told(keywords: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="tuned: nothing was measured yet for this model on ") as caught:
        engine = Engine(**keywords, clip_on_cpu=True, mmap=True, tuned=True)
    with engine:
        assert effective(engine) == {**DEFAULTS, "threads": usable_cores()}
    (warning,) = caught
    assert warning.filename == __file__
    command = str(warning.message).rpartition("To measure: ")[2]
    options = cli.parser().parse_args(shlex.split(command)[1:])
    assert options.diffusion_model == str(keywords["diffusion_model"])
    assert (options.backend, options.clip_on_cpu) == ("cpu", True)
    assert options.mmap is None, "does not decide"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"schema": 2}',
        {"subject": {}},
        {"choice": None},
        {"choice": {"threads": 0}},
        {"choice": {"threads": True}},
        {"choice": {"fa": 1}},
        {"choice": {"wtype": "q4_0"}},
    ],
    ids=str,
)
def test_a_damaged_choice_is_told_and_passed_over(
    content: bytes | dict[str, Any], stored: Path, keywords: dict[str, Any]
) -> None:
    if isinstance(content, dict):
        content = json.dumps({**json.loads(stored.read_text()), **content}).encode()
    stored.write_bytes(content)
    with pytest.warns(
        UserWarning, match=rf"tuned: {stored} cannot be used \(.*\); the defaults are used. To measure: sdcffi "
    ):
        engine = Engine(**keywords, tuned=True, load_weights=False)
    engine.close()


def test_tune_is_true_or_false(keywords: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="tuned must be True or False, not 'yes'"):
        Engine(**keywords, tuned="yes")  # type: ignore[arg-type]


# What a choice holds for


def subject(
    path: str = "/a/m.gguf",
    size: int = 5,
    at: int = 7,
    inode: int = 1,
    build: str = "b",
    kind: str = "cpu",
    **more: Any,
) -> Any:
    context = ContextParams(model_path=path, vae_decode_only=False, **more)
    return subject_of(context, {Path(path): FileState(size, at, inode)}, device(kind), build)


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "/a/n.gguf"},
        {"size": 6},
        {"at": 8},
        {"build": "c"},
        {"kind": "gpu"},
        {"wtype": "q8_0"},
        {"keep_vae_on_cpu": True},
        {"vae_path": "/a/vae.gguf"},
    ],
    ids=str,
)
def test_a_choice_is_of_its_files_settings_device_and_build(changed: dict[str, Any]) -> None:
    assert subject(**changed) != subject()


def test_a_choice_is_of_the_cores_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = subject()
    monkeypatch.setattr("sdcffi.engine.tuned.usable_cores", lambda: usable_cores() + 1)
    assert subject() != before


@pytest.mark.parametrize(
    "changed",
    [{"path": "/b/m.gguf"}, {"inode": 2}, {"n_threads": 3}, {"flash_attn": True}, {"rng_type": "cpu"}],
    ids=str,
)
def test_a_choice_stays_where_files_are_moved_and_with_what_does_not_decide(changed: dict[str, Any]) -> None:
    assert subject(**changed) == subject()


# The command line


@pytest.fixture
def words(keywords: dict[str, Any]) -> list[str]:
    return flags(**keywords)


def test_the_command_prints_flags_that_generate_takes_by_itself(
    words: list[str], tmp_path: Path, capfd: Capture
) -> None:
    assert cli.main(["tune", *words, "--threads", "1", "--size", "64"]) == 0
    out, err = capfd.readouterr()
    options = cli.parser().parse_args(["generate", *out.split()])
    assert out.count("\n") == 1
    assert options.threads == 1
    assert options.precision in ("exact", "fast")
    first, last = err.splitlines()
    assert first.startswith("--precision fast: ")
    assert " at 64x64 on " in last
    draw = ["--prompt", "a", "--width", "64", "--height", "64", "--steps", "1", "-o", str(tmp_path / "a.png")]
    assert cli.main(["generate", *words, *draw, "--tune"]) == 0
    assert capfd.readouterr().err == ""
    assert as_arguments({"tuned": True}).engine["tuned"] is True


def test_the_command_tells_what_it_measured_for_machines(words: list[str], capfd: Capture) -> None:
    assert cli.main(["tune", *words, "--threads", "1", "--size", "64", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [trial["name"] for trial in told["trials"]] == ["precision"]
    assert told["choice"].keys() == {"precision", "threads"}
    assert Path(told["path"]).is_file()


def test_the_command_line_warns_in_one_line_and_draws(words: list[str], tmp_path: Path, capfd: Capture) -> None:
    draw = ["--prompt", "a", "--width", "64", "--height", "64", "--steps", "1", "-o", str(tmp_path / "a.png")]
    assert cli.main(["generate", *words, *draw, "--tune"]) == 0
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("sdcffi: warning: tuned: nothing was measured yet")
    assert "To measure: sdcffi tune --llm " in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "70"], "size must be a multiple of 64, not 70"),
        (["--budget", "0"], "budget must be above 0 seconds"),
        (["--tune"], "--tune"),
    ],
)
def test_bad_usage_is_status_2(flags: list[str], said: str, words: list[str], capfd: Capture) -> None:
    assert cli.main(["tune", *words, *flags]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
