"""The engine's child process: whatever ends it, the caller goes on; whatever ends the caller, it goes too."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leftovers import PATIENCE, is_running, wait_until
from programs import running
from tiny_model import TinyModel

import sdcffi
from sdcffi import (
    CancelledError,
    ContextParams,
    Engine,
    GenerationTimeoutError,
    ImageParams,
    NativeCrashError,
    Progress,
    SDError,
)
from sdcffi._process.attended import Attended, RemoteOperation
from sdcffi._process.channel import Channel
from sdcffi._process.messages import Operation
from sdcffi._process.worker import Worker
from sdcffi.params import struct

OpenEngine = Callable[..., Engine]
Pixels = np.ndarray[Any, Any]

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
LONG: dict[str, Any] = {**DRAW, "steps": 10_000, "timeout": 40.0}  # ends only if it is stopped
CONTROL_SECONDS = 1.0  # beyond one step; the exact figure is the benchmark's


def slowly(*values: str) -> list[Any]:
    """What only the long run looks at."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and fork")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def own(isolated: bool, tiny_model: TinyModel, open_engine: OpenEngine) -> Engine:
    """An engine in each of the two modes, for one test, which may close it."""
    return open_engine(tiny_model, isolated=isolated)


def at_step(step: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    """A function for `on_progress` that acts once, when a denoising step is done."""
    done: list[bool] = []

    def hear(progress: Progress) -> None:
        if progress.phase == "sample" and progress.step >= step and not done:
            done.append(True)
            act()

    return hear


def send(engine: Engine, number: int) -> None:
    assert engine.pid
    os.kill(engine.pid, number)


def crash(engine: Engine, number: int = signal.SIGKILL, **changed: Any) -> NativeCrashError:
    """Have the child die by a signal in the middle of a call."""
    with pytest.raises(NativeCrashError) as caught:
        engine.generate(**{**LONG, **changed}, on_progress=at_step(1, lambda: send(engine, number)))
    return caught.value


class Draws(threading.Thread):
    """A call on a thread of its own; `error` tells how it ended, `began` that it is at a denoising step."""

    def __init__(self, engine: Engine, **parameters: Any) -> None:
        super().__init__(daemon=True)
        self.began = threading.Event()
        self.error: BaseException | None = None
        self.result: Any = None
        self._engine, self._parameters = engine, parameters
        self.start()

    def run(self) -> None:
        try:
            self.result = self._engine.generate(**{"on_progress": at_step(1, self.began.set), **self._parameters})
        except BaseException as error:
            self.error = error

    def end(self) -> Draws:
        self.join(PATIENCE)
        assert not self.is_alive(), "the call does not end"
        return self


def queued(engine: Engine, count: int) -> Callable[[], bool]:
    return lambda: len(engine._calls._begun) == count


# The child dies


@posix
@pytest.mark.parametrize(
    "name",
    ["SIGSEGV", "SIGKILL", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGABRT", "SIGFPE", "SIGTERM"))],
)
def test_a_child_that_dies_of_a_signal_is_an_error_and_the_next_call_works(name: str, engine: Engine) -> None:
    before = engine.pid
    error = crash(engine, getattr(signal, name), prompt=f"a cat and {name}")
    assert (error.signal, error.exit_code) == (name, -getattr(signal, name))
    assert name in str(error)
    assert any("generating image: 1/1 - seed 7" in line for line in error.log)
    assert len(error.log) <= 50
    assert isinstance(error.parameters, ImageParams)
    assert (error.parameters.prompt, error.parameters.seed) == (f"a cat and {name}", 7)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.signal, copy.exit_code, copy.log, copy.parameters) == (
        str(error),
        error.signal,
        error.exit_code,
        error.log,
        error.parameters,
    )
    engine.capabilities()
    assert engine.pid != before


LEAVES = """
import ctypes, os, sdcffi._bindings.session
def leave(*_):
    os.write(2, b"libthing: I give up\\n")
    ctypes.CDLL(None).exit(1)
sdcffi._bindings.session.Session.generate_image = leave
"""


@posix
def test_a_library_that_exits_ends_the_child_only(
    open_engine: OpenEngine, tiny_model: TinyModel, expected: Pixels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LEAVES)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(sdcffi.__file__).parents[1]}")  # of the first child
        engine = open_engine(tiny_model)
    with pytest.raises(
        NativeCrashError, match=r"exited with status 1; its last output was: libthing: I give up"
    ) as caught:
        engine.generate(**DRAW)
    assert (caught.value.signal, caught.value.exit_code) == (None, 1)
    assert "libthing" in caught.value.output
    assert np.array_equal(engine.generate(**DRAW).arrays[0], expected)


@posix
def test_a_child_that_dies_while_loading_is_an_error_with_its_parameters(tiny_model: TinyModel, engine: Engine) -> None:
    workers: list[Worker] = []

    def made() -> Worker:
        workers.append(Worker())
        return workers[-1]

    def kill(_progress: Progress) -> None:
        assert workers[0].pid
        os.kill(workers[0].pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdcffi._process.calls.Worker", made)
        with pytest.raises(NativeCrashError) as caught:
            Engine(**tiny_model.engine_arguments(), backend="cpu", on_progress=kill)
    assert caught.value.signal == "SIGKILL"
    assert isinstance(caught.value.parameters, ContextParams)
    assert engine.generate(**DRAW).arrays, "another engine suffers"


@posix
def test_without_restart_every_later_call_is_refused_with_the_reason(
    open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    engine = open_engine(tiny_model, restart="never")
    first = crash(engine, signal.SIGSEGV)
    for call in (lambda: engine.generate(**DRAW), engine.capabilities):
        with pytest.raises(NativeCrashError, match="SIGSEGV") as caught:
            call()
        assert (caught.value.signal, caught.value.log) == ("SIGSEGV", first.log)
    assert not engine.pid


@linux
def test_without_restart_a_death_between_calls_is_told(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, restart="never")
    kill_idle(engine)
    for _ in range(2):
        with pytest.raises(NativeCrashError, match="SIGKILL"):
            engine.generate(**DRAW)


@posix
def test_three_crashes_in_a_row_on_the_same_input_refuse_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Attended] = []
    start = Attended.start

    def counted(child: Attended) -> None:
        started.append(child)
        start(child)

    monkeypatch.setattr(Attended, "start", counted)
    for seed in range(3):  # the seed is no difference: it may have been drawn
        assert crash(engine, prompt="a dog", seed=seed).signal == "SIGKILL"
    count = len(started)
    with pytest.raises(NativeCrashError, match="3 times in a row") as caught:
        engine.generate(**{**LONG, "prompt": "a dog"})
    assert "SIGKILL" in str(caught.value)
    assert (count, len(started)) == (2, 2), "a process was started to refuse"
    assert engine.generate(**DRAW).arrays, "other input is refused too"
    assert crash(engine, prompt="a fox").signal == "SIGKILL"
    assert crash(engine, prompt="a dog").signal == "SIGKILL", "it is refused though another input has crashed since"


@posix
@pytest.mark.slow
def test_crashes_on_different_inputs_are_not_added(engine: Engine) -> None:
    for number in range(4):
        assert crash(engine, prompt=f"cat {number}").signal == "SIGKILL"


def kill_idle(engine: Engine) -> None:
    assert engine.pid
    pid = engine.pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_running(pid))


@linux
def test_a_child_that_died_between_calls_costs_nothing_but_the_time(engine: Engine, expected: Pixels) -> None:
    before = engine.pid
    kill_idle(engine)
    assert np.array_equal(engine.generate(**DRAW).arrays[0], expected)
    assert engine.pid != before


@posix
def test_a_child_that_is_ending_is_not_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_idle(engine)
    with monkeypatch.context() as patch:  # its threads are still ending: it cannot be waited for yet
        patch.setattr(engine._calls.runner._child.process, "poll", lambda: None)  # type: ignore[attr-defined]
        patch.setattr(engine._calls.runner._child, "crash", None)  # type: ignore[attr-defined]
        assert not engine._calls.runner.alive
    assert engine.generate(**DRAW).arrays


@posix
def test_what_was_drawn_outlives_child_and_engine(
    open_engine: OpenEngine, tiny_model: TinyModel, expected: Pixels
) -> None:
    engine = open_engine(tiny_model)
    crashed, kept = engine.generate(**DRAW), engine.generate(**DRAW)
    crash(engine)
    assert np.array_equal(crashed.arrays[0], expected)
    engine.close()
    assert np.array_equal(kept.arrays[0], expected)
    kept.arrays[0][:] = 0  # it is the caller's
    assert np.array_equal(crashed.arrays[0], expected)


# Time limits


def test_a_call_that_takes_too_long_ends_and_the_engine_goes_on(either: Engine, expected: Pixels) -> None:
    before = either.pid
    with pytest.raises(GenerationTimeoutError, match=r"longer than its timeout of 0\.3 seconds"):
        either.generate(**{**LONG, "timeout": 0.3})
    assert np.array_equal(either.generate(**DRAW, timeout=PATIENCE).arrays[0], expected)
    assert either.pid == before, "it stopped by itself: its process need not end"


@posix
def test_a_call_that_does_not_stop_loses_its_process(
    open_engine: OpenEngine, tiny_model: TinyModel, expected: Pixels
) -> None:
    engine = open_engine(tiny_model, grace=0.2)
    before = engine.pid
    with pytest.raises(GenerationTimeoutError):
        engine.generate(**{**LONG, "timeout": 1.0}, on_progress=at_step(1, lambda: send(engine, signal.SIGSTOP)))
    assert before
    assert not is_running(before)
    assert np.array_equal(engine.generate(**DRAW).arrays[0], expected)


@posix
def test_no_thread_that_an_interrupt_can_stop_takes_the_lock_for_waiting(
    open_engine: OpenEngine, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    poll = subprocess.Popen.poll

    def noted(process: subprocess.Popen[bytes]) -> int | None:
        asked.add(threading.current_thread().name)
        return poll(process)

    monkeypatch.setattr(subprocess.Popen, "poll", noted)
    engine = open_engine(tiny_model, grace=0.2)
    with pytest.raises(GenerationTimeoutError):
        engine.generate(**{**LONG, "timeout": 1.0}, on_progress=at_step(1, lambda: send(engine, signal.SIGSTOP)))
    engine.generate(**DRAW)
    time.sleep(1.2)  # the receiver looks at its child once a second
    engine.close()
    assert asked == {"sdcffi"}


def test_loading_that_takes_too_long_ends(isolated: bool, tiny_model: TinyModel, engine: Engine) -> None:
    late = threading.Event()
    with pytest.raises(GenerationTimeoutError):  # the timeout passes in the callback, whatever the machine's speed
        Engine(
            **tiny_model.engine_arguments(),
            backend="cpu",
            isolated=isolated,
            timeout=0.5,
            on_progress=lambda _: late.wait(1.0),
        )
    assert engine.generate(**DRAW).arrays


def test_a_timeout_counts_the_wait_for_the_turn(either: Engine) -> None:
    first = Draws(either, **LONG)
    assert first.began.wait(PATIENCE)
    with pytest.raises(GenerationTimeoutError):
        either.generate(**DRAW, timeout=0.2)
    assert first.is_alive(), "it stopped the call of another"
    either.cancel()
    assert isinstance(first.end().error, CancelledError)


@pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_a_timeout_is_a_positive_number(seconds: Any, error: type[Exception], engine: Engine) -> None:
    with pytest.raises(error, match="timeout must be"):
        engine.generate(**DRAW, timeout=seconds)


# Cancelling and closing


def test_a_call_is_cancelled_from_another_thread(either: Engine, expected: Pixels) -> None:
    drawing = Draws(either, **LONG)
    assert drawing.began.wait(PATIENCE)
    before = either.pid
    either.cancel()
    assert isinstance(drawing.end().error, CancelledError)
    assert np.array_equal(either.generate(**DRAW).arrays[0], expected)
    assert either.pid == before


def test_a_call_is_cancelled_before_its_native_part_begins(
    either: Engine, expected: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = either._calls.runner.prepare

    def cancel_first(name: str, arguments: tuple[Any, ...]) -> Operation:
        thread = threading.Thread(target=either.cancel)
        thread.start()
        thread.join()
        return prepare(name, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(either._calls.runner, "prepare", cancel_first)
        with pytest.raises(CancelledError):
            either.generate(**LONG)
    assert np.array_equal(either.generate(**DRAW).arrays[0], expected)


def test_a_call_is_cancelled_as_soon_as_it_was_started(
    either: Engine, expected: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = either._calls.runner.prepare

    def cancel_next(name: str, arguments: tuple[Any, ...]) -> Operation:
        operation = prepare(name, arguments)
        start = operation.start

        def started() -> None:
            start()
            either.cancel()

        operation.start = started  # type: ignore[method-assign]
        return operation

    with monkeypatch.context() as patch:
        patch.setattr(either._calls.runner, "prepare", cancel_next)
        for _ in range(20):  # each time somewhere else on the way to the native call
            with pytest.raises(CancelledError):
                either.generate(**LONG)
    assert np.array_equal(either.generate(**DRAW).arrays[0], expected)


def test_cancelling_stops_the_calls_that_wait_too_and_no_later_one(either: Engine, expected: Pixels) -> None:
    drawing = [Draws(either, **LONG)]
    assert drawing[0].began.wait(PATIENCE)
    drawing += [Draws(either, **LONG) for _ in range(3)]
    assert wait_until(queued(either, 4))
    either.cancel()
    assert [type(call.end().error) for call in drawing] == [CancelledError] * 4
    assert not any(call.began.is_set() for call in drawing[1:])
    either.cancel()  # of nothing
    assert np.array_equal(either.generate(**DRAW).arrays[0], expected)


def test_closing_stops_the_call_of_another_thread(own: Engine) -> None:
    drawing = Draws(own, **LONG)
    assert drawing.began.wait(PATIENCE)
    pid = own.pid
    own.close()
    assert isinstance(drawing.end().error, CancelledError)
    assert own.pid is None
    assert pid is None or not is_running(pid)
    with pytest.raises(SDError, match="the engine is closed"):
        own.generate(**DRAW)


def test_closing_stops_calls_that_wait_and_leaves_the_running_one_its_end(own: Engine) -> None:
    began, go = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        go.wait(PATIENCE)

    first = Draws(own, **LONG, on_progress=at_step(1, hold))
    assert began.wait(PATIENCE)
    waiting = [Draws(own, **LONG) for _ in range(2)]
    assert wait_until(queued(own, 3))
    closing = threading.Thread(target=own.close)
    closing.start()
    assert [type(call.end().error) for call in waiting] == [CancelledError] * 2
    with pytest.raises(SDError, match="the engine is closed"):
        own.generate(**DRAW)
    go.set()
    closing.join(PATIENCE)
    assert isinstance(first.end().error, CancelledError)
    assert own.pid is None


def test_an_engine_may_be_closed_in_its_own_callback(own: Engine) -> None:
    pid = own.pid
    with pytest.raises(CancelledError):
        own.generate(**LONG, on_progress=at_step(1, own.close))
    assert own.pid is None
    assert pid is None or not is_running(pid)
    with pytest.raises(SDError, match="the engine is closed"):
        own.generate(**DRAW)


def test_closing_does_not_wait_for_a_callback_that_hangs(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, grace=0.2)
    began, hung = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        hung.wait(PATIENCE)

    drawing = Draws(engine, **LONG, on_progress=at_step(1, hang))
    assert began.wait(PATIENCE)
    pid = engine.pid
    engine.close()
    assert pid
    assert not is_running(pid)
    hung.set()
    assert isinstance(drawing.end().error, SDError)


def test_calls_of_many_threads_come_in_the_order_they_were_made(either: Engine) -> None:
    go = threading.Event()
    order: list[int] = []
    calls = [Draws(either, **DRAW, on_progress=at_step(1, lambda: go.wait(PATIENCE)))]
    for number in range(5):
        assert wait_until(queued(either, number + 1))
        finished = at_step(2, functools.partial(order.append, number))
        calls.append(Draws(either, **{**DRAW, "seed": number}, on_progress=finished))
    assert wait_until(queued(either, 6))
    go.set()
    assert all(call.end().error is None for call in calls)
    assert order == [0, 1, 2, 3, 4]


def test_a_call_that_waits_keeps_its_place_whatever_its_thread_is_doing(
    either: Engine, request: pytest.FixtureRequest
) -> None:
    """Others look at whether it goes on, between any two steps of its thread."""
    request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    done: list[int] = []

    def ask(number: int) -> None:
        for _ in range(40):
            either.tokens("a cat")
            done.append(number)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: len(done) == 320), f"{len(done)} calls ended"


@linux
def test_closing_returns_when_the_child_is_gone_whoever_else_closes(
    open_engine: OpenEngine, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tiny_model)
    pid = engine.pid
    waiting, go = threading.Event(), threading.Event()
    wait = subprocess.Popen.wait

    def slow(process: Any, timeout: float | None = None) -> int:
        waiting.set()
        go.wait(PATIENCE)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", slow)
    others = [threading.Thread(target=engine._calls.runner.close) for _ in range(2)]
    others[0].start()
    assert waiting.wait(PATIENCE)
    others[1].start()
    others[1].join(0.2)
    assert others[1].is_alive(), "it did not wait for the child"
    go.set()
    for thread in others:
        thread.join(PATIENCE)
    assert pid
    assert not is_running(pid)


# Ctrl-C

_INTERRUPTED = """
steps = []
def hear(progress):
    if progress.phase == "sample" and progress.step:
        steps.append(progress.seconds)
        if progress.step == 2:
            tell("drawing")
engine = Engine(**MODEL)
before = digest(engine.generate(**DRAW))
pid = engine.pid
try:
    engine.generate(**{**DRAW, "steps": 10_000}, on_progress=hear)
except KeyboardInterrupt:
    tell("control", time.monotonic(), max(steps))
assert digest(engine.generate(**DRAW)) == before
assert engine.pid == pid, "it stopped by itself: its process need not end"
tell("well")
"""


@posix
@pytest.mark.parametrize("how", ["-c", "script"])
def test_ctrl_c_gives_control_back_and_the_engine_goes_on(how: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    with running(_INTERRUPTED, tiny_model, tmp_path, how) as program:
        program.wait_for("drawing")
        sent = time.monotonic()
        if how == "-c":
            program.interrupt_group()
        else:
            program.signal(signal.SIGINT)
        control, step = map(float, program.wait_for("control"))
        assert control - sent < step + CONTROL_SECONDS
        assert program.end().split() == ["well"]


@posix
def test_the_keys_of_the_callers_terminal_do_not_reach_the_child(engine: Engine) -> None:
    assert engine.pid
    assert os.getsid(engine.pid) == engine.pid != os.getsid(0)
    assert os.getpgid(engine.pid) == engine.pid


@posix
def test_a_second_interrupt_does_not_wait_for_the_grace(engine: Engine) -> None:
    class Twice(KeyboardInterrupt):
        pass

    def stop() -> None:
        send(engine, signal.SIGSTOP)  # it cannot stop by itself
        patch.setattr(RemoteOperation, "wait", again)
        raise KeyboardInterrupt

    def again(operation: RemoteOperation, seconds: float) -> bool:
        if seconds:
            raise Twice
        return wait(operation, seconds)

    wait = RemoteOperation.wait

    before = engine.pid
    assert before
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Twice):
        engine.generate(**LONG, on_progress=at_step(1, stop))
    assert not is_running(before)


# Where it works

_PLAIN = """
with open("runs", "a") as file:
    file.write("x")
with Engine(**MODEL) as engine:
    tell(digest(engine.generate(**DRAW)))
"""


@pytest.mark.parametrize("how", ["script", "-c", "-"])
def test_no_main_guard_is_needed_and_the_main_module_does_not_run_again(
    how: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    with running(_PLAIN, tiny_model, tmp_path, how) as program:
        assert len(program.end().split()) == 1
    assert (tmp_path / "runs").read_text() == "x"


def test_modules_in_the_working_directory_are_not_taken_for_the_childs(tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("json", "numpy", "pickle", "sdcffi"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the working directory was imported')")
    code = f"import pathlib\nos.chdir({str(tmp_path)!r})\nsys.path.append(pathlib.Path('no string'))\n{_PLAIN}"
    with running(code, tiny_model, tmp_path / "scripts") as program:
        assert len(program.end().split()) == 1


def test_an_engine_may_be_opened_and_used_on_any_thread(
    engine: Engine, tiny_model: TinyModel, expected: Pixels
) -> None:
    drawn: list[Pixels] = []

    def draw() -> None:
        with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu") as other:
            drawn.append(other.generate(**DRAW).arrays[0])

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert np.array_equal(drawn[0], expected)


def test_relative_paths_mean_the_callers_directory(
    isolated: bool, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model.diffusion_model.parent
    arguments = {name: path.name for name, path in tiny_model.engine_arguments().items()}
    monkeypatch.chdir(folder)
    with Engine(**arguments, threads=1, backend="cpu", isolated=isolated) as engine:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "near.safetensors").symlink_to(tiny_model.lora)
        near = engine.generate(**DRAW, loras=["near.safetensors"])
        far = engine.generate(**DRAW, loras=[tiny_model.lora])
        assert np.array_equal(near.arrays[0], far.arrays[0])
        assert near.loras[0].applied == near.loras[0].total > 0


@linux
def test_a_model_given_by_a_relative_path_is_found_again_after_a_crash(
    tiny_model: TinyModel, expected: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {name: path.name for name, path in tiny_model.engine_arguments().items()}
    monkeypatch.chdir(tiny_model.diffusion_model.parent)
    with Engine(**arguments, threads=1, backend="cpu") as engine:
        monkeypatch.chdir(tmp_path)
        kill_idle(engine)
        assert np.array_equal(engine.generate(**DRAW).arrays[0], expected)


def test_engines_do_not_mix_their_callbacks(
    engine: Engine, open_engine: OpenEngine, tiny_model: TinyModel, expected: Pixels
) -> None:
    engines = {7: engine, 8: open_engine(tiny_model)}
    alone = {seed: engine.generate(**{**DRAW, "seed": seed}).arrays[0] for seed in engines}
    heard: dict[int, list[str]] = {seed: [] for seed in engines}
    meet = threading.Barrier(2)

    def hear(seed: int, text: str) -> None:
        if "generating image" in text:
            heard[seed].append(text)
            meet.wait(PATIENCE)  # both are at work now

    calls = {
        seed: Draws(each, **{**DRAW, "seed": seed}, on_log=lambda line, seed=seed: hear(seed, line.text))
        for seed, each in engines.items()
    }
    for seed, call in calls.items():
        assert call.end().error is None
        assert np.array_equal(call.result.arrays[0], alone[seed])
        assert [line.rpartition(" ")[2] for line in heard[seed]] == [str(seed)]


# The caller dies

_KILLED = """
engine = Engine(**MODEL)
if "forked" in WAYS:
    holder = os.fork()
    if holder == 0:
        threading.Event().wait()
    tell("forked", holder)
if "drawing" in WAYS:
    engine.generate(**{**DRAW, "steps": 10_000}, on_progress=lambda p: p.step == 1 and tell("ready"))
tell("ready")
threading.Event().wait()
"""


@linux
@pytest.mark.parametrize(
    "ways",
    ["drawing", "idle forked", *(pytest.param(ways, marks=pytest.mark.slow) for ways in ("idle", "drawing forked"))],
)
def test_the_child_ends_when_its_parent_is_killed(ways: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    with running(f"WAYS = {ways.split()}\n{_KILLED}", tiny_model, tmp_path) as program:
        holder = [int(program.wait_for("forked")[0])] if "forked" in ways else []
        program.wait_for("ready")
        (worker,) = (pid for pid in program.workers() if pid not in holder)
        program.kill()
        assert wait_until(lambda: not is_running(worker), 5), "the child outlives its parent"
        assert program.workers() == holder


_FORKED = """
engine = Engine(**MODEL)
before = digest(engine.generate(**DRAW))
fork = os.fork()
if fork == 0:
    for call in (lambda: engine.generate(**DRAW), engine.capabilities):
        try:
            call()
        except SDError as error:
            tell("refused" if f"belongs to process {os.getppid()}" in str(error) else error)
    engine.close()
    sys.exit()
os.waitpid(fork, 0)
pid = engine.pid
tell("well" if digest(engine.generate(**DRAW)) == before and engine.pid == pid else "different")
"""


@posix
def test_a_fork_refuses_and_the_parents_engine_goes_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    code = f"import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)  # threads and fork\n{_FORKED}"
    with running(code, tiny_model, tmp_path) as program:
        assert program.end().split() == ["refused", "refused", "well"]


# What is used up


@linux
@pytest.mark.slow
def test_results_use_up_no_descriptors(engine: Engine) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    ours, theirs = (Channel(end) for end in multiprocessing.Pipe())
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 12, hard))
    try:
        results = [engine.generate(**{**DRAW, "steps": 1, "seed": seed}) for seed in range(14)]
        pictures = []
        for number in range(300):
            theirs.send(np.full((64, 64, 3), number % 251, np.uint8))
            pictures.append(ours.receive())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        ours.close()
        theirs.close()
    assert len({result.arrays[0].tobytes() for result in results}) == 14
    assert all((picture == number % 251).all() for number, picture in enumerate(pictures))


@linux
def test_a_result_that_finds_no_memory_is_an_error_and_nothing_else(
    open_engine: OpenEngine, tiny_model: TinyModel, expected: Pixels
) -> None:
    import resource

    engine = open_engine(tiny_model)
    assert engine.pid
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    before = engine.pid
    with pytest.raises(SDError, match="not enough shared memory for 12288 bytes of images"):
        engine.generate(**DRAW)
    resource.prlimit(before, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert np.array_equal(engine.generate(**DRAW).arrays[0], expected)
    assert engine.pid == before


def test_an_input_that_finds_no_memory_is_an_error_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_buffers: object) -> int:
        raise OSError(28, "No space left on device")

    before = engine.pid
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr("sdcffi._process.shared_memory.fill", full)
        with pytest.raises(SDError, match="not enough shared memory for 12288 bytes"):
            engine.generate(**DRAW, init_image=np.zeros((64, 64, 3), np.uint8))
    assert time.monotonic() - started < engine._calls._grace, "it waited for a call that was never made"
    assert engine.pid == before


def test_what_cannot_go_to_another_process_is_a_type_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(struct._TAKEN, "str", lambda _name, value: value)  # which takes texts as plain ones

    class Local(str):
        """Cannot be pickled."""

    Foreign = type("Foreign", (str,), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", types.ModuleType("only_here"))
    monkeypatch.setattr(sys.modules["only_here"], "Foreign", Foreign, raising=False)
    pid = engine.pid
    for text, message in (
        (Local("a"), "cannot be pickled"),
        (Foreign("a"), "cannot be read in"),
    ):
        with pytest.raises(TypeError, match=message):
            engine.generate(**DRAW, negative_prompt=text)
    assert engine.pid == pid


@posix
def test_the_rest_of_a_message_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcffi._process.channel._REST_SECONDS", 1)
    ours, theirs = multiprocessing.Pipe()
    channel = Channel(ours)
    os.write(theirs.fileno(), b"\0\0\1\0half of it")
    with pytest.raises(BlockingIOError):
        channel.receive()
    theirs.close()
    channel.close()


def test_a_message_keeps_its_arrays_apart() -> None:
    arrays = [np.full((40, 50, 3), value, np.uint8) for value in range(3)] + [np.zeros(3, np.uint8)]
    ours, theirs = (Channel(end) for end in multiprocessing.Pipe())
    theirs.send(("several", arrays, np.asfortranarray(arrays[1])))
    name, copies, transposed = ours.receive()
    assert name == "several"
    assert all(np.array_equal(copy, array) for copy, array in zip(copies, arrays, strict=True))
    assert np.array_equal(transposed, arrays[1])
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive()
    ours.close()


@linux
def test_memory_is_given_back_with_the_last_view() -> None:
    ours, theirs = (Channel(end) for end in multiprocessing.Pipe())

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:")

    before = mapped()
    theirs.send([np.zeros(5000, np.uint8), np.ones(5000, np.uint8)])
    first, second = ours.receive()
    assert mapped() == before + 1
    view = second[10:20]
    del first, second
    assert mapped() == before + 1
    assert view.sum() == 10
    del view
    assert mapped() == before
    ours.close()
    theirs.close()


@linux
def test_the_descriptor_of_shared_memory_is_not_inherited() -> None:
    from sdcffi._process.shared_memory import anonymous_file

    descriptor = anonymous_file()
    assert not os.get_inheritable(descriptor)
    assert os.fstat(descriptor).st_nlink == 0, "it has a name"
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=descriptor)


@linux
def test_the_child_starts_no_threads_for_numpy_unless_told(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child() -> tuple[int, list[str]]:
        with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu") as engine:
            process = Path(f"/proc/{engine.pid}")
            variables = (process / "environ").read_text().split("\0")
            return len(list((process / "task").iterdir())), [it for it in variables if it.startswith("OPENBLAS")]

    for name in [name for name in os.environ if name.startswith("OPENBLAS")]:
        monkeypatch.delenv(name)
    assert child() == (2, ["OPENBLAS_NUM_THREADS=1"])  # one listens, one works
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert child()[1] == ["OPENBLAS_NUM_THREADS=3"]
