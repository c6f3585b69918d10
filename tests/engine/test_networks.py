"""What the networks compute, held against diffusers and transformers on the same small weights.

The references are in tests/data/networks, written by tests/oracle. Each image must be as near as was measured on the
same revision, but for 3 dB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from engines import name_of
from network_cases import NETWORKS, Case, Network
from networks import decibels, generate, has_references, open_network, references, runs_on
from networks_page import PAGE, read_values, with_table

from sdcffi import Engine
from sdcffi._machine.builds import locate

MARGIN = 3.0
CASES = [
    pytest.param(family, name, id=f"{family}-{name}", marks=() if network.quick else pytest.mark.slow)
    for family, network in NETWORKS.items()
    for name in network.cases
]


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[[str], tuple[Network, Engine]]]:
    """A family's engine; the one before is closed and its files are gone, for they are large."""
    current: list[str] = []
    with ExitStack() as stack:

        def opened(family: str) -> tuple[Network, Engine]:
            network = NETWORKS[family]
            if current != [family]:
                stack.close()
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                model = network.write(directory)
                assert has_references(family, model), "run tests/oracle: the model has other weights than the data"
                engines[family] = stack.enter_context(open_network(network, model))
                current[:] = [family]
            return network, engines[family]

        engines: dict[str, Engine] = {}
        yield opened


@pytest.mark.parametrize(("family", "name"), CASES)
def test_engine_computes_what_the_reference_computes(
    family: str, name: str, opened: Callable[[str], tuple[Network, Engine]]
) -> None:
    revision = name_of(locate())
    if not runs_on(NETWORKS[family], revision):
        pytest.skip(f"this model is not for the engine {revision}")
    network, engine = opened(family)
    measured = read_values()[family][name]
    newest = measured[max(measured)]  # what a revision that nobody has named yet must come up to
    case = network.cases[name]
    found = decibels(family, name, generate(engine, network, case))
    assert found >= max(min(measured.get(revision, newest) - MARGIN, 70.0), case.least)


@pytest.mark.parametrize("family", NETWORKS)
def test_reference_shows_what_its_cases_set(family: str) -> None:
    images = list(references(family).values())
    assert all(image.std() > 10 for image in images)
    assert len({image.tobytes() for image in images}) == len(images)


def test_page_has_the_measured_values() -> None:
    text = PAGE.read_text("utf-8")
    assert text == with_table(text)


def test_measured_values_are_near_enough() -> None:
    values = read_values()
    for family, network in NETWORKS.items():
        for name, case in network.cases.items():
            for revision, found in values[family][name].items():
                assert found >= case.least, f"{family} {name}, {revision}: {found} dB"


def test_references_have_the_cases() -> None:
    for family, network in NETWORKS.items():
        assert set(references(family)) == set(network.cases)


def test_cases_are_of_different_parts() -> None:
    def parts(cases: dict[str, Case]) -> list[str]:
        return [case.part for case in cases.values()]

    for network in NETWORKS.values():
        assert len(set(parts(dict(network.cases)))) == len(network.cases)
