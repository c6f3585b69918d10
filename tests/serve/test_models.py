"""Which models are loaded: on demand, by memory, pinned ones, and never one at work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tiny_model import TinyModel

pytest.importorskip("fastapi")

from sdcffi import CancelledError, OutOfMemoryError
from sdcffi._process.calls import adopted
from sdcffi.serve.config import ModelConfig
from sdcffi.serve.models import Models


class FakeEngine:
    """An engine that only says whether it is open."""

    pid = 1

    def __init__(self, name: str) -> None:
        self.name, self.closed = name, False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Models]:
    """Makes models a, b, c, ... whose engines are fakes; of `room` engines there is memory."""

    def make(names: str = "abc", pinned: str = "", room: int = 100, memory: int | None = None) -> Models:
        files = {name: str(path) for name, path in tiny_model.engine_arguments().items()}
        configs = tuple(ModelConfig.of(name, {**files, "pinned": name in pinned}) for name in names)
        models = Models(configs, memory=memory)

        def open_engine(config: ModelConfig) -> Any:
            if len(models.pids()) >= room:
                raise OutOfMemoryError("no room")
            return FakeEngine(config.name)

        monkeypatch.setattr(models, "_open", open_engine)
        return models

    return make


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def use(models: Models, name: str) -> Any:
    async with models.use(name) as engine:
        assert not engine.closed
        return engine


def loaded(models: Models) -> set[str]:
    return set(models.pids())


def test_a_model_is_loaded_once_when_it_is_used(made: Callable[..., Models]) -> None:
    async def work() -> None:
        models = made()
        assert loaded(models) == set()
        first = await use(models, "a")
        assert await use(models, "a") is first
        assert loaded(models) == {"a"}
        await models.close()
        assert first.closed

    run(work())


@pytest.mark.parametrize("by_budget", [True, False])
def test_the_least_recently_used_one_leaves(made: Callable[..., Models], by_budget: bool) -> None:
    async def work() -> None:
        size = made()._entries["a"].size
        models = made(memory=int(2.5 * size)) if by_budget else made(room=2)
        engine = await use(models, "a")
        await use(models, "b")
        await use(models, "a")
        await use(models, "c")
        assert loaded(models) == {"a", "c"}
        await use(models, "b")
        assert loaded(models) == {"b", "c"}
        assert engine.closed

    run(work())


def test_pinned_ones_stay(made: Callable[..., Models]) -> None:
    async def work() -> None:
        models = made(pinned="a", room=2)
        await models.load_pinned()
        assert loaded(models) == {"a"}
        await use(models, "b")
        await use(models, "c")
        assert loaded(models) == {"a", "c"}
        full = made(pinned="ab", room=2)
        await full.load_pinned()
        with pytest.raises(OutOfMemoryError):
            await use(full, "c")

    run(work())


def test_one_at_work_stays_and_is_waited_for(made: Callable[..., Models]) -> None:
    async def work() -> None:
        models = made(room=1)
        async with models.use("a") as engine:
            waiting = asyncio.ensure_future(use(models, "b"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            assert not engine.closed
            assert not await models.make_room()
        await waiting
        assert engine.closed
        assert loaded(models) == {"b"}

    run(work())


def test_one_that_is_held_stays_before_it_is_used(made: Callable[..., Models]) -> None:
    async def work() -> None:
        models = made()
        await use(models, "a")
        with models.reserved("a"):
            await use(models, "a")
            assert not models.is_free("a")
            assert not await models.make_room()
        assert models.is_free("a")
        assert not await models.make_room(keep="a")
        assert await models.make_room(keep="b")

    run(work())


def test_the_room_of_an_engine_that_was_lost_at_work_is_used(made: Callable[..., Models]) -> None:
    async def work() -> None:
        models = made(room=1)
        async with models.use("a") as engine:
            waiting = asyncio.ensure_future(use(models, "b"))
            await asyncio.sleep(0.05)
            await models.unload("a")
            await waiting
            assert engine.closed
            assert loaded(models) == {"b"}

    run(work())


def test_who_gives_up_while_a_model_is_loaded_leaves_it_loaded(
    made: Callable[..., Models], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        models, slow = made(), threading.Event()
        opened = models._open

        def open_slowly(config: ModelConfig) -> Any:
            slow.wait(10)
            return opened(config)

        monkeypatch.setattr(models, "_open", open_slowly)
        with pytest.raises(asyncio.TimeoutError):
            async with models.use("a", 0.05):
                pass
        cancelled = asyncio.ensure_future(use(models, "a"))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert models.is_free("a")
        slow.set()
        await use(models, "a")
        assert loaded(models) == {"a"}

    run(work())


def test_who_is_cancelled_as_a_model_is_loaded_does_not_go_on(made: Callable[..., Models]) -> None:
    async def work() -> None:
        models = made()

        async def hold() -> None:
            async with models.use("a", 10):
                pass

        cancelled = asyncio.ensure_future(hold())
        await asyncio.sleep(0)
        loading = models._entries["a"].loading
        assert loading is not None
        loading.add_done_callback(lambda _: cancelled.cancel())
        await asyncio.wait({cancelled})
        assert cancelled.cancelled()
        assert loaded(models) == {"a"}

    run(work())


def test_a_server_that_stops_does_not_wait_until_models_are_loaded(
    made: Callable[..., Models], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        models, begun = made(), threading.Event()

        def open_until_stopped(_: ModelConfig) -> Any:
            call = adopted.get()  # as the call that opens an engine does
            assert call is not None
            begun.set()
            while not call.cancelled:
                call.wait()
            raise CancelledError("the call was cancelled")

        monkeypatch.setattr(models, "_open", open_until_stopped)
        for name in "ab":  # the second waits for the first
            with pytest.raises(asyncio.TimeoutError):
                async with models.use(name, 0.01):
                    pass
        assert await asyncio.to_thread(begun.wait, 10)
        await models.close()
        assert loaded(models) == set()
        assert all(entry.loading is None for entry in models._entries.values())

    run(work())


def test_a_model_that_cannot_be_loaded_is_tried_again(
    made: Callable[..., Models], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        models = made()
        opened, broken = models._open, True

        def open_later(config: ModelConfig) -> Any:
            if broken:
                raise ValueError("broken")
            return opened(config)

        monkeypatch.setattr(models, "_open", open_later)
        with pytest.raises(ValueError, match="broken"):
            await use(models, "a")
        assert models.is_free("a")
        broken = False
        await use(models, "a")

    run(work())
