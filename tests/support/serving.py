"""A server on a thread of the test's process, and what tests ask of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from tiny_model import TinyModel

from sdcffi.serve import Client, ModelConfig, ServeConfig
from sdcffi.serve.run import Server, prepared
from sdcffi.serve.service import Service

_T = TypeVar("_T")

TINY: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0}
LONG: dict[str, Any] = {**TINY, "steps": 200}
"""Seconds of work, which a test cancels or kills."""


def tiny_config(model: TinyModel, store: Path, *more: ModelConfig, **changes: Any) -> ServeConfig:
    """A server of the tiny model, on any free port, with its adapter as ``lora``, and of more models."""
    table = {**{name: str(path) for name, path in model.engine_arguments().items()}, "backend": "cpu", **TINY}
    values: dict[str, Any] = {"port": 0, "store": store, "lora_dir": model.lora.parent, **changes}
    return ServeConfig.of({}, models=(ModelConfig.of("tiny", table), *more), **values)


@dataclass
class Running:
    """A server that runs.

    Attributes
    ----------
    url : str
    service : Service
    loop : asyncio.AbstractEventLoop
        On which the service runs.
    """

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop

    def call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def client(self, key: str | None = None, **keywords: Any) -> Client:
        return Client(self.url, key, **{"patience": 5.0, **keywords})

    def http(self, **keywords: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **keywords)


@contextmanager
def serving(config: ServeConfig) -> Iterator[Running]:
    """Serve during the block."""
    addresses: list[str] = []
    ready = threading.Event()
    failures: list[BaseException] = []

    def tell(address: str) -> None:
        addresses.append(address)
        loops.append(asyncio.get_running_loop())
        ready.set()

    loops: list[asyncio.AbstractEventLoop] = []
    server, listener = prepared(config, tell)
    assert isinstance(server, Server)

    def work() -> None:
        try:
            with listener:
                server.run([listener])
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="server")
    thread.start()
    assert ready.wait(60)
    if failures:
        thread.join()
        raise failures[0]
    try:
        yield Running(addresses[0], server.service, loops[0])
    finally:
        server.handle_exit(15, None)
        thread.join(60)
        assert not thread.is_alive()
