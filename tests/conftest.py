"""What several test modules use: the tiny model in three weight types, engines, and upstream's sd-cli."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import engines
import matrix
import numpy as np
import pytest
import time_left
from leftovers import nothing_left
from matrix import pytest_terminal_summary
from parity import SMALL, BySdCli, split, write_images
from sdcli import THREADS, Pixels, SdCli
from tiny_model import TinyModel, write_model

from sdcffi import Engine
from sdcffi._build.pipeline import compile_native
from sdcffi._build.plan import make_plan
from sdcffi._machine.builds import NativeBuild, locate, read_build

__all__ = ["pytest_terminal_summary"]  # of the backend matrix

OpenEngine = Callable[..., Engine]

# What the fixture `engine` generates to see that it is as before; modules that use it generate the same.
UNDISTURBED: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}


def pytest_addoption(parser: pytest.Parser) -> None:
    engines.add_option(parser)
    matrix.add_options(parser)
    time_left.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    engines.use_chosen(config)
    time_left.begin(config)


def pytest_report_header() -> str:
    return engines.header()


def pytest_runtest_setup(item: pytest.Item) -> None:
    engines.skip_on_others(item)
    time_left.skip_late(item)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The tiny model in f16."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def models(tiny_model: TinyModel) -> dict[str, TinyModel]:
    """The tiny model by the weight type of its transformer."""
    return {"f16": tiny_model, "q8_0": tiny_model.quantised("q8_0"), "q4_0": tiny_model.quantised("q4_0")}


@pytest.fixture
def open_engine() -> Iterator[OpenEngine]:
    """Opens engines as ``open_engine(model, **keywords)`` and closes them after the test."""
    with ExitStack() as stack:

        def open_engine(model: TinyModel, **keywords: Any) -> Engine:
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


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of `parity.IMAGES`."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def by_sd_cli(sd_cli: SdCli, images: dict[str, Path], tmp_path: Path) -> BySdCli:
    """Generates with sd-cli, from parameters named as ours, over `SMALL`, and flags of its own that name `images`."""

    def by_sd_cli(parameters: dict[str, Any], flags: str = "", **files: Path) -> list[Pixels]:
        return sd_cli.generate({"rng": "cpu", **SMALL, **parameters}, tmp_path, *split(flags, **images, **files))

    return by_sd_cli


@pytest.fixture(scope="session")
def portable() -> NativeBuild:
    """A build with all CPU variants: the package's own if it is one, else from the build cache."""
    own = locate()
    if len(own.backends["cpu"]) > 1:
        return own
    return read_build(compile_native(make_plan(engines.request(backend="cpu", cpu="portable"))))


@pytest.fixture(scope="session")
def pinned() -> Path:
    """Upstream's source that the build under test is made of, to read only."""
    return engines.source_tree()


@pytest.fixture(scope="module", params=[True, False], ids=["isolated", "in-process"])
def isolated(request: pytest.FixtureRequest) -> bool:
    """Whether native code runs in a child process: what uses this holds for both."""
    return bool(request.param)


@pytest.fixture(scope="module")
def either(isolated: bool, tiny_model: TinyModel) -> Iterator[Engine]:
    """An engine in each of the two modes for the whole module: each test leaves it usable, or the next one fails."""
    with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=isolated) as engine:
        yield engine


@pytest.fixture(scope="module")
def shared(tiny_model: TinyModel) -> Iterator[Engine]:
    """An engine for the whole module: each test leaves it usable, or the next one fails."""
    with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(shared: Engine) -> Pixels:
    """What `UNDISTURBED` generates, by a child that was never disturbed."""
    return shared.generate(**UNDISTURBED).arrays[0].copy()


@pytest.fixture
def engine(shared: Engine, expected: Pixels, tmp_path: Path) -> Iterator[Engine]:
    """The shared engine, which afterwards generates what it generated before and has left nothing behind."""
    shared.capabilities()  # so that it has its child
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with nothing_left(temporary):
        yield shared
        assert np.array_equal(shared.generate(**UNDISTURBED).arrays[0], expected)
