"""What the APIs share: who asks, JSON and images in, errors out, and waiting for a job whose client may leave."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .._quoting import shortened, shown
from ..images.files import decoded
from ..images.pixels import check_sides
from .jobs import Job, Rejected
from .messages import without_paths

if TYPE_CHECKING:
    from .service import Service
    from .store import StoredImage

__all__ = [
    "CLIENT",
    "MOST_INPUT",
    "MOST_LISTED",
    "AttendingStream",
    "attending",
    "check_finished",
    "client_of",
    "content_of",
    "error_response",
    "finished",
    "image_bytes",
    "json_body",
    "reading",
    "service_of",
    "signed_path",
]

CLIENT = "sdcffi.client"  # in the scope of a request: who asks
_LARGE = 1 << 16  # bytes of JSON that are read on a thread
_MOST_VALUES = 100_000  # of JSON
_LOOK_AGAIN = 0.25  # seconds between two looks whether a client has left
MOST_INPUT = 4  # times the pixels that a result may have, in an input image
MOST_LISTED = 16  # input images of a list

_T = TypeVar("_T")


def service_of(request: Request) -> Service:
    """Return the service that the application runs."""
    service: Service = request.app.state.service
    return service


def client_of(request: Request) -> str:
    """Return who asks: the name of the key, or the address."""
    return str(request.scope[CLIENT])


def error_response(error: Rejected) -> Response:
    """Return the answer for a request that is not taken: ``{"error": {"type", "message", "param"}}``."""
    body = {"error": {"type": error.type, "message": error.message, "param": error.param}}
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, error.status, headers)


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises
    ------
    Rejected
        If it is none.
    """
    body = await request.body()
    try:
        data = await asyncio.to_thread(_read_json, body) if len(body) > _LARGE else _read_json(body)
    except (ValueError, RecursionError) as error:
        raise Rejected(400, "invalid_json", f"the body is not valid JSON: {shortened(error)}") from error
    if not isinstance(data, dict):
        raise Rejected(400, "invalid_json", f"the body must be a JSON object, not {shown(data)}")
    return data


def _read_json(body: bytes) -> Any:
    """Read JSON of which each value can be written as JSON again: no NaN or infinity, and no half of a character.

    JSON of too many values is refused unread: it would hold up the loop, and take twenty times the memory of its text.
    """
    text = body.decode(json.detect_encoding(body))
    if sum(map(text.count, ",[{")) > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES:,} values: send images as base64, not as numbers")
    data = json.loads(text, parse_constant=_finite, parse_float=_finite)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = shown(error.object[error.start : error.end])
            raise ValueError(f"a text has {half}, which is half of a character") from error
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is not a number that it can have")
    return number


async def reading(work: Callable[[], _T], status: int = 400) -> _T:
    """Return what comes of a client's images, on a thread.

    Parameters
    ----------
    work : callable
    status : int
        HTTP status if something is wrong with them.

    Raises
    ------
    Rejected
        If the work raises that a value is wrong.
    """
    try:
        return await asyncio.to_thread(work)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Rejected(status, "invalid_image", without_paths(str(error))) from error


async def image_bytes(value: Any, name: str, service: Service) -> bytes:
    """Return the file of an image that a client sent: its bytes, base64 or a data URL; never a path or an address.

    Parameters
    ----------
    value : Any
    name : str
        Name of the parameter, for messages.
    service : Service

    Raises
    ------
    Rejected
        If it is no image, or a larger one than the server takes.
    """
    try:
        return await asyncio.to_thread(_image_bytes, value, name, MOST_INPUT * service.config.most_pixels)
    except ValueError as error:
        raise Rejected(400, "invalid_image", str(error), param=name) from error


def _image_bytes(value: Any, name: str, most_pixels: int) -> bytes:
    if isinstance(value, str):
        data = value.partition(",")[2] if value[:5].lower() == "data:" else value
        try:
            value = base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            value = b""
    if not isinstance(value, bytes) or not value:
        raise ValueError(f"{name} must be the data of an image, as base64 or a data: URL, not a path or an address")
    check_sides(name, *decoded(value, name, most_pixels).size)
    return value


async def finished(request: Request, job: Job) -> Job:
    """Wait until a job has ended; if its client leaves before, cancel it, unless another request waits for it.

    Raises
    ------
    Rejected
        If the job failed or was cancelled, with the status of its error.
    """
    async with attending(service_of(request), job):
        done = asyncio.ensure_future(job.done())
        try:
            while not done.done():
                await asyncio.wait({done}, timeout=_LOOK_AGAIN)
                if not done.done() and await request.is_disconnected():
                    break
        finally:
            done.cancel()
    check_finished(job)
    return job


def check_finished(job: Job) -> None:
    """Raise `Rejected` if a job has not finished, with the status of its error."""
    if job.error is not None:
        raise Rejected(job.error.status, job.error.type, job.error.message)
    if job.state != "finished":
        raise Rejected(499, "cancelled", "the job was cancelled, or its client left")


@asynccontextmanager
async def attending(service: Service, job: Job) -> AsyncIterator[None]:
    """Cancel a job that has not ended when the block is left, unless another request attends it: it was sent again."""
    job.waiters += 1
    try:
        yield
    finally:
        job.waiters -= 1
        if not job.waiters:
            await service.cancel(job.id, job.request.client)


class AttendingStream(StreamingResponse):
    """Events of a job, which is cancelled if its client leaves: also one that left before the first event."""

    def __init__(self, service: Service, job: Job, events: AsyncIterator[str], headers: dict[str, str]) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._service, self._job = service, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with attending(self._service, self._job):
            await super().__call__(scope, receive, send)


def content_of(image: StoredImage) -> bytes:
    """Return the file of an image of a job that has just ended. It blocks: call it on a thread.

    Raises
    ------
    Rejected
        If it has expired meanwhile (410).
    """
    try:
        return image.read()
    except OSError as error:
        message = "the image has expired before it was sent: submit it again; the server keeps too few results"
        raise Rejected(410, "expired", message) from error


def signed_path(request: Request, image_id: str) -> str:
    """Return the path of an image with a signature, which is given without a key for as long as the image is kept."""
    return f"/api/images/{image_id}?signature={service_of(request).signature(image_id)}"
