"""A server of the model in the package for clients of other programs, and an engine to compare its images with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from serving import Running, serving
from upscaling_networks import random_weights

import sdcffi
from sdcffi.serve import ModelConfig, ServeConfig


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upscaling network of random weights, which doubles the size."""
    path = tmp_path_factory.mktemp("network") / "double.safetensors"
    save_file(random_weights(2), path)
    return path


@pytest.fixture(scope="session")
def demo_config(tmp_path_factory: pytest.TempPathFactory, network: Path) -> ServeConfig:
    """The model in the package as ``demo`` and, with other defaults, as ``quick``; a network as ``double``."""
    table = {**{name: str(path) for name, path in sdcffi.demo_model().items()}, "backend": "cpu"}
    models = (
        ModelConfig.of("demo", {**table, "width": 128, "height": 128, "steps": 3, "cfg_scale": 2.0}),
        ModelConfig.of("quick", {**table, "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0}),
    )
    values = {"models": models, "port": 0, "store": tmp_path_factory.mktemp("serve")}
    return ServeConfig.of({"upscalers": {"double": str(network)}}, **values)


@pytest.fixture(scope="session")
def demo_server(demo_config: ServeConfig) -> Iterator[Running]:
    with serving(demo_config) as running:
        yield running


@pytest.fixture(scope="session")
def demo_engine() -> Iterator[sdcffi.Engine]:
    """The same model, without a server."""
    with sdcffi.Engine(**sdcffi.demo_model(), backend="cpu") as engine:
        yield engine
