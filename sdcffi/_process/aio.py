"""Calls for asyncio: each runs on a thread of its own and is cancelled with its task."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from .calls import Call, adopted

if TYPE_CHECKING:
    from ..events import Event

__all__ = ["as_coroutine", "as_stream", "in_thread"]

_P = ParamSpec("_P")
_Engine = TypeVar("_Engine")
_Result = TypeVar("_Result")

_LOOK_AGAIN = 0.05  # seconds until a cancelled task looks again whether its call has ended


def as_coroutine(
    method: Callable[Concatenate[_Engine, _P], _Result], text: str
) -> Callable[Concatenate[_Engine, _P], Coroutine[Any, Any, _Result]]:
    """Return a coroutine function that does what a blocking method does; `text` is its docstring."""

    @functools.wraps(method)
    async def call(engine: _Engine, /, *arguments: _P.args, **keywords: _P.kwargs) -> _Result:
        return await in_thread(lambda: method(engine, *arguments, **keywords))

    call.__doc__ = text
    return call


def as_stream(
    method: Callable[Concatenate[_Engine, _P], _Result], text: str
) -> Callable[Concatenate[_Engine, _P], AsyncGenerator[Event | _Result, None]]:
    """Return an asynchronous generator of a blocking method's events and, last, its result; `text` is its docstring."""

    @functools.wraps(method)
    async def stream(
        engine: _Engine, /, *arguments: _P.args, **keywords: _P.kwargs
    ) -> AsyncGenerator[Event | _Result, None]:
        if taken := sorted(keywords.keys() & {"on_log", "on_progress", "on_preview"}):
            raise TypeError(f"a stream takes no {', '.join(taken)}: iterate over it to receive the events")
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        keywords.update(on_log=put, on_progress=put, on_preview=put)
        task = asyncio.ensure_future(in_thread(lambda: method(engine, *arguments, **keywords)))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    stream.__doc__ = text
    return stream


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Run a function that makes one call. If the task is cancelled, stop the call and wait until it has ended.

    An interrupt (Ctrl-C) in the loop can take the place of the callback that delivers the result, so that a cancelled
    task goes by `ended` too.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()
    ended = threading.Event()
    call = Call()

    def work() -> None:
        adopted.set(call)
        try:
            outcome = functools.partial(_set_result, future, function())
        except BaseException as error:
            outcome = functools.partial(_set_error, future, error)
        try:
            loop.call_soon_threadsafe(outcome)
        except RuntimeError:  # the loop is closed: nothing waits for the result
            return
        finally:
            ended.set()

    context = contextvars.copy_context()  # as asyncio.to_thread does
    threading.Thread(target=context.run, args=(work,), name="sdcffi call", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        call.cancel()
        while not (future.done() or ended.is_set()):
            try:
                await asyncio.wait({future}, timeout=_LOOK_AGAIN)
            except asyncio.CancelledError:  # cancelled again while it is stopping
                continue
        if not future.cancel():
            future.exception()
        raise


def _set_result(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _set_error(future: asyncio.Future[Any], error: BaseException) -> None:
    if future.done():
        return
    try:
        future.set_exception(error)
    except TypeError:  # a future takes no StopIteration: a coroutine cannot raise it either
        replacement = RuntimeError(f"the call raised {type(error).__name__}")
        replacement.__cause__ = error
        future.set_exception(replacement)
