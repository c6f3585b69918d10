"""Ctrl-C and signal handlers at each line of a call: nothing stays held, nothing waits for itself, the engine goes on.

The tracer stands for a signal: it raises, cancels or closes before a line of the package is run. The quick run takes
some of the lines of each kind of call, the long run takes all of them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leftovers import PATIENCE, holdings, wait_until
from programs import running
from tiny_model import TinyModel
from tracing import LIBRARY, PACKAGE, At, lines

from sdcffi import (
    CancelledError,
    Engine,
    GenerationTimeoutError,
    NativeCrashError,
    NativeError,
    Progress,
    SDError,
    canny,
)
from sdcffi._process import calls as _calls
from sdcffi._process.messages import Failed, Flag, Operation

OpenEngine = Callable[..., Engine]
PROCESS = str(Path(_calls.__file__).parent) + os.sep
DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7}
LONG: dict[str, Any] = {**DRAW, "steps": 10_000, "timeout": 60.0}  # ends only if it is stopped
LARGE = np.zeros((1024, 1024, 3), np.uint8)

linux = pytest.mark.skipif(sys.platform != "linux", reason="counts what is held as only Linux can")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


def some(*quick: int) -> list[Any]:
    """Every so many lines in the quick run, and all in the long run."""
    return [*quick, pytest.param(1, marks=pytest.mark.slow)]


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs' temporary files are not counted."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def interrupted_everywhere(
    call: Callable[[], object], again: Callable[[], object], step: int, directories: tuple[str, ...] = (PACKAGE,)
) -> Iterator[str]:
    """Interrupt a call at every `step`-th of its lines; yield the place of each after `again` has done its work."""
    for _ in range(3):  # what is imported or asked only once
        call()
    chosen = lines(call, directories)[::step]
    assert len(chosen) >= 4
    gc.collect()
    held = holdings()
    for number in chosen:
        started = time.monotonic()
        try:
            with At(number, interrupt, directories) as at:
                call()
            assert not at.place, f"{at.place} swallowed the interrupt"
        except KeyboardInterrupt:
            pass
        assert time.monotonic() - started < _calls.GRACE, f"{at.place}: control did not come back"
        again()
        gc.collect()
        assert wait_until(lambda: not holdings() - held), f"{at.place}: left behind {dict(holdings() - held)}"
        yield at.place


# Ctrl-C


@linux
@pytest.mark.parametrize("step", some(5))
def test_an_interrupt_at_any_line_of_a_query_leaves_the_engine_as_it_was(
    step: int, either: Engine, quiet: None
) -> None:
    pid, offer = either.pid, either.capabilities()
    for place in interrupted_everywhere(either.capabilities, either.capabilities, step):
        assert not either._calls._begun, place
        assert either.pid == pid, f"{place}: its process was lost"
    assert either.capabilities() == offer


@linux
@pytest.mark.parametrize("step", some(20))
def test_an_interrupt_at_any_line_of_the_standard_library_too(step: int, either: Engine, quiet: None) -> None:
    pid = either.pid
    for place in interrupted_everywhere(either.capabilities, either.capabilities, step, (PACKAGE, LIBRARY)):
        assert not either._calls._begun, place
        assert either.pid == pid, f"{place}: its process was lost"


@linux
@pytest.mark.parametrize("step", some(60))
def test_an_interrupt_at_any_line_of_a_generation_leaves_the_engine_as_it_was(
    step: int, either: Engine, quiet: None
) -> None:
    pid, before = either.pid, either.generate(**DRAW).arrays[0].tobytes()
    for place in interrupted_everywhere(lambda: either.generate(**DRAW), either.capabilities, step):
        assert either.pid == pid, f"{place}: its process was lost"
    assert either.generate(**DRAW).arrays[0].tobytes() == before


@linux
@pytest.mark.parametrize("step", some(90))
def test_an_interrupt_while_an_engine_opens_or_closes_leaves_nothing(
    step: int, isolated: bool, tiny_model: TinyModel, quiet: None
) -> None:
    def use() -> None:
        with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=isolated) as engine:
            engine.capabilities()

    for place in interrupted_everywhere(use, lambda: None, step, (PROCESS,)):
        assert PROCESS in place or not place


@posix
def test_a_second_interrupt_while_the_first_is_handled_is_healed_by_the_next_call(
    either: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    either.capabilities()
    with monkeypatch.context() as patch:
        patch.setattr(_calls.Calls, "_leave", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt) as caught:
            either.capabilities()
    assert either._calls._begun, "the test does not do what it says"
    either.capabilities()
    assert not either._calls._begun
    assert caught.value.__traceback__, "its frames are alive: they do not tell that the call goes on"


# Handlers that cancel or close


@pytest.mark.parametrize("step", some(4))
def test_a_handler_may_cancel_at_any_line(step: int, either: Engine) -> None:
    either.capabilities()
    for number in lines(either.capabilities)[::step]:
        try:
            with At(number, either.cancel):
                either.capabilities()
        except CancelledError:
            pass
        either.capabilities()


@pytest.mark.parametrize("step", some(60))
def test_a_handler_may_close_at_any_line(step: int, isolated: bool, tiny_model: TinyModel) -> None:
    def opened() -> Engine:
        return Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=isolated, load_weights=False)

    engine = opened()
    engine.capabilities()
    for number in lines(engine.capabilities)[::step]:
        try:
            with At(number, engine.close) as at:
                engine.capabilities()
        except SDError:  # it is closed, or the call was cancelled
            pass
        assert not engine._calls.runner.alive, at.place
        with pytest.raises(SDError, match="the engine is closed"):
            engine.capabilities()
        engine = opened()
    for number in lines(engine.close)[::step]:
        engine = opened()
        with At(number, engine.close) as at:
            engine.close()
        assert not engine._calls.runner.alive, at.place


@posix
@pytest.mark.parametrize("act", ["cancel", "close"])
def test_a_real_handler_stops_a_call_that_has_large_images_to_send(
    act: str, isolated: bool, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    engine = open_engine(tiny_model, isolated=isolated)

    def signal_after(seconds: float) -> None:
        assert wait_until(lambda: engine._calls._begun)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: getattr(engine, act)())
    try:
        for delay in (0.0, 0.005, 0.02, 0.1)[: 4 if act == "cancel" else 1]:
            thread = threading.Thread(target=signal_after, args=[delay])
            thread.start()
            started = time.monotonic()
            with pytest.raises(CancelledError):
                engine.generate(**{**LONG, "width": 1024, "height": 1024}, init_image=LARGE)
            assert time.monotonic() - started < PATIENCE
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    if act == "cancel":
        assert engine.generate(**DRAW).arrays
    else:
        with pytest.raises(SDError, match="the engine is closed"):
            engine.generate(**DRAW)


def test_a_call_in_a_handler_during_a_call_is_refused(either: Engine) -> None:
    refused: list[SDError] = []

    def handle() -> None:
        try:
            either.capabilities()
        except SDError as error:
            refused.append(error)

    numbers = lines(either.capabilities)
    with At(numbers[len(numbers) // 2], handle):
        either.capabilities()
    assert "from a signal handler during a call" in str(refused[0])


# A child that does not go on


@posix
@pytest.mark.parametrize("how", ["timeout", "cancel", "close"])
def test_a_request_that_a_stopped_child_does_not_take_can_be_stopped(
    how: str, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    engine = open_engine(tiny_model, grace=0.3)
    assert engine.pid
    os.kill(pid := engine.pid, signal.SIGSTOP)
    timer = None if how == "timeout" else threading.Timer(0.3, getattr(engine, how))
    if timer:
        timer.start()
    started = time.monotonic()
    text = "long " * 2_000_000  # more than a socket's buffer
    with pytest.raises((GenerationTimeoutError, CancelledError)):
        _ask(engine, text, how)
    assert time.monotonic() - started < PATIENCE / 2
    if timer:
        timer.join()
    if how == "close":
        assert engine.pid is None
    else:
        assert engine.generate(**DRAW).arrays
        assert engine.pid != pid


def _ask(engine: Engine, text: str, how: str) -> None:
    """Send a request that no check has shortened."""
    with engine._calls.call(engine._listeners, 0.3 if how == "timeout" else None) as call:
        engine._calls.run(call, "tokens", text, None, parameters=())


@posix
def test_a_query_to_a_stopped_child_has_a_limit_of_its_own(
    open_engine: OpenEngine, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_calls, "_ANSWER_SECONDS", 0.5)
    engine = open_engine(tiny_model, grace=0.2)
    assert engine.pid
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(GenerationTimeoutError, match="did not answer"):
        engine.capabilities()
    assert engine.capabilities().image


@pytest.mark.parametrize("grace", [1e10, 1e300])
def test_any_grace_can_be_waited_for(
    grace: float, isolated: bool, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    engine = open_engine(tiny_model, isolated=isolated, grace=grace, load_weights=False)
    began = threading.Event()

    def work() -> None:
        with engine._calls.call(engine._listeners):
            began.set()
            time.sleep(0.3)

    thread = threading.Thread(target=work)
    thread.start()
    began.wait(PATIENCE)
    engine.close()
    thread.join()
    assert not engine._calls.runner.alive


_BROKEN_PIPE = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
engine = Engine(**MODEL, grace=0.5)
for act in (engine.cancel, lambda: None):
    pid = engine.pid
    def stop(progress, act=act):
        if progress.phase == "sample" and progress.step == 1 and engine.pid == pid:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)
            act()
    try:
        engine.generate(**{**DRAW, "steps": 10_000}, timeout=2, on_progress=stop)
    except SDError as error:
        tell("stopped", type(error).__name__)
    engine.generate(**DRAW)
os.kill(engine.pid, signal.SIGKILL)
engine.cancel()
engine.close()
tell("well")
"""


@posix
def test_writing_to_a_dead_child_sends_no_sigpipe(tiny_model: TinyModel, tmp_path: Path) -> None:
    with running(_BROKEN_PIPE, tiny_model, tmp_path) as program:
        assert program.end().split()[-1] == "well"


# What is left to the next call


def test_an_error_of_a_call_that_is_being_stopped_is_not_left_to_the_next(
    open_engine: OpenEngine, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tiny_model)
    put = Operation.put

    def broken(operation: Operation, message: Any) -> None:
        is_stopped = isinstance(message, Failed) and isinstance(message.error, CancelledError)
        put(operation, Failed(NativeError("a failed assertion")) if is_stopped else message)

    def stop(progress: Progress) -> None:
        if progress.phase == "sample":
            raise KeyboardInterrupt

    pid = engine.pid
    with monkeypatch.context() as patch:
        patch.setattr(Operation, "put", broken)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(**LONG, on_progress=stop)
    assert engine.generate(**DRAW).arrays
    assert engine.pid != pid, "its context cannot be used any more"


@linux
def test_without_descriptors_a_call_fails_and_the_next_one_works(
    open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    import resource

    engine = open_engine(tiny_model)
    expected, pid = engine.generate(**DRAW).arrays[0].tobytes(), engine.pid
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(SDError, match="too many open files") as received:
            engine.generate(**DRAW)
        with pytest.raises(SDError, match="could not be started: too many open files"):
            canny(np.zeros((64, 64, 3), np.uint8))
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(received.value, NativeCrashError)
    assert engine.generate(**DRAW).arrays[0].tobytes() == expected
    assert engine.pid == pid


# asyncio


@pytest.mark.parametrize("error", [StopIteration("mine"), StopAsyncIteration("mine"), GeneratorExit("mine")])
def test_what_no_future_takes_ends_the_coroutine_all_the_same(error: BaseException, either: Engine) -> None:
    def fail(_progress: Progress) -> None:
        raise error

    async def main() -> None:
        with pytest.raises((RuntimeError, type(error))) as caught:
            await asyncio.wait_for(either.agenerate(**DRAW, on_progress=fail), PATIENCE)
        assert error in (caught.value, caught.value.__cause__)

    asyncio.run(main())
    assert either.generate(**DRAW).arrays


def test_a_call_on_another_engine_in_a_callback_has_its_own_events_and_limit(
    either: Engine, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    other = open_engine(tiny_model, isolated=True)
    inner: list[Progress] = []
    outer: list[Progress] = []

    def hear(progress: Progress) -> None:
        outer.append(progress)
        if progress.phase == "sample" and progress.step == 1 and not inner:
            other.generate(**{**DRAW, "steps": 3}, on_progress=inner.append, timeout=PATIENCE)

    result = asyncio.run(either.agenerate(**{**DRAW, "steps": 2}, on_progress=hear))
    assert result.arrays
    assert [it.step for it in outer if it.phase == "sample"] == [0, 1, 2]
    assert [it.step for it in inner if it.phase == "sample"] == [0, 1, 2, 3]


def test_cancelling_the_task_stops_the_call_within_its_callback_too(
    either: Engine, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    other = open_engine(tiny_model, isolated=True)

    async def main() -> None:
        loop, began = asyncio.get_running_loop(), asyncio.Event()

        def within(progress: Progress) -> None:
            if progress.step:
                loop.call_soon_threadsafe(began.set)

        def hear(progress: Progress) -> None:
            if progress.phase == "sample":
                other.generate(**LONG, on_progress=within)

        task = asyncio.create_task(either.agenerate(**LONG, on_progress=hear))
        await asyncio.wait_for(began.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)

    asyncio.run(main())
    assert not other._calls._begun
    assert other.generate(**DRAW).arrays


def test_a_flag_lets_all_go_on_that_wait() -> None:
    flag, passed = Flag(), []
    threads = [threading.Thread(target=lambda: passed.append(flag.wait(PATIENCE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not flag.wait(0.05)
    flag.set()
    for thread in threads:
        thread.join()
    assert passed == [True] * 3
    assert flag.wait(0)
