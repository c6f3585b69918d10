"""The server on a cluster of two nodes: jobs of both engines, through the API, also after one is lost."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ray_clusters import descendants, running_cluster
from tiny_model import TinyModel

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'sdcffi[ray]'")
pytest.importorskip("fastapi", reason="needs the server: pip install 'sdcffi[serve]'")

from ray import serve

from sdcffi import Engine
from sdcffi.ray.serving import application
from sdcffi.serve import Client, ModelConfig, ServeConfig
from sdcffi.serve.client import RemoteJob, ServerError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
]

KEYS = {"ann": "a" * 20, "bob": "b" * 20}
SMALL: dict[str, Any] = {"width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def config_of(model: TinyModel, store: Path) -> ServeConfig:
    own = {name: str(path) for name, path in model.engine_arguments().items()}
    config = ModelConfig.of("tiny", {**own, "backend": "cpu", "threads": 1})
    return ServeConfig(models=(config,), keys=KEYS, store=store)


@pytest.mark.parametrize("replicas", [(-1, 1), (2, 1), (0, 0)])
def test_wrong_numbers_of_replicas_are_refused(
    replicas: tuple[int, int], tiny_model: TinyModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"replicas\[[01]\] must be"):
        application(config_of(tiny_model, tmp_path), replicas=replicas)


def test_a_model_whose_variant_each_machine_would_choose_is_refused(tmp_path: Path) -> None:
    model = ModelConfig.of("a", {"model": "catalogue:sd-turbo"})
    with pytest.raises(ValueError, match="name one, as 'catalogue:NAME/VARIANT'"):
        application(ServeConfig(models=(model,), keys=KEYS, store=tmp_path))


def test_a_server_without_keys_must_be_asked_for(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = replace(config_of(tiny_model, tmp_path), keys={})  # which listens on this machine alone, outside Ray
    with pytest.raises(ValueError, match=r"there are no keys, and Ray may listen .* insecure=True"):
        application(config)
    assert application(replace(config, insecure=True))


@pytest.fixture(scope="module")
def address(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = config_of(tiny_model, tmp_path_factory.mktemp("results"))
    with running_cluster(2):
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(config, replicas=(2, 2)), route_prefix="/")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, KEYS["ann"]) as client:
        yield client


def ended(client: Client, job: RemoteJob) -> RemoteJob:
    """The job once it has ended, however it did."""
    for _ in client.events(job):
        pass
    return client.get(job)


def replicas() -> list[int]:
    return descendants("ray::ServeReplica:default:model-0")


def test_the_engines_share_the_jobs_and_the_images_are_those_of_one(client: Client, tiny_model: TinyModel) -> None:
    with Engine(**tiny_model.engine_arguments(), backend="cpu", threads=1) as engine:
        alone = [engine.generate("a cat", seed=seed, **SMALL).to_bytes() for seed in range(4)]
    jobs = [client.submit("a cat", seed=seed, **SMALL) for seed in range(4)]
    done = [client.wait(job) for job in jobs]
    assert [client.image_files(job) for job in done] == [[image] for image in alone]
    spans = sorted((job.started or 0, job.ended or 0) for job in done)
    assert any(second[0] < first[1] for first, second in pairwise(spans))  # two at a time


def test_events_come_from_the_machine_that_runs_the_job(client: Client) -> None:
    names = [event.name for event in client.events(client.submit("a cat", previews=True, **{**SMALL, "steps": 8}))]
    assert [names[0], *names[-2:]] == ["queued", "image", "finished"]
    assert {"started", "progress", "preview"} < set(names)


def test_a_job_that_fails_says_why(client: Client) -> None:
    job = ended(client, client.submit("a <lora:nowhere:1>", **SMALL))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["status"] == 400


def test_jobs_are_cancelled_on_the_machines_that_run_them(client: Client) -> None:
    long = {**SMALL, "width": 512, "height": 512, "steps": 90}
    jobs = [client.submit("a cat", **long) for _ in range(2)]
    for job in jobs:
        next(event for event in client.events(job) if event.name == "progress")
    for job in jobs:
        client.cancel(job)
    assert [ended(client, job).state for job in jobs] == ["cancelled"] * 2
    started = time.monotonic()
    client.wait(client.submit("a dog", **SMALL))  # an engine is free again
    assert time.monotonic() - started < 10


def test_a_job_whose_replica_is_lost_runs_again_if_it_may(client: Client) -> None:
    long = {**SMALL, "width": 256, "height": 256, "steps": 40}
    once, again = client.submit("a cat", **long), client.submit("a cat", retry=1, **long)
    for job in (once, again):
        next(event for event in client.events(job) if event.name == "progress")
    for process in replicas():
        os.kill(process, signal.SIGKILL)
    failed, finished = ended(client, once), ended(client, again)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "the machine that ran the job was lost" in failed.error["message"]
    assert (finished.state, finished.attempts) == ("finished", 2)


def test_results_are_there_after_the_application_was_lost(client: Client, address: str) -> None:
    job = client.wait(client.submit("a bird", seed=1, **SMALL))
    images = client.image_files(job)
    [process] = descendants("ray::ServeReplica:default:application")
    os.kill(process, signal.SIGKILL)
    time.sleep(1)
    assert client.get(job).state == "finished"  # the client asks again until it is back
    assert client.image_files(job) == images
    with Client(address, KEYS["bob"]) as other, pytest.raises(ServerError) as error:
        other.get(job)
    assert error.value.status == 404
