"""Ray clusters of several nodes on this machine, for the tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_STORE = 100 << 20  # bytes of each node's object store


class Nodes:
    """A cluster: a head without CPUs, and nodes with one each, which can be killed."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.alive: list[Any] = []
        self.address: str = cluster.address

    def add(self) -> None:
        self.alive.append(self._cluster.add_node(num_cpus=1, object_store_memory=_STORE))

    def kill(self) -> None:
        """Kill the oldest node as a power cut does."""
        self._cluster.remove_node(self.alive.pop(0), allow_graceful=False)


@contextmanager
def running_cluster(nodes: int) -> Iterator[Nodes]:
    """Start a cluster and connect this process to it."""
    pytest.importorskip(
        "ray.data", reason="needs Ray: pip install 'sdcffi[ray]'"
    )  # a folder of tests is called ray too
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # a short path: it has sockets
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray warns that it will become
        patch.setenv("PYTHONPATH", os.pathsep.join([_package(), os.environ.get("PYTHONPATH", "")]))
        Path(folder, "ray").mkdir()
        head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            found = Nodes(cluster)
            for _ in range(nodes):
                found.add()
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield found
        finally:
            ray.shutdown()
            cluster.shutdown()


def _package() -> str:
    import sdcffi

    return str(Path(sdcffi.__file__).parent.parent)


def an_actor() -> int:
    """The process of an actor of Ray Data."""
    return descendants("ray::MapWorker")[0]


def an_engine() -> int:
    """The process of the engine of an actor of Ray Data."""
    actors = descendants("ray::MapWorker")
    return next(child for child in descendants("sdcffi._process.child") if _parent(child) in actors)


def descendants(command: str) -> list[int]:
    """The processes below this one whose command line has `command` in it, the oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if command in line and _descends(int(folder.name)):
                found.append(int(folder.name))
    return sorted(found)


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _descends(process: int) -> bool:
    while process not in (0, os.getpid()):
        process = _parent(process)
    return process == os.getpid()
