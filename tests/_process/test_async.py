"""An engine in asyncio programs: what it gives, and that cancelling a task stops its call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leftovers import PATIENCE, nothing_left, wait_until

from sdcffi import CancelledError, Engine, GenerationTimeoutError, Log, Preview, Progress
from sdcffi._process import aio
from sdcffi.engine.results import Result

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
LONG: dict[str, Any] = {**DRAW, "steps": 10_000, "timeout": 60.0}  # ends only if it is stopped


@pytest.fixture(scope="module")
def expected(either: Engine) -> dict[int, bytes]:
    """What blocking calls generate, by seed."""
    return {seed: pixels(either.generate(**{**DRAW, "seed": seed})) for seed in (7, 8, 9)}


@pytest.fixture
def engine(either: Engine, expected: dict[int, bytes], tmp_path: Path) -> Iterator[Engine]:
    """An engine that afterwards generates what it did before, in the same process, and leaves nothing."""
    pid = either.pid
    with nothing_left(tmp_path):
        yield either
        assert wait_until(lambda: not calling_threads()), "the thread of a call is still there"
        assert pixels(either.generate(**DRAW)) == expected[7]
    assert either.pid == pid


def pixels(result: Result) -> bytes:
    return np.stack(result.arrays).tobytes()


def calling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sdcffi call"]


async def begun(engine: Engine) -> asyncio.Task[Result]:
    """A task with a call that goes on until it is stopped, and is at a denoising step."""
    loop, began = asyncio.get_running_loop(), asyncio.Event()

    def hear(progress: Progress) -> None:  # on another thread
        if progress.phase == "sample" and progress.step == 1:
            loop.call_soon_threadsafe(began.set)

    task = asyncio.create_task(engine.agenerate(**LONG, on_progress=hear))
    await asyncio.wait_for(began.wait(), PATIENCE)
    return task


def test_agenerate_gives_what_generate_gives_and_leaves_the_loop_free(
    engine: Engine, expected: dict[int, bytes]
) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> Result:
        counting = asyncio.create_task(count())
        result = await engine.agenerate(**DRAW)
        counting.cancel()
        return result

    result = asyncio.run(main())
    assert pixels(result) == expected[7]
    assert result.seeds == [7]
    assert turns > 5, "the loop was held up"


def test_calls_at_once_on_one_engine_get_their_own_pictures(engine: Engine, expected: dict[int, bytes]) -> None:
    async def main() -> list[Result]:
        return await asyncio.gather(*(engine.agenerate(**{**DRAW, "seed": seed}) for seed in expected))

    assert [pixels(result) for result in asyncio.run(main())] == list(expected.values())


@pytest.mark.parametrize("times", [1, 3])
def test_cancelling_the_task_stops_the_call_before_the_task_ends(times: int, engine: Engine) -> None:
    async def main() -> None:
        task = await begun(engine)
        started = time.monotonic()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < PATIENCE, "its own time limit ended it"
        assert not engine._calls._begun, "the call goes on"

    asyncio.run(main())


def test_an_interrupt_in_place_of_the_result_leaves_a_task_that_can_be_cancelled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_future: Any, _value: Any) -> None:  # Ctrl-C, before the first line of the callback
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(engine.agenerate(**DRAW))
        monkeypatch.setattr(aio, "_set_result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        monkeypatch.undo()
        task.cancel()
        loop.call_later(PATIENCE, loop.stop)  # which is a RuntimeError
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()


def test_cancelling_one_task_leaves_the_others(engine: Engine, expected: dict[int, bytes]) -> None:
    async def main() -> None:
        first = await begun(engine)
        waiting = asyncio.create_task(engine.agenerate(**LONG))
        last = asyncio.create_task(engine.agenerate(**{**DRAW, "seed": 8}))
        await asyncio.sleep(0)
        for task in (waiting, first):  # one that waits for its turn, and the one that has it
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert pixels(await last) == expected[8]

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_it_begins_makes_no_call(engine: Engine) -> None:
    async def main() -> None:
        task = asyncio.create_task(engine.agenerate(**LONG))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not calling_threads()

    asyncio.run(main())


def test_time_limits_of_asyncio_stop_the_call(engine: Engine) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.agenerate(**LONG), 0.3)
        assert not engine._calls._begun, "the call goes on"

    asyncio.run(main())


def test_the_engines_own_cancel_is_an_error_of_the_awaiting_task(engine: Engine) -> None:
    async def main() -> None:
        task = await begun(engine)
        engine.cancel()
        with pytest.raises(CancelledError):
            await task

    asyncio.run(main())


def test_exceptions_travel(engine: Engine) -> None:
    def fail(_progress: Progress) -> None:
        raise KeyError("mine")

    async def main() -> None:
        with pytest.raises(ValueError, match="steps must be from 1 to 10000, not 0"):
            await engine.agenerate(**{**DRAW, "steps": 0})
        with pytest.raises(KeyError, match="mine"):
            await engine.agenerate(**LONG, on_progress=fail)
        with pytest.raises(GenerationTimeoutError):
            await engine.agenerate(**{**LONG, "timeout": 0.3})

    asyncio.run(main())


def test_a_stream_gives_events_in_order_and_then_the_result(engine: Engine, expected: dict[int, bytes]) -> None:
    async def main() -> list[Any]:
        return [event async for event in engine.stream(**DRAW)]

    *events, result = asyncio.run(main())
    assert isinstance(result, Result)
    assert pixels(result) == expected[7]
    sampling = [event for event in events if isinstance(event, Progress) and event.phase == "sample"]
    assert [event.step for event in sampling] == [0, 1, 2]
    assert [event.step for event in events if isinstance(event, Preview)] == [1, 2]
    lines = [event.text for event in events if isinstance(event, Log)]
    assert any("generating image: 1/1 - seed 7" in line for line in lines)
    first_step = events.index(sampling[0])
    seed = next(index for index, event in enumerate(events) if isinstance(event, Log) and "- seed 7" in event.text)
    assert seed < first_step


@pytest.mark.parametrize("how", ["aclose", "break", "error"])
def test_leaving_a_stream_stops_the_call(how: str, engine: Engine) -> None:
    async def main() -> None:
        async with aclosing(engine.stream(**LONG)) as stream:
            async for event in stream:
                if not (isinstance(event, Progress) and event.step == 1):
                    continue
                if how == "aclose":
                    await stream.aclose()
                if how == "error":
                    raise KeyError("mine")
                break
        assert not engine._calls._begun, "the call goes on"

    if how == "error":
        with pytest.raises(KeyError, match="mine"):
            asyncio.run(main())
    else:
        asyncio.run(main())


def test_a_task_that_reads_a_stream_may_be_cancelled(engine: Engine) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def read() -> None:
            async for event in engine.stream(**LONG):
                if isinstance(event, Progress) and event.step == 1:
                    began.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(began.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert wait_until(lambda: not engine._calls._begun), "the call goes on"


def test_the_error_of_a_stream_comes_after_its_events(engine: Engine) -> None:
    events: list[Any] = []

    async def main() -> None:
        async for event in engine.stream(**{**LONG, "timeout": 1.0}):
            events.append(event)

    with pytest.raises(GenerationTimeoutError):
        asyncio.run(main())
    assert any(isinstance(event, Log) for event in events)


def test_a_stream_takes_no_functions(engine: Engine) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="a stream takes no on_log, on_progress"):
            async for _event in engine.stream(**DRAW, on_progress=print, on_log=print):
                pass

    asyncio.run(main())


def test_a_loop_that_ends_first_stops_its_calls(engine: Engine) -> None:
    async def main() -> None:
        left = await begun(engine)
        assert not left.done()

    asyncio.run(main())
    assert not engine._calls._begun, "the call goes on"
