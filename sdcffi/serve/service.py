"""The service: takes jobs, runs them on the models, and keeps what comes of them. The APIs are thin layers over it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from .._checks.image import check_image
from .._checks.inputs import requested_size
from .._numbers import check_integer, check_number
from .._quoting import shown
from .._warnings import collecting
from ..engine.capabilities import Capabilities
from ..engine.results import Result
from ..engine.streams import encoded
from ..engine.upscaler import UpscaleResult
from ..errors import (
    GenerationTimeoutError,
    LoraError,
    NativeCrashError,
    NativeError,
    OutOfMemoryError,
    OutputError,
    SDError,
)
from ..events import Preview, Progress
from ..images.convert import as_rgb, to_pillow
from ..images.files import pixel_count
from ..parameter_files import Arguments, as_arguments
from ..params.image import ImageParams
from ..params.lora import Lora
from ..params.names import parameters
from ..params.other_names import with_engine_names
from .config import ServeConfig
from .jobs import ENDED, Job, JobError, JobProgress, JobRequest, Queue, Rejected, State, Work
from .messages import without_paths
from .metrics import Metrics
from .models import Facts, Models
from .schemas import KeptJob
from .store import Store, StoredImage, is_regular, remove

__all__ = ["Service"]

_LOGGER = logging.getLogger("sdcffi.serve")
_ADAPTERS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_STOPPED = JobError("Stopped", "the server was stopped before the job was done: submit it again", 503)
_NOT_WRITTEN = "the server cannot write results: tell its operator"
_EXPIRY_SECONDS = 30.0  # between two looks for results that are too old
_ALL_INPUTS = 64  # bytes of all input images of a job, for each pixel that a generated image may have
_ENLARGED = 16  # times the pixels of a generated image that an upscaled one may have
_LIVE_SECONDS = 0.05  # between two reports of progress within a phase
_SAMPLING = 0.95  # of a job; the rest is decoding
_LONGEST_SHOWN = 10_000  # characters of a parameter that is told again
# What is kept of a job.
_OF_REQUEST = ("kind", "model", "parameters", "client", "key", "retry", "timeout")
_OF_JOB = ("id", "state", "created", "started", "ended", "loras", "warnings", "attempts", "digest")
_OF_IMAGE = ("id", "width", "height", "seed", "has_record")

_PATHS = {item.name: item.path for item in parameters(ImageParams)}


class Service:
    """Runs jobs. It belongs to one event loop, which it never blocks.

    Parameters
    ----------
    config : ServeConfig
    models : Models, optional
        Models that are elsewhere. None: those of the configuration, in child processes.

    Attributes
    ----------
    config : ServeConfig
    models : Models
    queue : Queue
    store : Store
    metrics : Metrics
    ready : bool
        Whether it takes jobs.

    Raises
    ------
    ValueError
        If a model's files are missing, or are not those of a model.
    """

    def __init__(self, config: ServeConfig, models: Models | None = None) -> None:
        self.config = config
        self.models = models or Models(config.models, config.lora_dir, config.memory)
        self.store = Store(config.directory, config.store_jobs, config.store_bytes, config.store_seconds)
        self.queue = Queue(config.queue, config.queue_per_client, config.queue_bytes)
        self.metrics = Metrics()
        self.ready = False
        self._roots = [self.store.directory, *self.models.folders()]
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._seconds = 5.0  # that a job takes, on average

    async def start(self) -> None:
        """Read what is kept, load the pinned models, and begin to work; the second time, do nothing.

        Raises
        ------
        SDError, OSError
            If another server has the directory of the results, if it cannot be written to, or if a pinned model cannot
            be loaded.
        """
        if self._tasks:
            return
        try:
            for data in await asyncio.to_thread(self.store.open):
                await self._restore(data)
            await self._expire()
            await self.models.load_pinned()
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.config.workers)]
        self._tasks.append(asyncio.create_task(self._expire_regularly()))
        self.ready = True

    async def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, give back those that wait, finish those that run, and unload the models.

        Parameters
        ----------
        grace : float, optional
            Time that running jobs have to finish, in seconds; then they are given back too. None: the configuration's.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self.config.grace if grace is None else grace))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float) -> None:
        self.ready = False
        waiting = [job for job in self.queue.jobs() if self.queue.remove(job)]  # at once, before a worker takes one
        await asyncio.gather(*(self._end(job, "failed", _STOPPED) for job in waiting))
        if self._running:
            await asyncio.wait(self._running.values(), timeout=grace)
        for job_id, task in self._running.items():
            if (job := self._jobs.get(job_id)) and job.state == "running":
                task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())
        for worker in self._tasks:
            worker.cancel()
        await asyncio.gather(*self._tasks, *self._telling, return_exceptions=True)
        await self.models.close()
        await asyncio.to_thread(self.store.close)

    # What clients ask for.

    async def submit(self, request: JobRequest) -> Job:
        """Take a job; one of the same client with the same idempotency key is returned as it is.

        One that was cancelled, or that was not done when the server stopped, is replaced by a new one.

        Raises
        ------
        Rejected
            If a parameter is wrong (400), there is no such model (404), the key was used for another request (422), the
            queue is full (429), the server is about to stop (503), or results cannot be written (507).
        """
        request = replace(request, model=request.model or (self.models.default if request.kind == "generate" else ""))
        self._check_request(request)
        work = await self._checked(request)
        if not self.ready:
            raise Rejected(503, "stopping", "the server is about to stop: try again later", retry_after=5)
        if request.key is not None and (known := self._jobs.get(self._by_key.get((request.client, request.key), ""))):
            if known.digest != work.digest:
                raise Rejected(
                    422, "key_reused", "this Idempotency-Key was used for another request: use another one for this one"
                )
            if not _is_given_up(known):
                return known
        if why := self.queue.why_full(request.client, work.size):
            raise Rejected(429, "queue_full", f"{why}: try again later", retry_after=self._until_room())
        job = Job(replace(request, parameters=_tellable(request.parameters)), work=work, digest=work.digest)
        self._remember(job)
        job.add_event("queued")
        self.queue.add(job)
        self._wake.set()
        try:
            await self._write(job)
        except OSError as error:
            _LOGGER.error("a job cannot be written: %s", error)
            if self.queue.remove(job):
                self._forget(job.id)
                raise Rejected(507, "no_space", _NOT_WRITTEN) from error
        return job

    def get(self, id: str, client: str) -> Job | None:
        """Return a job of this client; None if there is none, or it has expired."""
        job = self._jobs.get(id)
        return job if job is not None and job.request.client == client else None

    def jobs(self, client: str, most: int | None = None) -> list[Job]:
        """Return the jobs of this client, the newest first; not more than `most`."""
        return list(islice((job for job in reversed(self._jobs.values()) if job.request.client == client), most))

    def live_jobs(self, client: str) -> list[Job]:
        """Return the jobs of this client that have not ended: those that run, then those that wait, the oldest first.

        It looks at no other jobs, since programs ask for it several times a second.
        """
        running = [job for job_id in self._running if (job := self.get(job_id, client)) and job.state not in ENDED]
        return [*running, *self.queue.jobs(client)]

    def image(self, id: str, client: str | None) -> StoredImage | None:
        """Return an image of this client; of any client for None, which is for who has its `signature`."""
        job = self._jobs.get(id.partition("-")[0])
        if job is None or client not in (None, job.request.client):
            return None
        return next((image for image in job.images if image.id == id), None)

    def signature(self, image_id: str) -> str:
        """Return the signature with which an image is given to who has no key, for as long as it is kept."""
        return hmac.new(self.store.secret, image_id.encode(), "sha256").hexdigest()

    async def cancel(self, id: str, client: str) -> bool:
        """Cancel a job that waits or runs, and wait until it has ended; return whether there was one."""
        job = self.get(id, client)
        if job is None or job.state in ENDED:
            return False
        job.is_leaving = True
        if self.queue.remove(job):
            await self._end(job, "cancelled")
        elif task := self._running.get(id):
            task.cancel()
        await job.done()
        return True

    def loras(self, model: str = "") -> list[str]:
        """Return the names of the adapters for a model. It reads their directory: call it on a thread."""
        root = self.models.lora_dir(model or self.models.default)
        if root is None:
            return []
        found: set[str] = set()
        for place, _, files in os.walk(root):
            names = [Path(place, name) for name in files if name.lower().endswith(_ADAPTERS)]
            found.update(path.relative_to(root).with_suffix("").as_posix() for path in names)
        return sorted(name for name in found if not name.lower().endswith(_ADAPTERS))  # that would be a path

    def measured(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        metrics = self.metrics
        metrics.waiting.set(len(self.queue))
        metrics.running.set(len(self._running))
        metrics.store_bytes.set(self.store.size)
        loaded = self.models.pids()
        for name in (*self.models.names(), *self.models.upscalers()):
            metrics.loaded.labels(name).set(name in loaded)
        return metrics.text()

    def upscalers(self) -> list[str]:
        """Return the names of the upscaling networks."""
        return self.models.upscalers()

    async def facts(self, model: str = "") -> Facts:
        """Return what is known of a model, without loading its weights.

        Raises
        ------
        Rejected
            If there is no such model (404), or it cannot be used (500).
        """
        name = model or self.models.default
        self._check_model("generate", name)
        try:
            return await self.models.facts(name)
        except (SDError, ValueError, OSError) as error:
            _LOGGER.error("model %s cannot be used: %s", name, error)
            raise Rejected(500, "model_error", f"model {shown(name)} cannot be used: {self._told(error)}") from error

    async def capabilities(self, model: str = "") -> Capabilities:
        """Return what a model can do. Raises as `facts` does."""
        return (await self.facts(model)).capabilities

    async def samplers(self, model: str = "") -> list[str]:
        """Return the names of the samplers for a model. Raises as `facts` does."""
        return list((await self.capabilities(model)).samplers)

    async def schedulers(self, model: str = "") -> list[str]:
        """Return the names of the schedulers for a model. Raises as `facts` does."""
        return list((await self.capabilities(model)).schedulers)

    # How it is checked.

    def _check_model(self, kind: str, name: str) -> None:
        if kind not in ("generate", "upscale"):
            raise Rejected(400, "invalid_request", f"kind must be generate or upscale, not {shown(kind)}", param="kind")
        legal = self.models.names() if kind == "generate" else self.models.upscalers()
        if name not in legal:
            has = f"the server has {', '.join(legal)}" if legal else "the server has none"
            message = f"there is no model {shown(name)} for {kind}: {has}"
            raise Rejected(404, "unknown_model", message, param="model")

    def _check_request(self, request: JobRequest) -> None:
        self._check_model(request.kind, request.model)
        param = "timeout"
        try:
            check_number("timeout", request.timeout, 0.001)
            param = "retry"
            check_integer("retry", request.retry, 0, self.config.most_retries)
        except (TypeError, ValueError) as error:
            raise Rejected(400, "invalid_request", str(error), param=param) from error
        if request.key is not None and not 0 < len(request.key) <= 200:
            raise Rejected(400, "invalid_request", "Idempotency-Key must have 1 to 200 characters")

    async def _checked(self, request: JobRequest) -> Work:
        facts = await self.facts(request.model) if request.kind == "generate" else None
        try:
            return await asyncio.to_thread(self._work_of, request, facts)
        except (TypeError, ValueError, OverflowError, RecursionError, LoraError) as error:
            raise Rejected(400, "invalid_request", self._told(error)) from error

    def _work_of(self, request: JobRequest, facts: Facts | None) -> Work:
        if facts is None:
            keywords = dict(request.parameters)
            if keywords.keys() - {"image", "factor"} or "image" not in keywords:
                raise ValueError("to upscale takes image, and factor if it is not the network's own")
            check_number("factor", keywords.get("factor"), 1)
            _refuse_path("image", keywords["image"])
            self._check_upscaling(keywords["image"], keywords.get("factor") or self.models.factor(request.model))
            size = _size(keywords["image"])
        else:
            if "sdcffi" in request.parameters:
                raise ValueError("parameters must be names and values, not a record: send its file to /api/read")
            given = as_arguments(request.parameters, "parameters")
            if given.context_values or given.engine_others:
                raise ValueError("what a model is loaded with is set by the server: leave it out")
            self._refuse_files(given, request.model)
            whole = self.models.config(request.model).arguments.updated(self._with_network(given))
            self._check_call(whole, facts)
            keywords = whole.generate
            size = sum(map(_size, given.call_values.values()))
        digest = b"" if request.key is None else pickle.dumps((request.kind, request.model, request.parameters))
        return Work(keywords, size, hashlib.sha256(digest).hexdigest() if digest else "")

    def _refuse_files(self, given: Arguments, model: str) -> None:
        """Refuse what would be a file of the server, and adapters that are not in its directory."""
        for item in parameters(ImageParams):
            value = given.call_values.get(item.path)
            if value is None:
                continue
            if item.annotation == "StrPath" and (item.name != "hires_model" or value not in self.models.upscalers()):
                raise ValueError(f"{item.name} is a file of the server, which clients cannot name: leave it out")
            if item.annotation in ("Pixels", "MaskPixels"):
                for one in value if item.many else (value,):
                    _refuse_path(item.name, one)
            if item.annotation == "Lora" and value:
                names = self.loras(model)
                for one in value:
                    name = one.path if isinstance(one, Lora) else one[0] if isinstance(one, tuple) else one
                    if name not in names:
                        listed = f"the server has {', '.join(names[:20])}" if names else "the server has none"
                        raise ValueError(f"there is no LoRA {shown(name)}: {listed}")

    def _with_network(self, given: Arguments) -> Arguments:
        """Put the file of a second pass's upscaling network in place of its name."""
        path = _PATHS["hires_model"]
        name = given.call_values.get(path)
        if name is None:
            return given
        network = self.models.config(name).arguments.engine_others["model"]
        return replace(given, call_values={**given.call_values, path: network})

    def _check_upscaling(self, image: Any, factor: float) -> None:
        height, width = as_rgb(image, "image", "ignore").shape[:2]
        most = _ENLARGED * self.config.most_pixels
        if width * height * factor**2 > most:
            raise ValueError(
                f"image has {width}x{height} pixels, and {factor:g} times as wide and high it would have more than"
                f" {most:,}: send a smaller one, or a smaller factor"
            )

    def _check_call(self, whole: Arguments, facts: Facts) -> None:
        """Check a call as the engine does before it generates, and against this server's limits."""
        keywords = whole.generate
        if not isinstance(keywords["prompt"], str):
            raise ValueError("there is no prompt: say what to generate")
        self._check_inputs(whole)
        options = {name: keywords[name] for name in ("resize", "alpha") if name in keywords}
        named = with_engine_names(keywords["params"], facts.names)
        with collecting():  # the call itself warns again
            filled, _ = facts.recommended.fill(named)
            params = facts.defaults.updated(check_image(filled, facts.files, facts.defaults, **options))
        for word, field in (("sampler", "sample_method"), ("scheduler", "scheduler")):
            value, legal = getattr(named.sample_params, field, None), facts.names.get(f"{field}_t")
            if value is not None and legal and value not in legal:
                raise ValueError(f"{word} must be one of {', '.join(legal)}, not {shown(value)}")
        width, height = requested_size(params)
        hires = params.hires
        if hires is not None and hires.enabled:
            width = max(width, hires.target_width or int(width * (hires.scale or 1)))
            height = max(height, hires.target_height or int(height * (hires.scale or 1)))
        sample = params.sample_params
        steps = [sample and sample.sample_steps, hires and hires.steps]
        if sample is not None and sample.custom_sigmas is not None:  # which are used, whatever the number of steps is
            steps.append(len(sample.custom_sigmas) - 1)
        for name, value, most in (
            ("width x height", width * height, self.config.most_pixels),
            ("steps", max(count or 0 for count in steps), self.config.most_steps),
            ("batch_count", params.batch_count or 1, self.config.most_images),
        ):
            if value > most:
                raise ValueError(f"{name} must be at most {most:,} on this server, not {value:,}")

    def _check_inputs(self, whole: Arguments) -> None:
        """Check the size of all input images before they are decoded together."""
        size = sum(map(_size, whole.call_values.values()))
        most = _ALL_INPUTS * self.config.most_pixels
        if size > most:
            raise ValueError(
                f"the pixels of all input images take {size:,} bytes, and {most:,} are the most on this server: send"
                " fewer images, or smaller ones"
            )

    # How it runs.

    async def _work(self) -> None:
        while True:
            job = self.queue.take(lambda job: self.models.is_free(job.request.model))
            if job is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            with self.models.reserved(job.request.model):  # before another worker takes a job for it
                task = self._running[job.id] = asyncio.create_task(self._run(job))
                await asyncio.wait({task})
            del self._running[job.id]
            if job.state not in ENDED:  # it was cancelled before it began
                await self._end(job, "cancelled")
            self._wake.set()  # another worker may wait for this model

    async def _run(self, job: Job) -> None:
        job.state, job.started = "running", time.time()
        self.metrics.wait_seconds.observe(job.started - job.created)
        job.add_event("started")
        try:
            with collecting() as job.warnings:
                await self._attempts(job)
        except asyncio.CancelledError:
            await (self._end(job, "failed", _STOPPED) if self._stopping else self._end(job, "cancelled"))
        except Exception as error:
            await self._end(job, "failed", self._error_of(error))
        else:
            await self._end(job, "finished")

    async def _attempts(self, job: Job) -> None:
        crashes = 0
        limit = min(job.request.timeout or math.inf, self.config.timeout)
        end = time.monotonic() + limit
        while True:
            job.attempts += 1
            try:
                return await self._attempt(job, limit, end)
            except OutOfMemoryError:
                if not await self.models.make_room(keep=job.request.model):
                    raise
            except (NativeCrashError, NativeError) as error:
                self.metrics.crashes.labels(job.request.model).inc()
                await self.models.unload(job.request.model)  # one that crashes while it starts again refuses all jobs
                crashes += 1
                if crashes > job.request.retry:
                    raise
                _LOGGER.warning("job %s is tried again after a crash: %s", job.id, error)

    async def _attempt(self, job: Job, limit: float, end: float) -> None:
        assert job.work is not None
        keywords = {**job.work.keywords, "on_progress": self._on_progress(job)}
        if job.request.kind == "generate" and job.request.previews:
            keywords["on_preview"] = self._on_preview(job)
        try:
            async with self.models.use(job.request.model, max(0.001, end - time.monotonic())) as engine:
                call = engine.aupscale if job.request.kind == "upscale" else engine.agenerate
                result = await call(**keywords, timeout=max(0.001, end - time.monotonic()))
        except (asyncio.TimeoutError, GenerationTimeoutError) as error:
            raise GenerationTimeoutError(f"the job took longer than {limit:g} seconds, which is its limit") from error
        saving = asyncio.ensure_future(asyncio.to_thread(self._save, job, result))
        while not saving.done():
            with suppress(asyncio.CancelledError):  # too late, however often: the images are there
                await asyncio.wait({saving})
        job.images, job.loras = saving.result()

    def _save(self, job: Job, result: Result | UpscaleResult) -> tuple[list[StoredImage], list[dict[str, Any]]]:
        if isinstance(result, UpscaleResult):
            image_id = f"{job.id}-0"
            height, width = result.array.shape[:2]
            return [StoredImage(image_id, result.save(self.store.image(image_id)), width, height, has_record=False)], []
        ids = [f"{job.id}-{index}" for index in range(len(result.arrays))]
        images = []
        try:
            for index, (image_id, array) in enumerate(zip(ids, result.arrays, strict=True)):
                path = result.save_one(index, self.store.image(image_id))
                height, width = array.shape[:2]
                images.append(StoredImage(image_id, path, width, height, result.seeds[index]))
        except BaseException:
            remove(map(self.store.image, ids))
            raise
        return images, [{**asdict(report), "path": Path(report.path).stem} for report in result.loras]

    def _on_progress(self, job: Job) -> Callable[[Progress], None]:
        """Return a function for the engine, on whose thread it runs; not each of thousands of events is passed on."""
        loop, last = asyncio.get_running_loop(), (0.0, "")

        def tell(event: Progress) -> None:
            nonlocal last
            now = time.monotonic()
            if event.phase != last[1] or event.step == event.steps or now - last[0] >= _LIVE_SECONDS:
                last = now, event.phase
                loop.call_soon_threadsafe(self._progressed, job, event)

        return tell

    @staticmethod
    def _progressed(job: Job, event: Progress) -> None:
        if job.state != "running":
            return
        before = job.progress.fraction if job.progress else 0.0
        part = event.step / event.steps
        done = {
            "sample": _SAMPLING * (max(event.image, 1) - 1 + part) / max(event.images, 1),
            "decode": _SAMPLING + (1 - _SAMPLING) * (max(event.image, 1) - 1 + part) / max(event.images, 1),
            "upscale": part,
        }.get(event.phase, 0.0)
        job.progress = JobProgress(event.phase, event.step, event.steps, max(before, done), event.image, event.images)
        job.add_event("progress", job.progress.as_dict())

    def _on_preview(self, job: Job) -> Callable[[Preview], None]:
        loop = asyncio.get_running_loop()

        def tell(event: Preview) -> None:
            image = encoded(to_pillow(event.frames[0]), "JPEG")  # on the engine's thread
            data = {"step": event.step, "index": event.image - 1, "image": image}
            loop.call_soon_threadsafe(self._previewed, job, data)

        return tell

    @staticmethod
    def _previewed(job: Job, data: Mapping[str, Any]) -> None:
        if job.state == "running":
            job.add_event("preview", data)

    def _end(self, job: Job, state: State, error: JobError | None = None) -> asyncio.Future[None]:
        """End a job; what is returned is done once those who follow it have been told, whether it is awaited or not."""
        job.state, job.error, job.ended, job.work = state, error, time.time(), None
        job.warnings = list(map(self._told, job.warnings))
        kind, model = job.request.kind, job.request.model
        self.metrics.jobs.labels(kind, model, state).inc()
        if state == "finished" and job.started is not None:
            self._seconds += 0.2 * (job.ended - job.started - self._seconds)
            self.metrics.job_seconds.labels(kind, model).observe(job.ended - job.started)
            self.metrics.images.labels(model).inc(len(job.images))
        telling = asyncio.create_task(self._tell(job, state))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return asyncio.shield(telling)

    async def _tell(self, job: Job, state: State) -> None:
        """Write what came of a job, then tell those who follow it."""
        try:
            await self._write(job)
        except Exception as failure:  # the job is told all the same; after a restart it is not known
            _LOGGER.error("job %s cannot be written", job.id, exc_info=failure)
        for image in job.images:
            job.add_event("image", {"id": image.id})
        job.add_event(state)
        await self._expire()

    def _error_of(self, error: Exception) -> JobError:
        """Return what the client is told; the log has the rest."""
        name, message = type(error).__name__, self._told(error)
        if isinstance(error, GenerationTimeoutError):
            return JobError(name, message, 504)
        if isinstance(error, OutOfMemoryError):
            return JobError(name, message, 503)
        if isinstance(error, (NativeCrashError, NativeError)):
            _LOGGER.error("%s: %s\n%s", name, error, "\n".join(error.log))
            return JobError(name, message, 500)
        if isinstance(error, LoraError) or (
            isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError)
        ):
            return JobError(name, message, 400)
        if isinstance(error, SDError):
            _LOGGER.error("%s: %s\n%s", name, error, "\n".join(error.log))
            if isinstance(error, OutputError):
                return JobError(name, _NOT_WRITTEN, 507)
            return JobError(name, message, 500)
        _LOGGER.error("a job failed", exc_info=error)
        return JobError("InternalError", "the server failed: its log says why", 500)

    def _told(self, error: object) -> str:
        return without_paths(str(error), self._roots)

    def _until_room(self) -> float:
        return max(1.0, self._seconds / self.config.workers)

    # What is kept.

    async def _write(self, job: Job) -> None:
        async with self._writing:  # what is written last is the last state
            if self._jobs.get(job.id) is not job:  # it has expired: its files are gone
                return
            await asyncio.to_thread(self.store.write, _kept(job))

    async def _expire(self) -> None:
        async with self._writing:
            removed = await asyncio.to_thread(self.store.expire)
        for job_id in removed:
            self._forget(job_id)

    async def _expire_regularly(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_SECONDS)
            await self._expire()

    def _remember(self, job: Job) -> None:
        self._jobs[job.id] = job
        if job.request.key is not None:
            self._by_key[job.request.client, job.request.key] = job.id

    def _forget(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None and job.request.key is not None:
            known = job.request.client, job.request.key
            if self._by_key.get(known) == job_id:  # not if another one took its place
                del self._by_key[known]

    async def _restore(self, data: dict[str, Any]) -> None:
        with suppress(KeyError, TypeError, ValueError, ArithmeticError):
            job = self._restored(data)
            self._remember(job)
            if job.state not in ENDED:
                await self._end(job, "failed", _STOPPED)
            else:
                job.add_event(job.state)

    def _restored(self, data: dict[str, Any]) -> Job:
        KeptJob.model_validate(data)
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()  # as it will be told
        request = JobRequest(**{name: data[name] for name in _OF_REQUEST})
        images = [StoredImage(path=self.store.image(image["id"]), **image) for image in data["images"]]
        if not all(image.id.startswith(data["id"]) and is_regular(image.path) for image in images):
            raise ValueError("an image is missing")
        error = JobError(**data["error"]) if data["error"] else None
        return Job(request, images=images, error=error, **{name: data[name] for name in _OF_JOB})


def _is_given_up(job: Job) -> bool:
    """Return whether a job is or was cancelled, or the server stopped before it was done."""
    if job.state not in ENDED:
        return job.is_leaving
    return job.state == "cancelled" or (job.error is not None and job.error.type == _STOPPED.type)


def _kept(job: Job) -> dict[str, Any]:
    """Return what is kept of a job, for JSON: not its input images."""
    return {
        **{name: getattr(job.request, name) for name in _OF_REQUEST},
        **{name: getattr(job, name) for name in _OF_JOB},
        "error": job.error and job.error.as_dict(),
        "images": [{name: getattr(image, name) for name in _OF_IMAGE} for image in job.images],
    }


def _tellable(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are told again and kept: numbers, switches and texts."""
    return {
        name: value
        for name, value in given.items()
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_SHOWN)
    }


def _refuse_path(name: str, value: Any) -> None:
    if isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name} must be the data of an image, not a path or an address")


def _size(value: Any) -> int:
    """Return the size of an input image, or of several, in bytes: as pixels, which it becomes, or as a larger file."""
    if isinstance(value, (list, tuple)):
        return sum(map(_size, value))
    if isinstance(value, bytes):
        return max(len(value), 3 * pixel_count(value, "an input image"))
    width, height = getattr(value, "size", (0, 0)) if hasattr(value, "getbands") else (0, 0)
    return int(getattr(value, "nbytes", 4 * width * height))
