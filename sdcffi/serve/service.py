"""The service: takes jobs, runs them on the models, and keeps what comes of them. The APIs are thin layers over it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .._files import expanded
from .._quoting import shown
from ..engine.capabilities import Capabilities
from ..engine.streams import encoded
from ..errors import GenerationTimeoutError, LoraError, NativeCrashError, OutOfMemoryError, SDError
from ..events import Preview, Progress
from ..images.convert import to_pillow
from ..parameter_files import Arguments, as_arguments
from ..params.image import ImageParams
from ..params.lora import Lora
from ..params.names import parameters
from .config import ServeConfig
from .jobs import ENDED, Job, JobError, JobProgress, JobRequest, Queue, Rejected
from .models import Models
from .store import Store, StoredImage

__all__ = ["Service"]

_LOGGER = logging.getLogger("sdcffi.serve")
_ADAPTERS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_RUN_AGAIN = "the server was stopped before the job was done: submit it again"


class Service:
    """Runs jobs. It belongs to one event loop, which it never blocks.

    Parameters
    ----------
    config : ServeConfig
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.models = Models(config.models, None if config.lora_dir is None else str(config.lora_dir), config.memory)
        self.store = Store(config.directory, config.store_bytes, config.store_seconds)
        self.queue = Queue(config.queue, config.queue_per_client)
        self.ready = False
        self._secret = secrets.token_bytes(32)
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = asyncio.Lock()
        self._seconds = 5.0  # of a job, on average

    async def start(self) -> None:
        """Read what is kept, load the pinned models, and begin to work."""
        for data in await asyncio.to_thread(lambda: list(self.store.read())):
            self._restore(data)
        await self.models.load_pinned()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.config.workers)]
        self.ready = True

    async def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, give back those that wait, and finish those that end within `grace` seconds."""
        self._stopping, self.ready = True, False
        for job in list(self.queue.jobs()):
            self.queue.remove(job)
            await self._end(job, JobError("Stopped", _RUN_AGAIN, 503))
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self.config.grace if grace is None else grace)
        for task in list(self._running.values()):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())
        for worker in self._tasks:
            worker.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.models.close()

    # What clients ask for.

    async def submit(self, request: JobRequest) -> Job:
        """Take a job.

        Raises
        ------
        Rejected
            If a parameter is wrong (400), there is no such model (404), the queue is full (429), or the server is
            about to stop (503).
        """
        request = replace(request, model=request.model or self.models.default)
        arguments = await asyncio.to_thread(self._checked, request)
        if self._stopping:
            raise Rejected(503, "stopping", "the server is about to stop: try again", retry_after=5)
        if request.key is not None and (known := self._by_key.get((request.client, request.key))):
            return self._jobs[known]
        if why := self.queue.why_full(request.client):
            raise Rejected(429, "queue_full", f"{why}: try again later", retry_after=self._wait())
        job = Job(request)
        job.arguments = arguments
        self._jobs[job.id] = job
        if request.key is not None:
            self._by_key[request.client, request.key] = job.id
        job.add_event("queued")
        self.queue.add(job)
        self._wake.set()
        await self._write(job)
        return job

    def get(self, id: str, client: str) -> Job | None:
        """Return a job of this client."""
        job = self._jobs.get(id)
        return job if job is not None and job.request.client == client else None

    def jobs(self, client: str) -> list[Job]:
        """Return the jobs of this client, the newest first."""
        return [job for job in reversed(self._jobs.values()) if job.request.client == client]

    def image(self, id: str, client: str) -> StoredImage | None:
        """Return an image of this client."""
        job = self.get(id.partition("-")[0], client)
        return next((image for image in job.images if image.id == id), None) if job else None

    def signature(self, image_id: str) -> str:
        """Return the signature with which an image is served to who has no key."""
        return hmac.new(self._secret, image_id.encode(), "sha256").hexdigest()

    async def cancel(self, id: str, client: str) -> bool:
        """Cancel a job that waits or runs; return whether there was one."""
        job = self.get(id, client)
        if job is None or job.state in ENDED:
            return False
        if self.queue.remove(job):
            await self._end(job, None, "cancelled")
        elif task := self._running.get(id):
            task.cancel()
            await job.done()
        return True

    def loras(self, model: str = "") -> list[str]:
        """Return the names of the adapters for a model. It blocks for as long as the directory is read."""
        folder = self.models.lora_dir(model or self.models.default)
        if folder is None:
            return []
        root = expanded(folder)
        found = set()
        for place, _, files in os.walk(root):
            found |= {
                (Path(place) / name).relative_to(root).with_suffix("").as_posix()
                for name in files
                if name.lower().endswith(_ADAPTERS)
            }
        return sorted(found)

    async def capabilities(self, model: str = "") -> Capabilities:
        """Return what a model can do, which loads it if need be."""
        return await self.models.capabilities(model or self.models.default)

    async def samplers(self, model: str = "") -> list[str]:
        """Return the names of the samplers for a model."""
        return list((await self.capabilities(model)).samplers)

    async def schedulers(self, model: str = "") -> list[str]:
        """Return the names of the schedulers for a model."""
        return list((await self.capabilities(model)).schedulers)

    def upscalers(self) -> list[str]:
        """Return the names of the upscaling networks."""
        return self.models.upscalers()

    # How they are checked.

    def _checked(self, request: JobRequest) -> Arguments | dict[str, Any]:
        legal = self.models.names() if request.kind == "generate" else self.models.upscalers()
        if request.model not in legal:
            names = f"the server has {', '.join(legal)}" if legal else "the server has none"
            raise Rejected(
                404,
                "unknown_model",
                f"there is no model {shown(request.model)} to {request.kind} with; {names}",
                param="model",
            )
        timeout = request.timeout
        if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
            raise Rejected(400, "invalid_request", "timeout must be a number of seconds above 0", param="timeout")
        if not isinstance(request.retry, int) or not 0 <= request.retry <= self.config.most_retries:
            raise Rejected(400, "invalid_request", f"retry must be from 0 to {self.config.most_retries}", param="retry")
        if request.kind == "upscale":
            unknown = request.parameters.keys() - {"image", "factor"}
            if unknown or "image" not in request.parameters:
                raise Rejected(
                    400, "invalid_request", "upscaling takes image, and factor if it is not the network's own"
                )
            _refuse_path("image", request.parameters["image"])
            return dict(request.parameters)
        try:
            given = as_arguments(request.parameters, "parameters")
            if given.context_values or given.engine_others:
                raise ValueError("parameters of the model are set by the server: leave them out")
            merged = self.models.config(request.model).arguments.updated(given)
            if not isinstance(merged.generate["prompt"], str):
                raise ValueError("there is no prompt: give one")
            return self._refused(replace(merged), given, request.model)
        except (ValueError, TypeError) as error:
            raise Rejected(400, "invalid_request", self.public_message(error)) from error

    def _refused(self, merged: Arguments, given: Arguments, model: str) -> Arguments:
        for item in parameters(ImageParams):
            value = given.call_values.get(item.path)
            if value is None:
                continue
            if item.name == "hires_model" and value in self.models.upscalers():
                merged.call_values[item.path] = self.models.config(value).arguments.engine_others["model"]
            elif item.annotation == "StrPath":
                raise ValueError(f"{item.name} is a file of the server, which clients cannot name: leave it out")
            if item.annotation in ("Pixels", "MaskPixels"):
                for one in value if item.many else [value]:
                    _refuse_path(item.name, one)
            if item.annotation == "Lora" and value:
                names = self.loras(model)
                for lora in value:
                    name = lora.path if isinstance(lora, Lora) else lora[0] if isinstance(lora, tuple) else lora
                    if name not in names:
                        raise ValueError(f"there is no LoRA {shown(name)}; the server lists those that it has")
        params = merged.generate["params"]
        width, height = params.width or 512, params.height or 512
        steps = params.sample_params.sample_steps if params.sample_params else None
        limits = {
            "width x height": (width * height, self.config.most_pixels),
            "steps": (steps or 0, self.config.most_steps),
            "batch_count": (params.batch_count or 1, self.config.most_images),
        }
        for name, (value, most) in limits.items():
            if value > most:
                raise ValueError(f"{name} must be at most {most} on this server, not {value}")
        return merged

    def public_message(self, error: BaseException) -> str:
        """Return an error's message without paths of the server."""
        return _without_paths(str(error))

    # How they run.

    async def _work(self) -> None:
        while True:
            job = self.queue.take(lambda job: self.models.is_free(job.request.model))
            if job is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            task = asyncio.create_task(self._run(job))
            self._running[job.id] = task
            await asyncio.wait({task})
            del self._running[job.id]
            self._wake.set()  # for another worker: the model is free again

    async def _run(self, job: Job) -> None:
        job.state, job.started = "running", time.time()
        job.add_event("started")
        try:
            await self._attempts(job)
        except asyncio.CancelledError:
            await self._end(job, JobError("Stopped", _RUN_AGAIN, 503) if self._stopping else None, "cancelled")
        except Exception as error:
            await self._end(job, self._error_of(error))
        else:
            await self._end(job, None)
        self._seconds += 0.2 * (time.time() - job.started - self._seconds)

    async def _attempts(self, job: Job) -> None:
        while True:
            job.attempts += 1
            try:
                return await self._attempt(job)
            except NativeCrashError:
                if job.attempts > job.request.retry:
                    raise

    async def _attempt(self, job: Job) -> None:
        limit = min(job.request.timeout or math.inf, self.config.timeout)
        end = time.monotonic() + limit
        async with self.models.use(job.request.model) as engine:
            left = max(0.01, end - time.monotonic())
            if job.request.kind == "upscale":
                result = await engine.aupscale(**job.arguments, timeout=left, on_progress=self._progress(job))
            else:
                keywords = {**job.arguments.generate, "timeout": left, "on_progress": self._progress(job)}
                if job.request.previews:
                    keywords["on_preview"] = self._preview(job)
                result = await engine.agenerate(**keywords)
        await asyncio.to_thread(self._save, job, result)

    def _save(self, job: Job, result: Any) -> None:
        folder = self.store.folder(job.id)
        if job.request.kind == "upscale":
            path = result.save(folder / "0.png")
            height, width = result.array.shape[:2]
            job.images = [StoredImage(f"{job.id}-0", "image/png", width, height, None, None, path)]
            return
        images = []
        for index, array in enumerate(result.arrays):
            path = result.save_one(index, folder / f"{index}.png")
            record = result.record(index).to_dict()
            images.append(
                StoredImage(
                    f"{job.id}-{index}", "image/png", array.shape[1], array.shape[0], result.seeds[index], record, path
                )
            )
        job.images = images
        job.loras = [{**asdict(report), "path": Path(report.path).stem} for report in result.loras]

    def _progress(self, job: Job) -> Any:
        loop = asyncio.get_running_loop()

        def tell(event: Progress) -> None:
            part = event.step / event.steps
            done = (max(event.image, 1) - 1 + part) / max(event.images, 1)
            fraction = {"load": 0.0, "lora": 0.0, "encode": 0.0, "sample": 0.95 * done, "upscale": part}.get(
                event.phase, 0.95
            )
            progress = JobProgress(event.phase, event.step, event.steps, fraction, event.image, event.images)
            loop.call_soon_threadsafe(self._set_progress, job, progress)

        return tell

    @staticmethod
    def _set_progress(job: Job, progress: JobProgress) -> None:
        if job.state == "running":
            job.progress = progress
            job.add_event("progress", progress.as_dict())

    def _preview(self, job: Job) -> Any:
        loop = asyncio.get_running_loop()

        def tell(event: Preview) -> None:
            data = encoded(to_pillow(event.frames[0]), "JPEG")
            loop.call_soon_threadsafe(
                self._set_preview, job, {"step": event.step, "index": event.image - 1, "image": data}
            )

        return tell

    @staticmethod
    def _set_preview(job: Job, data: Mapping[str, Any]) -> None:
        if job.state == "running":
            job.add_event("preview", data)

    async def _end(self, job: Job, error: JobError | None, state: Any = None) -> None:
        job.error, job.ended = error, time.time()
        job.state = state if error is None and state else "finished" if error is None else "failed"
        if job.state == "finished":
            for image in job.images:
                job.add_event("image", {"id": image.id})
        job.arguments = None
        await self._write(job)
        job.add_event(job.state)

    def _error_of(self, error: Exception) -> JobError:
        message = self.public_message(error)
        if isinstance(error, GenerationTimeoutError):
            return JobError("GenerationTimeoutError", message, 504)
        if isinstance(error, OutOfMemoryError):
            return JobError("OutOfMemoryError", message, 503)
        if isinstance(error, (ValueError, TypeError, LoraError)):
            return JobError(type(error).__name__, message, 400)
        if isinstance(error, SDError):
            _LOGGER.error("a job failed: %s\n%s", error, "\n".join(error.log))
            return JobError(type(error).__name__, message, 500)
        _LOGGER.exception("a job failed", exc_info=error)
        return JobError("InternalError", "the server failed; its log says why", 500)

    def _wait(self) -> float:
        return max(1.0, math.ceil(self._seconds / self.config.workers))

    # What is kept.

    async def _write(self, job: Job) -> None:
        async with self._writing:
            data = _as_data(job)
            await asyncio.to_thread(self.store.write, job.id, data)

    def _restore(self, data: dict[str, Any]) -> None:
        with suppress(KeyError, TypeError, ValueError):
            job = _of_data(data, self.store.directory)
            self._jobs[job.id] = job
            if job.request.key is not None:
                self._by_key[job.request.client, job.request.key] = job.id


def _as_data(job: Job) -> dict[str, Any]:
    """Return what is kept of a job, for JSON: not its parameters, which may have images; a result's record has them."""
    return {
        "id": job.id,
        "kind": job.request.kind,
        "model": job.request.model,
        "client": job.request.client,
        "key": job.request.key,
        **{name: getattr(job, name) for name in ("state", "created", "started", "ended", "loras", "warnings")},
        "error": job.error and job.error.as_dict(),
        "images": [
            {
                **{name: getattr(image, name) for name in ("id", "media_type", "width", "height", "seed", "record")},
                "file": image.path.name,
            }
            for image in job.images
        ],
    }


def _of_data(data: dict[str, Any], directory: Path) -> Job:
    request = JobRequest(data["kind"], data["model"], {}, data["client"], key=data["key"])
    names = ("id", "state", "created", "started", "ended", "loras", "warnings")
    job = Job(request, **{name: data[name] for name in names})
    job.images = [
        StoredImage(
            **{name: value for name, value in image.items() if name != "file"},
            path=directory / job.id / Path(image["file"]).name,
        )
        for image in data["images"]
    ]
    job.error = JobError(**data["error"]) if data["error"] else None
    if job.state not in ENDED:
        job.state, job.ended, job.error = "failed", time.time(), JobError("Stopped", _RUN_AGAIN, 503)
    job.add_event("queued")
    job.add_event(job.state)
    return job


def _refuse_path(name: str, value: Any) -> None:
    if isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name} must be the data of an image, not a path or an address")


def _without_paths(message: str) -> str:
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"]+[/\\])+([^\s/\\:;,'\"]*)", r"\1", message)
