"""What several test modules use: the tiny model in three weight types, engines, and upstream's sd-cli."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sdcli import THREADS, SdCli

from sdcffi import Engine
from sdcffi._locate import locate
from sdcffi.demo import DemoModel, write_model

OpenEngine = Callable[..., Engine]

# Two test processes on two cores: OpenMP threads that spin while they wait would take each other's time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> DemoModel:
    """The tiny model in f16."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def models(demo_model: DemoModel) -> dict[str, DemoModel]:
    """The tiny model by the weight type of its transformer."""
    return {"f16": demo_model, "q8_0": demo_model.quantised("q8_0"), "q4_0": demo_model.quantised("q4_0")}


@pytest.fixture
def open_engine() -> Iterator[OpenEngine]:
    """Opens engines as ``open_engine(model, **keywords)`` and closes them after the test."""
    with ExitStack() as stack:

        def open_engine(model: DemoModel, **keywords: Any) -> Engine:
            arguments = {**model.engine_arguments(), "threads": THREADS, "backend": "cpu", **keywords}
            return stack.enter_context(Engine(**arguments))

        yield open_engine


@pytest.fixture(scope="session")
def sd_cli() -> SdCli:
    """Upstream's command line from the build that the package uses."""
    build = locate()
    name = build.manifest.get("cli")
    path = build.directory / str(name)
    if not name or not path.is_file():
        pytest.fail(f"{build.directory} has no sd-cli to compare with. Run: python build_native.py --with-cli")
    return SdCli(path)
