"""Downloads of several processes, and of those that are killed, with the settings that the client reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hub_server
import pytest
from hub_server import Hub
from leftovers import wait_until

WEIGHTS = os.urandom(24 << 20)  # the client writes 10 MB at a time
FETCH = "import sys; from sdcffi._references import fetch, parse; print(fetch(parse(sys.argv[1])))"


class Machine:
    """Where a user runs programs."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.environment = hub_server.environment(home, hub)

    def start(self, reference: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", FETCH, reference],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fetch(self, reference: str, **environment: str) -> Path:
        done = subprocess.run(
            [sys.executable, "-c", FETCH, reference],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return Path(done.stdout.strip())


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server.running() as hub:
        hub.add("o/r", {"a.safetensors": WEIGHTS})
        yield hub


@pytest.fixture(params=["hub", "web"])
def reference(request: pytest.FixtureRequest, hub: Hub) -> str:
    return "hf://o/r" if request.param == "hub" else hub.put("a.safetensors", WEIGHTS)


def begun(home: Path) -> bool:
    """Whether something of a file is there."""
    with suppress(OSError):  # the client removes what it tries out
        return any(path.stat().st_size for path in home.rglob("*.incomplete"))
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on(number: int, hub: Hub, reference: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, hub)
    hub.pause = 0.001  # more than 1.5 seconds for the file
    first = machine.start(reference)
    assert wait_until(lambda: begun(tmp_path))
    first.send_signal(number)
    first.communicate(timeout=60)
    assert first.returncode != 0
    hub.pause = 0.0
    hub.seen.clear()
    assert machine.fetch(reference).read_bytes() == WEIGHTS
    ranges = hub.transfers()
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").removesuffix("-")) > 0


def test_two_processes_download_once(hub: Hub, reference: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, hub)
    hub.pause = 0.0005
    both = [machine.start(reference) for _ in range(2)]
    outputs = [one.communicate(timeout=60) for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert Path(outputs[0][0].strip()).read_bytes() == WEIGHTS
    assert outputs[0][0] == outputs[1][0]
    assert len(hub.transfers()) == 1


def test_a_second_run_needs_no_server(hub: Hub, reference: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, hub)
    path = machine.fetch(reference)
    count = len(hub.seen)
    assert machine.fetch(reference) == path
    assert machine.fetch(reference, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9") == path
    assert len(hub.seen) == count
