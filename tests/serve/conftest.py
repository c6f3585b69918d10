"""Servers on free ports, with the small model in the package, and an engine to compare their images with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from upscaling_networks import random_weights

import sdcffi

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from sdcffi.serve import ModelConfig, ServeConfig, app  # noqa: E402


@dataclass(frozen=True)
class Server:
    """A server that runs: where it is, and what it runs."""

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
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upscaling network of random weights, which doubles the size."""
    path = tmp_path_factory.mktemp("network") / "double.safetensors"
    save_file(random_weights(2), path)
    return path


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, network: Path) -> ServeConfig:
    """The model in the package as ``demo`` and, with other defaults, as ``quick``; a network as ``double``."""
    table = {name: str(path) for name, path in sdcffi.demo_model().items()}
    models = (
        ModelConfig.of("demo", {**table, "width": 128, "height": 128, "steps": 3, "cfg_scale": 2.0}),
        ModelConfig.of("quick", {**table, "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0}),
    )
    return ServeConfig.of(
        {"upscalers": {"double": str(network)}},
        models=models,
        port=0,
        store=tmp_path_factory.mktemp("serve"),
    )


@pytest.fixture(scope="session")
def server(config: ServeConfig) -> Iterator[Server]:
    with serving(config) as running:
        yield running


@pytest.fixture(scope="session")
def engine() -> Iterator[sdcffi.Engine]:
    """The same model, without a server."""
    with sdcffi.Engine(**sdcffi.demo_model()) as engine:
        yield engine
