"""A client of the server's own API."""

from __future__ import annotations

import base64
import io
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from ..engine.streams import encoded
from ..errors import CancelledError, SDError
from ..images.convert import as_rgb, to_pillow
from ..images.files import decoded
from ..params.lora import Lora

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Client", "RemoteEvent", "RemoteJob", "ServerError"]

_PAUSE = 0.5  # seconds before a request is sent again, the first time
_LONGEST_PAUSE = 30.0
_ENDED = frozenset({"finished", "failed", "cancelled"})
_AGAIN = frozenset({429, 502, 503, 504})  # statuses after which a request is sent again
_IMAGES = frozenset({"init_image", "mask_image", "control_image", "image"})
_LISTS = frozenset({"ref_images", "pm_id_images"})
_SILENCE = 60.0  # seconds without an event, four times as long as the server is silent


class ServerError(SDError):
    """The server did not do what was asked.

    Attributes
    ----------
    status : int
        HTTP status.
    type : str
        Short name of the kind of error.
    """

    def __init__(self, message: str, status: int, type: str = "error") -> None:
        super().__init__(message)
        self.status, self.type = status, type


@dataclass(frozen=True)
class RemoteJob:
    """A job on the server, as it was when the server was asked.

    Attributes
    ----------
    id, state, kind, model : str
    parameters : dict
        Those that were given, without images and LoRAs.
    created, started, ended : float or None
        Seconds since 1970.
    position : int or None
        Place in the queue, from 1.
    attempts : int
        How often it was started.
    progress : dict or None
        ``phase``, ``step``, ``steps``, and ``fraction`` of the whole job.
    images : list of dict
        ``id``, ``url``, ``width``, ``height``, ``seed``, ...
    loras : list of dict
        How each adapter was applied.
    warnings : list of str
    error : dict or None
        ``type``, ``message`` and ``status``.
    """

    id: str
    state: str
    kind: str
    model: str
    parameters: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    position: int | None
    attempts: int
    progress: dict[str, Any] | None
    images: list[dict[str, Any]]
    loras: list[dict[str, Any]]
    warnings: list[str]
    error: dict[str, Any] | None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> RemoteJob:
        """Return the job in the server's JSON; what a newer server says besides is left out."""
        return cls(**{item.name: data[item.name] for item in fields(cls)})

    @property
    def has_ended(self) -> bool:
        """Whether it is finished, failed or cancelled."""
        return self.state in _ENDED


@dataclass(frozen=True)
class RemoteEvent:
    """An event of a job.

    Attributes
    ----------
    name : str
        ``"queued"``, ``"started"``, ``"progress"``, ``"preview"``, ``"image"``, ``"finished"``, ``"failed"`` or
        ``"cancelled"``.
    data : dict
        Of the server.
    job : RemoteJob or None
        The job, for events that have it.
    preview : Image or None
        Of ``"preview"``.
    """

    name: str
    data: dict[str, Any]
    job: RemoteJob | None = None
    preview: Image.Image | None = field(default=None, repr=False)


class Client:
    """A client of ``sdcffi serve``.

    Parameters
    ----------
    url : str
        Address of the server, as ``"http://127.0.0.1:7860"``.
    key : str, optional
        API key.
    patience : float
        How long a request is sent again while the server cannot be reached or its queue is full, in seconds. A job is
        never submitted twice: each has an idempotency key.

    Examples
    --------
    ::

        with Client("http://127.0.0.1:7860") as client:
            job = client.submit("a red heart on a blue background", seed=1)
            client.images(client.wait(job))[0].save("heart.png")
    """

    def __init__(self, url: str = "http://127.0.0.1:7860", key: str | None = None, *, patience: float = 60.0) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(_SILENCE))
        self._patience = patience

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Jobs go on."""
        self._http.close()

    def submit(
        self,
        prompt: str | None = None,
        *,
        kind: str = "generate",
        model: str | None = None,
        loras: Sequence[str | tuple[str, float] | Lora] | None = None,
        timeout: float | None = None,
        retry: int = 0,
        previews: bool = False,
        key: str | None = None,
        **parameters: Any,
    ) -> RemoteJob:
        """Submit a job, and return it at once.

        Parameters
        ----------
        prompt : str, optional
            What to generate.
        kind : str
            ``"generate"``, or ``"upscale"`` with ``image=`` and perhaps ``factor=``.
        model : str, optional
            Name of a model of the server, or of an upscaling network. None: the server's default.
        loras : sequence of str, (str, float) or Lora, optional
            Adapters by their names on the server, and their strengths.
        timeout : float, optional
            Time limit for running, in seconds. None: the server's.
        retry : int
            How often to try again if the engine crashes.
        previews : bool
            Whether to make previews, for `events`.
        key : str, optional
            Idempotency key: a second job with the same key is the first one. None: a new one.
        **parameters
            Of `Engine.generate`, by name. Images are as there: Pillow images, paths, bytes or arrays.

        Raises
        ------
        ServerError
            If the server does not take it.
        """
        given = {name: _sendable(name, value) for name, value in parameters.items()}
        if prompt is not None:
            given["prompt"] = prompt
        if loras is not None:
            given["loras"] = [_lora_json(lora) for lora in loras]
        body = {"kind": kind, "model": model, "parameters": given, "retry": retry, "previews": previews}
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        answer = self._request("POST", "/api/jobs", json={**body, "timeout": timeout}, headers=headers)
        return RemoteJob.of(answer.json())

    def get(self, job: RemoteJob | str) -> RemoteJob:
        """Return a job as it is now."""
        return RemoteJob.of(self._request("GET", f"/api/jobs/{_id(job)}").json())

    def jobs(self) -> list[RemoteJob]:
        """Return this client's jobs, the newest first."""
        return [RemoteJob.of(data) for data in self._request("GET", "/api/jobs").json()["jobs"]]

    def events(self, job: RemoteJob | str) -> Iterator[RemoteEvent]:
        """Yield a job's events, those that were and those that come, until it has ended.

        If the connection is lost, it is made again, and no event comes twice.

        Raises
        ------
        ServerError
            If there is no such job, or the server cannot be reached again within `patience`.
        """
        last, until, pause = "", time.monotonic() + self._patience, _PAUSE
        while True:
            try:
                with self._http.stream(
                    "GET", f"/api/jobs/{_id(job)}/events", headers={"Last-Event-ID": last} if last else {}
                ) as answer:
                    if answer.is_error:
                        answer.read()
                        raise _error_of(answer)
                    for number, event in _events(answer.iter_lines()):
                        last, until, pause = number, time.monotonic() + self._patience, _PAUSE
                        yield event
                        if event.name in _ENDED:
                            return
                    if answer.status_code == 204:
                        return
            except httpx.TransportError as error:
                if time.monotonic() > until:
                    raise _unreachable(self._http.base_url, error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def wait(self, job: RemoteJob | str) -> RemoteJob:
        """Wait until a job has finished, and return it.

        Raises
        ------
        CancelledError
            If it was cancelled.
        ServerError
            If it failed, with the server's reason.
        """
        for event in self.events(job):
            if event.name in _ENDED and event.job is not None:
                return _finished(event.job)
        return _finished(self.get(job))

    def cancel(self, job: RemoteJob | str) -> RemoteJob:
        """Cancel a job that waits or runs, and return it; one that has ended stays as it is."""
        return RemoteJob.of(self._request("DELETE", f"/api/jobs/{_id(job)}").json())

    def image_files(self, job: RemoteJob) -> list[bytes]:
        """Return the files of a job's images, PNGs with their records inside."""
        return [self._request("GET", image["url"]).content for image in job.images]

    def images(self, job: RemoteJob) -> list[Image.Image]:
        """Return a job's images, loaded."""
        return [decoded(content, "the image") for content in self.image_files(job)]

    def models(self) -> list[str]:
        """Return the names of the server's models, the default one first."""
        answer = self._request("GET", "/api/models").json()
        names = [model["name"] for model in answer["models"]]
        return sorted(names, key=lambda name: name != answer["default"])

    def loras(self, model: str | None = None) -> list[str]:
        """Return the names of the adapters for a model."""
        params = {} if model is None else {"model": model}
        return list(self._request("GET", "/api/loras", params=params).json()["loras"])

    def _request(self, method: str, path: str, **keywords: Any) -> httpx.Response:
        """Send a request, again and again if the server cannot take it now."""
        until, pause = time.monotonic() + self._patience, _PAUSE
        while True:
            failure: httpx.TransportError | None = None
            try:
                answer = self._http.request(method, path, **keywords)
                if not answer.is_error:
                    return answer
                wait = float(answer.headers.get("retry-after", pause))
            except httpx.TransportError as error:
                failure, wait = error, pause
            if time.monotonic() + wait > until or (failure is None and answer.status_code not in _AGAIN):
                if failure is not None:
                    raise _unreachable(self._http.base_url, failure) from failure
                raise _error_of(answer)
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _id(job: RemoteJob | str) -> str:
    return job if isinstance(job, str) else job.id


def _sendable(name: str, value: Any) -> Any:
    """Return a parameter for JSON; images as base64."""
    if name in _IMAGES and value is not None and not _is_box(value):
        return _base64(name, value)
    if name in _LISTS and value is not None:
        return [_base64(name, image) for image in value]
    return value


def _is_box(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 4 and all(isinstance(side, int) for side in value)


def _base64(name: str, value: Any) -> str:
    if isinstance(value, (str, Path)) and not str(value).startswith("data:"):
        value = Path(value).expanduser().read_bytes()
    if hasattr(value, "getbands"):
        value = encoded(value, "PNG")
    if not isinstance(value, (bytes, str)):
        value = encoded(to_pillow(as_rgb(value, name)), "PNG")
    return value if isinstance(value, str) else base64.b64encode(value).decode()


def _lora_json(lora: str | tuple[str, float] | Lora) -> dict[str, Any]:
    one = lora if isinstance(lora, Lora) else Lora(lora) if isinstance(lora, str) else Lora(*lora)
    told = {"name": str(one.path), "is_high_noise": one.is_high_noise}
    others = {"strength": one.multiplier, "weights": one.weights}
    return told | {name: value for name, value in others.items() if value is not None}


def _events(lines: Iterator[str]) -> Iterator[tuple[str, RemoteEvent]]:
    """Read server-sent events."""
    parts: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            parts[name] = value.removeprefix(" ")
        elif "event" in parts:
            yield parts.get("id", ""), _event(parts["event"], json.loads(parts["data"]))
            parts = {}


def _event(name: str, data: dict[str, Any]) -> RemoteEvent:
    if name == "preview":
        from PIL import Image

        image = Image.open(io.BytesIO(base64.b64decode(data["image"].partition(",")[2])), formats=["JPEG"])
        return RemoteEvent(name, data, preview=image)
    return RemoteEvent(name, data, RemoteJob.of(data) if "state" in data else None)


def _finished(job: RemoteJob) -> RemoteJob:
    if job.state == "cancelled":
        raise CancelledError("the job was cancelled")
    if job.error is not None:
        raise ServerError(job.error["message"], job.error["status"], job.error["type"])
    return job


def _error_of(answer: httpx.Response) -> ServerError:
    try:
        error = answer.json()["error"]
        return ServerError(error["message"], answer.status_code, error["type"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"the server answered with status {answer.status_code}", answer.status_code)


def _unreachable(url: httpx.URL, error: httpx.TransportError) -> ServerError:
    reason = str(error) or type(error).__name__
    return ServerError(f"the server at {url} cannot be reached: {reason}; start it, or check the address", 503)
