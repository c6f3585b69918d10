"""What happens to jobs when engines crash, when the server is stopped or killed, and when nothing can be written."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tiny_model import TinyModel

pytest.importorskip("fastapi")

import httpx
from serving import LONG, TINY, Running, serving, tiny_config
from starlette.requests import Request

from sdcffi import Engine, NativeCrashError, OutOfMemoryError
from sdcffi.engine.results import Result
from sdcffi.errors import OutputError
from sdcffi.serve import Client, ModelConfig, api, exchange
from sdcffi.serve.api import _stream
from sdcffi.serve.client import ServerError
from sdcffi.serve.exchange import AttendingStream
from sdcffi.serve.jobs import ENDED, Job, JobRequest, Rejected, Work
from sdcffi.serve.models import Models
from sdcffi.serve.run import prepared
from sdcffi.serve.service import Service
from sdcffi.serve.store import StoredImage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are killed by signals")


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tiny_config(tiny_model, tmp_path_factory.mktemp("store"))) as running:
        yield running


def kill_engine(server: Running) -> None:
    os.kill(server.service.models.pids()["tiny"], signal.SIGKILL)


def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_server_stops_while_a_model_loads(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, stopped = threading.Event(), threading.Event()

    async def load_for_ever(_: Models) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    monkeypatch.setattr(Models, "load_pinned", load_for_ever)
    server, listener = prepared(tiny_config(tiny_model, tmp_path), lambda _: None)
    with listener:
        thread = threading.Thread(target=lambda: server.run([listener]))
        thread.start()
        assert started.wait(30)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
    assert stopped.is_set()
    assert not thread.is_alive()
    Service(tiny_config(tiny_model, tmp_path)).store.open()  # nobody holds its directory any more


def sampling(client: Client, job_id: str) -> bool:
    job = client.get(job_id)
    return job.progress is not None and job.progress["phase"] == "sample" and job.progress["step"] > 0


def test_a_crash_costs_nobody_else_anything(server: Running) -> None:
    with server.client() as client:
        job = client.submit("a cat", **LONG)
        others = [client.submit("a cat", seed=seed) for seed in range(3)]
        until(lambda: sampling(client, job.id))
        kill_engine(server)
        with pytest.raises(ServerError, match="SIGKILL") as caught:
            client.wait(job)
        assert (caught.value.status, caught.value.type) == (500, "NativeCrashError")
        assert [client.wait(other).state for other in others] == ["finished"] * 3
        assert [client.get(other).attempts for other in others] == [1, 1, 1]


def test_a_job_is_tried_again_after_a_crash_with_the_same_image(server: Running, tiny_model: TinyModel) -> None:
    given = {**TINY, "steps": 60, "seed": 3}
    with server.client() as client:
        job = client.submit("a cat", retry=1, **given)
        until(lambda: sampling(client, job.id))
        kill_engine(server)
        done = client.wait(job)
        image = client.images(done)[0]
        names = [event.name for event in client.events(job)]
    with Engine(**tiny_model.engine_arguments(), backend="cpu") as engine:
        expected = engine.generate("a cat", **given)
    assert image.tobytes() == expected.arrays[0].tobytes()
    assert (done.attempts, names.count("finished")) == (2, 1)


def test_a_job_is_not_tried_again_without_end(server: Running) -> None:
    with server.client() as client:
        job = client.submit("a cat", retry=1, **LONG)
        for attempt in (1, 2):
            until(lambda attempt=attempt: client.get(job.id).attempts == attempt)
            until(lambda: sampling(client, job.id) and server.service.models.pids())
            time.sleep(0.3)
            kill_engine(server)
        with pytest.raises(ServerError, match="SIGKILL"):
            client.wait(job)
        assert client.get(job).attempts == 2


def test_an_engine_that_died_while_it_was_idle_is_started_again(server: Running) -> None:
    with server.client() as client:
        client.wait(client.submit("a cat", seed=1))
        kill_engine(server)
        time.sleep(0.2)
        assert client.wait(client.submit("a cat", seed=1)).state == "finished"


def test_random_seeds_differ(server: Running) -> None:
    with server.client() as client:
        jobs = [client.wait(client.submit("a cat")) for _ in range(3)]
    assert len({job.images[0]["seed"] for job in jobs}) == 3


def test_an_error_of_the_server_is_not_told_to_clients(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(server.service, "_save", broken)
    with server.client() as client, pytest.raises(ServerError, match="its log says why") as caught:
        client.wait(client.submit("a cat"))
    assert caught.value.status == 500


def test_results_that_cannot_be_written(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    def unwritable(*_: Any) -> Any:
        raise OutputError("/disk/x.png cannot be written")

    with monkeypatch.context() as patch, server.client(patience=0) as client:
        patch.setattr(server.service.queue, "take", lambda _: None)
        patch.setattr(server.service.store, "write", full)
        with pytest.raises(ServerError, match="cannot write results") as caught:
            client.submit("a cat")
        assert caught.value.status == 507
        assert len(server.service.queue) == 0
    with monkeypatch.context() as patch, server.client() as client:
        patch.setattr(Result, "save_one", unwritable)
        with pytest.raises(ServerError, match=r"^the server cannot write results: tell its operator$") as caught:
            client.wait(client.submit("a cat"))
        assert caught.value.status == 507
    with server.client() as client:
        job = client.submit("a cat", **LONG)
        until(lambda: sampling(client, job.id))
        with monkeypatch.context() as patch:
            patch.setattr(server.service.store, "write", full)
            assert client.cancel(job).state == "cancelled"  # told, though it is not kept
        assert client.wait(client.submit("a cat")).state == "finished"


def test_results_expire(tiny_model: TinyModel, tmp_path: Path) -> None:
    with serving(tiny_config(tiny_model, tmp_path, store_jobs=2)) as server, server.client() as client:
        jobs = [client.wait(client.submit("a cat", seed=seed, key=str(seed))) for seed in range(4)]
        until(lambda: len(client.jobs()) == 2)
        with pytest.raises(ServerError, match="expired"):
            client.get(jobs[0])
        with pytest.raises(ServerError, match="expired"):
            client.images(jobs[0])
        assert len(client.images(jobs[3])) == 1
        assert client.submit("a cat", seed=0, key="0").id != jobs[0].id


def test_two_models_work_at_a_time(tiny_model: TinyModel, tmp_path: Path) -> None:
    files = {name: str(path) for name, path in tiny_model.engine_arguments().items()}
    other = ModelConfig.of("other", {**files, "backend": "cpu", **TINY})
    with serving(tiny_config(tiny_model, tmp_path, other, workers=2)) as server, server.client() as client:
        long = client.submit("a cat", **LONG)
        until(lambda: sampling(client, long.id))
        assert client.wait(client.submit("a cat", model="other")).state == "finished"
        waiting = client.submit("a cat")
        time.sleep(0.3)
        assert (client.get(long).state, client.get(waiting).state) == ("running", "queued")
        client.cancel(long)
        assert client.wait(waiting).state == "finished"


def test_images_that_expire_before_they_are_sent(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Any) -> bytes:
        raise FileNotFoundError("removed")

    monkeypatch.setattr(StoredImage, "read", gone)
    with server.http() as http:
        openai, webui = "/v1/images/generations", "/sdapi/v1/txt2img"
        for path in (openai, webui):
            answer = http.post(path, json={"prompt": "a cat"})
            assert (answer.status_code, "expired" in answer.text) == (410, True)
        streamed = http.post(openai, json={"prompt": "a cat", "stream": True})
        assert "event: error" in streamed.text
        assert '"code": "expired"' in streamed.text


def test_lists_of_jobs_are_short_and_progress_needs_none(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client:
        ids = [client.wait(client.submit("a cat")).id for _ in range(3)]
    with server.http() as http:
        monkeypatch.setattr(api, "_MOST_TOLD", 2)
        told = http.get("/api/jobs", params={"limit": 10_000}).json()["jobs"]
        assert [job["id"] for job in told] == [ids[2], ids[1]]
        monkeypatch.delattr(Service, "jobs")  # all of them
        assert http.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0


# What happens between two steps of the loop, with engines that only seem to generate.


class FakeEngine:
    """An engine whose images are the work of a function."""

    pid = 1

    def __init__(self, name: str, generate: Callable[[FakeEngine], Coroutine[Any, Any, None]]) -> None:
        self.name, self.closed, self._generate = name, False, generate

    async def agenerate(self, **_: Any) -> None:
        await self._generate(self)

    def close(self) -> None:
        self.closed = True


async def nothing(_: FakeEngine) -> None:
    return


@pytest.fixture
def made(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Service]:
    """Makes services of the models ``tiny`` and ``other`` with fake engines, and the list of those."""

    def make(generate: Any = nothing, engines: list[FakeEngine] | None = None, **changes: Any) -> Service:
        files = {name: str(path) for name, path in tiny_model.engine_arguments().items()}
        service = Service(tiny_config(tiny_model, tmp_path, ModelConfig.of("other", files), **changes))

        def open_engine(config: ModelConfig) -> Any:
            engine = FakeEngine(config.name, generate)
            if engines is not None:
                engines.append(engine)
            return engine

        async def checked(request: JobRequest) -> Work:
            return Work({}, 0, request.key or "")

        monkeypatch.setattr(service.models, "_open", open_engine)
        monkeypatch.setattr(service, "_checked", checked)
        monkeypatch.setattr(service, "_save", lambda *_: ([], []))
        return service

    return make


def ordered(model: str = "tiny", **more: Any) -> JobRequest:
    return JobRequest("generate", model, {}, "someone", **more)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def ends(job: Job) -> list[str]:
    return [event.name for event in job._events if event.name in ENDED]


def test_a_job_that_is_too_large_fails_once_the_other_models_have_left(made: Callable[..., Service]) -> None:
    async def generate(engine: FakeEngine) -> None:
        await asyncio.sleep(0)
        if engine.name == "tiny":
            raise OutOfMemoryError("the image is too large")

    async def work() -> None:
        engines: list[FakeEngine] = []
        service = made(generate, engines)
        await service.start()
        await (await service.submit(ordered("other"))).done()
        job = await (await service.submit(ordered(timeout=2))).done()
        assert job.error is not None
        assert (job.error.type, job.error.status, job.attempts) == ("OutOfMemoryError", 503, 2)
        assert [(engine.name, engine.closed) for engine in engines] == [("other", True), ("tiny", False)]
        await service.stop()

    run(work())


def test_a_model_does_one_job_at_a_time(made: Callable[..., Service]) -> None:
    at_work, most = 0, 0

    async def generate(_: FakeEngine) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for _ in range(10):
            await asyncio.sleep(0)
        at_work -= 1

    async def work() -> None:
        service = made(generate, workers=3)
        await service.start()
        jobs = await asyncio.gather(*(service.submit(ordered()) for _ in range(6)))
        for job in jobs:
            assert (await job.done()).state == "finished"
        await service.stop()
        assert most == 1
        assert service.models.is_free("tiny")

    run(work())


def test_an_engine_that_crashed_is_not_used_again(made: Callable[..., Service]) -> None:
    async def work() -> None:
        engines: list[FakeEngine] = []

        async def generate(engine: FakeEngine) -> None:
            if engine is engines[0]:  # such as one that crashed while it started again, and will not any more
                raise NativeCrashError("it crashed")

        service = made(generate, engines)
        await service.start()
        assert (await (await service.submit(ordered())).done()).state == "failed"
        assert (await (await service.submit(ordered())).done()).state == "finished"
        assert [engine.closed for engine in engines] == [True, False]
        await service.stop()

    run(work())


def test_images_that_are_saved_are_kept_however_often_their_job_is_cancelled(
    made: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        service = made()
        saving, saved = threading.Event(), threading.Event()

        def save(*_: Any) -> tuple[list[StoredImage], list[Any]]:
            saving.set()
            saved.wait(10)
            return [StoredImage("0-0", Path("0-0.png"), 64, 64)], []

        monkeypatch.setattr(service, "_save", save)
        monkeypatch.setattr(service.store, "write", lambda _: None)
        await service.start()
        job = await service.submit(ordered())
        await asyncio.to_thread(saving.wait, 10)
        cancels = [asyncio.ensure_future(service.cancel(job.id, "someone"))]
        await asyncio.sleep(0.05)
        cancels.append(asyncio.ensure_future(service.cancel(job.id, "someone")))
        await asyncio.sleep(0.05)
        saved.set()
        await asyncio.gather(*cancels)
        assert (job.state, len(job.images)) == ("finished", 1)
        await service.stop()

    run(work())


@pytest.mark.parametrize("reads", [True, False])
def test_a_job_that_waits_ends_though_its_follower_is_cancelled_at_once(
    made: Callable[..., Service], *, reads: bool
) -> None:
    async def work() -> None:
        service = made()
        service.store.open()
        service.ready = True  # nobody works
        job = await service.submit(ordered())
        followed = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if reads:
                await followed.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                followed.set()

        response = AttendingStream(service, job, _stream(job, 0), {})
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        await asyncio.wait_for(job.done(), 5)
        assert (job.state, ends(job), len(service.queue)) == ("cancelled", ["cancelled"], 0)
        await service.stop()

    run(work())


def test_a_job_that_is_given_back_when_the_server_stops_does_not_run(
    made: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        stopping = asyncio.Event()

        async def generate(_: FakeEngine) -> None:
            await stopping.wait()

        service = made(generate)
        await service.start()
        jobs = [await service.submit(ordered()) for _ in range(4)]
        while jobs[0].state != "running":
            await asyncio.sleep(0)

        async def write(job: Job) -> None:
            if job is jobs[1]:  # meanwhile the first one is done, and its worker looks for another
                stopping.set()
                await jobs[0].done()
                for _ in range(20):
                    await asyncio.sleep(0)

        monkeypatch.setattr(service, "_write", write)
        await service.stop()
        assert [ends(job) for job in jobs] == [["finished"], *[["failed"]] * 3]
        assert [job.attempts for job in jobs] == [1, 0, 0, 0]

    run(work())


def test_a_job_that_has_expired_is_not_written_again(made: Callable[..., Service], tmp_path: Path) -> None:
    async def work() -> None:
        service = made(store_jobs=1)
        await service.start()
        jobs = [await (await service.submit(ordered())).done() for _ in range(2)]
        while service.get(jobs[0].id, "someone"):
            await asyncio.sleep(0.01)
        await service._write(jobs[0])
        assert [path.stem for path in tmp_path.glob("*.json")] == [jobs[1].id]
        await service.stop()

    run(work())


_IMAGE = {"width": 1, "height": 1, "seed": 1, "has_record": True}
DAMAGES: list[dict[str, Any]] = [
    {"state": []},
    {"state": "lost"},
    {"ended": "5"},
    {"ended": math.inf},
    {"ended": 10**400},
    {"created": math.nan},
    {"created": True},
    {"started": "x"},
    {"parameters": None},
    {"parameters": {"prompt": "\ud800"}},
    {"loras": [{"multiplier": math.nan}]},
    {"key": ["a"]},
    {"client": []},
    {"error": {"type": "x", "message": None, "status": "x"}},
    {"images": [{"id": "../secret", **_IMAGE}]},
    {"images": [{"id": f"{99:032x}-0", **_IMAGE}]},
    {"images": None},
]


async def finished_and_kept(service: Service, store: Path) -> tuple[Job, dict[str, Any]]:
    """Run one job to its end and stop the service; the job, and what is kept of it."""
    await service.start()
    job = await (await service.submit(ordered())).done()
    await service.stop()
    return job, json.loads((store / f"{job.id}.json").read_text())


def test_damaged_jobs_are_not_told(made: Callable[..., Service], tmp_path: Path) -> None:
    async def work() -> None:
        job, kept = await finished_and_kept(made(), tmp_path)
        for number, changes in enumerate(DAMAGES):
            name = f"{number:032x}"
            (tmp_path / f"{name}.json").write_text(json.dumps({**kept, "id": name, **changes}))
        later = made()
        await later.start()
        assert [known.id for known in later.jobs("someone")] == [job.id]
        assert list(later._jobs) == [job.id]
        await later.stop()

    run(work())


def test_a_link_in_the_place_of_a_result_is_not_followed(made: Callable[..., Service], tmp_path: Path) -> None:
    async def work() -> None:
        job, kept = await finished_and_kept(made(), tmp_path)
        for number, target in enumerate(("/etc/passwd", "/nowhere")):
            name = f"{number:032x}"
            (tmp_path / f"{name}-0.png").symlink_to(target)
            images = [{"id": f"{name}-0", **_IMAGE}]
            (tmp_path / f"{name}.json").write_text(json.dumps({**kept, "id": name, "images": images}))
        (tmp_path / f"{2:032x}.json").symlink_to("/nowhere")
        later = made()
        await later.start()
        assert list(later._jobs) == [job.id]
        await later.stop()

    run(work())


def test_a_clock_that_is_set_does_not_end_a_job(made: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        engines: list[FakeEngine] = []
        now = time.time()

        async def generate(engine: FakeEngine) -> None:
            if engine is engines[0]:
                monkeypatch.setattr(time, "time", lambda: now + 1e6)
                raise NativeCrashError("it crashed")

        service = made(generate, engines)
        await service.start()
        job = await (await service.submit(ordered(retry=1, timeout=100))).done()
        assert (job.state, job.attempts) == ("finished", 2)
        await service.stop()

    run(work())


def test_the_jobs_that_have_not_ended(made: Callable[..., Service]) -> None:
    async def generate(_: FakeEngine) -> None:
        await asyncio.Event().wait()

    async def work() -> None:
        service = made(generate)
        await service.start()
        running, *waiting = [await service.submit(ordered()) for _ in range(3)]
        while running.state != "running":
            await asyncio.sleep(0)
        assert service.live_jobs("someone") == [running, *waiting]
        assert service.live_jobs("somebody else") == []
        assert service.jobs("someone", 2) == [waiting[1], waiting[0]]
        await service.stop(0)
        assert service.live_jobs("someone") == []

    run(work())


def test_a_key_is_for_a_new_job_once_its_job_was_given_up(made: Callable[..., Service]) -> None:
    async def generate(engine: FakeEngine) -> None:
        if engine.name == "other":
            await asyncio.Event().wait()

    async def work() -> None:
        service = made(generate)
        await service.start()
        done = await service.submit(ordered(key="done"))
        await done.done()
        assert await service.submit(ordered(key="done")) is done
        running = await service.submit(ordered("other", key="lost"))
        while running.state != "running":
            await asyncio.sleep(0)
        assert await service.submit(ordered("other", key="lost")) is running
        cancelling = asyncio.ensure_future(service.cancel(running.id, "someone"))
        await asyncio.sleep(0)
        again = await service.submit(ordered("other", key="lost"))  # while the first one is being cancelled
        assert again is not running
        await cancelling
        assert running.state == "cancelled"
        service._forget(running.id)
        assert await service.submit(ordered("other", key="lost")) is again
        await service.stop(0)
        assert again.error is not None
        later = made()
        await later.start()
        assert (await later.submit(ordered(key="done"))).id == done.id
        assert (await later.submit(ordered("other", key="lost"))).id != again.id
        await later.stop()

    run(work())


def test_a_job_goes_on_while_one_of_its_clients_waits(
    made: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_LOOK_AGAIN", 0.001)

    async def work() -> None:
        service = made()
        service.store.open()
        service.ready = True  # nobody works
        job = await service.submit(ordered())
        left = [asyncio.Event(), asyncio.Event()]

        def waiting(gone: asyncio.Event) -> asyncio.Future[Job]:
            async def is_disconnected() -> bool:
                return gone.is_set()

            state = SimpleNamespace(service=service)
            request = SimpleNamespace(app=SimpleNamespace(state=state), is_disconnected=is_disconnected)
            return asyncio.ensure_future(exchange.finished(cast("Request", request), job))

        first, second = map(waiting, left)
        await asyncio.sleep(0.01)
        left[0].set()
        with pytest.raises(Rejected):
            await first
        assert (job.state, second.done()) == ("queued", False)
        left[1].set()
        with pytest.raises(Rejected):
            await second
        assert ends(job) == ["cancelled"]
        await service.stop()

    run(work())


# The command, which is stopped and killed.


@contextmanager
def command(model: TinyModel, store: Path, port: int, *flags: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "sdcffi", "serve", "--port", str(port), "--store", str(store), *flags]
    for name, path in model.engine_arguments().items():
        words += [f"--{name.replace('_', '-')}", str(path)]
    with subprocess.Popen([*words, "--backend", "cpu"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if "serving" in line:
                break
        else:
            raise AssertionError("".join(lines))
        drain = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        drain.start()
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            drain.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client_of(port: int) -> Client:
    return Client(f"http://127.0.0.1:{port}", patience=10)


def test_a_server_that_is_stopped_finishes_what_runs_and_gives_back_what_waits(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    port = free_port()
    with command(tiny_model, tmp_path, port) as process, client_of(port) as client:
        running = client.submit("a cat", seed=1, key="mine", **{**TINY, "steps": 100})
        waiting = client.submit("a cat", seed=2, **TINY)
        until(lambda: sampling(client, running.id))
        process.terminate()
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503)
        assert client.wait(running).state == "finished"  # it still answers
        assert process.wait(30) == 0
    with command(tiny_model, tmp_path, port), client_of(port) as client:
        assert [job.id for job in client.jobs()] == [waiting.id, running.id]
        kept = client.get(running)
        assert kept.state == "finished"
        assert client.images(kept)[0].size == (64, 64)
        assert client.wait(running).parameters["prompt"] == "a cat"
        assert client.submit("a cat", seed=1, key="mine", **{**TINY, "steps": 100}).id == running.id
        with pytest.raises(ServerError, match="submit it again") as caught:
            client.wait(waiting)
        assert caught.value.status == 503


def test_a_server_that_is_killed_says_so_of_what_ran(tiny_model: TinyModel, tmp_path: Path) -> None:
    port = free_port()
    with command(tiny_model, tmp_path, port) as process, client_of(port) as client:
        done = client.wait(client.submit("a cat", seed=1, **TINY))
        running, waiting = (client.submit("a cat", **LONG) for _ in range(2))
        until(lambda: sampling(client, running.id))
        process.kill()
        process.wait()
    with command(tiny_model, tmp_path, port), client_of(port) as client:
        assert len(client.image_files(client.get(done))) == 1
        for job in (running, waiting):
            with pytest.raises(ServerError, match="submit it again"):
                client.wait(job)


def test_no_child_outlives_the_server(tiny_model: TinyModel, tmp_path: Path) -> None:
    port = free_port()
    with command(tiny_model, tmp_path, port) as process, client_of(port) as client:
        client.wait(client.submit("a cat", **TINY))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = [int(word) for path in children.parents[1].glob("*/children") for word in path.read_text().split()]
        if not pids:
            pytest.skip("the system does not list children")
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_the_command_logs_requests_as_json_and_refuses_what_cannot_work(tiny_model: TinyModel, tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-m", "sdcffi", "serve"]
    keys = tmp_path / "keys"
    keys.write_text("# clients\nalice a-key-of-24-characters-x  # the first\n")
    with command(tiny_model, tmp_path / "a", port, "--keys", str(keys)) as process:
        assert httpx.get(f"http://127.0.0.1:{port}/api/jobs").status_code == 401
        headers = {"Authorization": "Bearer a-key-of-24-characters-x"}
        assert httpx.get(f"http://127.0.0.1:{port}/api/jobs", headers=headers).status_code == 200
        second = subprocess.run([*words, "--demo", "--port", str(port)], capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "cannot listen on 127.0.0.1" in second.stderr
        same = [*words, "--demo", "--port", "0", "--store", str(tmp_path / "a")]
        third = subprocess.run(same, capture_output=True, text=True, timeout=60)
        assert third.returncode == 1
        assert "another server keeps its results" in third.stderr
        assert "Traceback" not in third.stderr
        process.terminate()
        process.wait(30)


def test_the_access_log_is_json(tiny_model: TinyModel, tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-m", "sdcffi", "serve", "--demo", "--port", str(port), "--store", str(tmp_path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "serving demo at http://127.0.0.1" in process.stderr.readline()
        httpx.get(f"http://127.0.0.1:{port}/healthz")
        line = json.loads(process.stderr.readline())
        process.terminate()
        rest = process.stderr.read()
    assert (line["method"], line["path"], line["status"]) == ("GET", "/healthz", 200)
    assert rest == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no model to serve: name one as MODEL"),
        (["--demo", "--host", "0.0.0.0"], "there are no keys"),
        (["/nowhere.safetensors"], "does not exist"),
        (["--demo", "--keys", "/nowhere"], "cannot be read"),
        (["--threads", "2"], "for a model on the command line"),
        (["--model", "x"], "must be NAME=PATH"),
        (["--demo", "--upscaler", "e=/nowhere.pth"], "/nowhere.pth"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, "-m", "sdcffi", "serve", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_the_extra_the_message_names_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from sdcffi.cli import main; sys.exit(main(['serve', '--demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'sdcffi[serve]'" in done.stderr
