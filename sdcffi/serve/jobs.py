"""Jobs: what a client asked for and what became of it, and the queue in which clients have their turns."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .store import StoredImage

__all__ = ["ENDED", "Job", "JobError", "JobEvent", "JobProgress", "JobRequest", "Queue", "Rejected", "State", "Work"]

State = Literal["queued", "running", "finished", "failed", "cancelled"]
ENDED = frozenset({"finished", "failed", "cancelled"})


class Rejected(Exception):
    """A request that the server does not take.

    Parameters
    ----------
    status : int
        HTTP status.
    type : str
        Short name of the kind of error, for programs.
    message : str
        What is wrong, then what to do.
    param : str, optional
        The parameter that is wrong.
    retry_after : float, optional
        Seconds after which it is worth trying again.
    """

    def __init__(
        self, status: int, type: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.message, self.param, self.retry_after = status, type, message, param, retry_after


@dataclass(frozen=True)
class JobRequest:
    """What a client asks for.

    Parameters
    ----------
    kind : str
        ``"generate"`` or ``"upscale"``.
    model : str
        Name of a model of the server; empty is its default. For ``"upscale"`` that of an upscaling network.
    parameters : mapping
        For ``"generate"`` names and values as in a parameter file: keywords of `Engine.generate`, and other parameters
        by their names, such as ``cache_mode`` or ``hires_scale``. Images are Pillow images, arrays or bytes of files;
        LoRAs are `Lora` with names within the server's directory. For ``"upscale"`` the ``image``, and a ``factor``.
    client : str
        Who asks: the name of its key, or its address.
    timeout : float, optional
        Time limit for running, in seconds. None: the server's.
    retry : int
        How often to try again if the engine crashes.
    key : str, optional
        Idempotency key: a request of the same client with the same key is the same job.
    previews : bool
        Whether to make previews.
    """

    kind: Literal["generate", "upscale"]
    model: str
    parameters: Mapping[str, Any]
    client: str
    timeout: float | None = None
    retry: int = 0
    key: str | None = None
    previews: bool = False


@dataclass(frozen=True)
class JobProgress:
    """How far a job is: the engine's phase, and `fraction` of the whole job from 0 to 1."""

    phase: str
    step: int
    steps: int
    fraction: float
    image: int = 0
    images: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "phase": self.phase,
            "step": self.step,
            "steps": self.steps,
            "fraction": round(self.fraction, 4),
            "image": self.image,
            "images": self.images,
        }


@dataclass(frozen=True)
class JobError:
    """Why a job failed: the error's type, a message without paths of the server, and the HTTP status."""

    type: str
    message: str
    status: int = 500

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class JobEvent:
    """One event of a job.

    Attributes
    ----------
    id : int
        Number of the event, from 1.
    name : str
        ``"queued"``, ``"started"``, ``"progress"``, ``"preview"``, ``"image"``, ``"finished"``, ``"failed"`` or
        ``"cancelled"``.
    data : mapping
        Plain data; of a preview, ``image`` is the bytes of a JPEG.
    """

    id: int
    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What is to be done for a job, as it was checked.

    Attributes
    ----------
    keywords : mapping
        Of `Engine.generate`, or of `Upscaler.upscale`.
    size : int
        Size of its input images, in bytes.
    digest : str
        Tells it from other work; empty without an idempotency key.
    """

    keywords: Mapping[str, Any]
    size: int
    digest: str = ""


@dataclass(eq=False)
class Job:
    """A job. All of it belongs to the event loop.

    Attributes
    ----------
    id : str
        Its name, which cannot be guessed.
    request : JobRequest
    state : str
    created, started, ended : float or None
        Seconds since 1970.
    progress : JobProgress or None
    images : list of StoredImage
        The results, once it is finished.
    loras : list of dict
        A report on each adapter.
    warnings : list of str
    error : JobError or None
        Why it failed.
    attempts : int
        How often it was started.
    digest : str
        Tells its work from other work; empty without an idempotency key.
    work : Work or None
        What is to be done; None once it has ended.
    queue : Queue or None
        The queue in which it waits.
    waiters : int
        How many requests wait for it that cancel it when their client leaves.
    is_leaving : bool
        Whether it has been asked to end.
    """

    request: JobRequest
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "queued"
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    progress: JobProgress | None = None
    images: list[StoredImage] = field(default_factory=list)
    loras: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: JobError | None = None
    attempts: int = 0
    digest: str = ""
    work: Work | None = field(default=None, repr=False)
    queue: Queue | None = field(default=None, repr=False)
    waiters: int = 0
    is_leaving: bool = False
    _events: list[JobEvent] = field(default_factory=list, repr=False)
    _last: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def position(self) -> int | None:
        """Its place in the queue, from 1. None: it does not wait."""
        return self.queue.position(self) if self.queue is not None and self.state == "queued" else None

    @property
    def last_event(self) -> int:
        """Number of its last event."""
        return self._last

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, and what is kept of it is written."""
        return bool(self._events) and self._events[-1].name in ENDED

    def add_event(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell those who follow the job. Of progress and previews only the last one is kept."""
        if name in ("progress", "preview"):
            self._events = [event for event in self._events if event.name != name]
        elif name in ENDED or name == "queued":
            self._events = [event for event in self._events if event.name not in ("progress", "preview")]
        self._last += 1
        self._events.append(JobEvent(self._last, name, data or {}))
        self._changed.set()
        self._changed = asyncio.Event()

    def last(self, name: str) -> JobEvent | None:
        """Return the last event of a name that is kept; of a job that has ended no previews are."""
        return next((event for event in reversed(self._events) if event.name == name), None)

    async def events(self, after: int = 0) -> AsyncIterator[JobEvent]:
        """Yield the events that were, then those that come, until the job has ended.

        Parameters
        ----------
        after : int
            Number of the last event that is already known.
        """
        after = after if after <= self._last else 0  # a number from before the server was started again
        while True:
            for event in [event for event in self._events if event.id > after]:
                yield event
                after = event.id
            if self.has_ended and after >= self._last:
                return
            if after >= self._last:
                await self._changed.wait()

    async def done(self) -> Job:
        """Wait until the job has ended, and return it."""
        while not self.has_ended:
            await self._changed.wait()
        return self


class Queue:
    """Jobs that wait. Clients have turns: each turn takes the oldest job of the client that has waited longest.

    Parameters
    ----------
    most : int
        Number of jobs that may wait.
    most_per_client : int
        Number of jobs of one client that may wait.
    most_bytes : int
        Size of their input images.
    """

    def __init__(self, most: int, most_per_client: int, most_bytes: int) -> None:
        self._most, self._most_per_client, self._most_bytes = most, most_per_client, most_bytes
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def why_full(self, client: str, size: int) -> str | None:
        """Return why no job of a client, with input images of this size, can be added; None if one can be."""
        if self._count >= self._most:
            return f"{self._count} jobs wait already, which is the most that this server takes"
        if len(self._clients.get(client, ())) >= self._most_per_client:
            return f"{self._most_per_client} of your jobs wait already, which is the most that this server takes"
        if self._bytes and self._bytes + size > self._most_bytes:
            return "the input images of the jobs that wait are as large as this server takes"
        return None

    def add(self, job: Job) -> None:
        """Add a job at the end of its client's."""
        self._clients.setdefault(job.request.client, deque()).append(job)
        self._count += 1
        self._bytes += job.work.size if job.work else 0
        job.queue = self

    def remove(self, job: Job) -> bool:
        """Remove a job; return whether it waited."""
        waiting = self._clients.get(job.request.client)
        if waiting is None or job not in waiting:
            return False
        waiting.remove(job)
        if not waiting:
            del self._clients[job.request.client]
        self._count -= 1
        self._bytes -= job.work.size if job.work else 0
        job.queue = None
        return True

    def take(self, usable: Callable[[Job], bool]) -> Job | None:
        """Remove and return the next job that can run now; its client is then the last to have a turn."""
        for client, waiting in self._clients.items():
            job = next((job for job in waiting if usable(job)), None)
            if job is not None:
                self.remove(job)
                if client in self._clients:
                    self._clients.move_to_end(client)
                return job
        return None

    def position(self, job: Job) -> int | None:
        """Return the place of a job, from 1; None if it does not wait."""
        mine = self._clients.get(job.request.client)
        if mine is None or job not in mine:
            return None
        index, before, place = mine.index(job), True, 0
        for client, waiting in self._clients.items():
            if client == job.request.client:
                before = False
            else:
                place += min(len(waiting), index + before)
        return place + index + 1

    def jobs(self, client: str | None = None) -> list[Job]:
        """Return the jobs that wait, of all clients or of one; the oldest of each first."""
        if client is not None:
            return list(self._clients.get(client, ()))
        return [job for waiting in self._clients.values() for job in waiting]
