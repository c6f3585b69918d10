"""A server on a free port, with the small model in the package."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from sdcffi.serve import ServeConfig, app


@dataclass(frozen=True)
class Server:
    url: str
    port: int
    service: Any


@contextmanager
def serving(config: ServeConfig) -> Iterator[Server]:
    application = app(config)
    running = uvicorn.Server(uvicorn.Config(application, config.host, config.port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 60
        while not running.started:
            assert thread.is_alive(), "the server has ended"
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.02)
        port = running.servers[0].sockets[0].getsockname()[1]
        yield Server(f"http://{config.host}:{port}", port, application.state.service)
    finally:
        running.should_exit = True
        thread.join(60)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The model in the package under the name ``demo``."""
    folder: Path = tmp_path_factory.mktemp("serve")
    with serving(ServeConfig.demo(port=0, store=folder)) as running:
        yield running
