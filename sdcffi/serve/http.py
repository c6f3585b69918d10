"""The application: who may ask, limits, the access log, health and metrics, and the APIs below it."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from .._quoting import shown
from .._version import __version__
from . import api, openai, webui
from .access import COOKIE, Access, is_open
from .config import ServeConfig
from .exchange import CLIENT, error_response, json_body, service_of
from .jobs import Rejected
from .models import Models
from .service import Service

__all__ = ["app"]

_PAGE = Path(__file__).with_name("page")
_LOGGER = logging.getLogger("sdcffi.serve")
_ACCESS = logging.getLogger("sdcffi.access")
_OPEN_BYTES = 4096  # of a body that is sent to a path which needs no key
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})  # that are counted by their names
_BODY_SECONDS = 120.0  # in which a client must have sent the body of its request
_COOKIE_SECONDS = 30 * 24 * 3600
_LEFT = 499  # status in the log, of a client that left before it was answered
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def app(config: ServeConfig, models: Models | None = None) -> FastAPI:
    """Return the server as an ASGI application, for uvicorn or another ASGI server, in one process.

    Parameters
    ----------
    config : ServeConfig
    models : Models, optional
        Models that are elsewhere, see `sdcffi.ray.serve`. None: those of the configuration, in child processes.

    Returns
    -------
    FastAPI
        Its ``state.service`` is the `Service`.

    Raises
    ------
    ValueError
        If a model's files are missing, or are not those of a model.
    """
    service = Service(config, models)
    access = Access(config, service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    application = FastAPI(
        title="sdcffi",
        version=__version__,
        description="Images with stable-diffusion.cpp.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    application.state.service = service
    application.add_middleware(_Guard, access=access, service=service)
    if config.cors:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Retry-After"],
        )
    application.add_exception_handler(Rejected, _rejected)
    application.add_exception_handler(RequestValidationError, _invalid)
    application.add_exception_handler(HTTPException, _refused)
    application.include_router(api.router)
    application.include_router(openai.router)
    application.include_router(webui.router)
    _add_operation(application, service, access)
    _add_page(application)
    return application


async def _rejected(request: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    service_of(request).metrics.rejected.labels(error.type).inc()
    return error_response(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"][1:]))
    return error_response(Rejected(400, "invalid_request", f"{name}: {first['msg']}", param=name))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind, message = {
        404: (
            "not_found",
            f"there is nothing at {shown(request.scope['path'])}: see /api/docs; OpenAI's API is at /v1",
        ),
        405: ("method_not_allowed", "this address does not take this method: see /api/docs"),
    }.get(error.status_code, ("error", str(error.detail)))
    response = error_response(Rejected(error.status_code, kind, message))
    response.headers.update(error.headers or {})
    return response


def _add_operation(application: FastAPI, service: Service, access: Access) -> None:
    @application.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @application.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        return JSONResponse({"status": "ready" if service.ready else "not ready"}, 200 if service.ready else 503)

    @application.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return PlainTextResponse(service.measured(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @application.post("/api/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        """Set a cookie for a key, for pages: images and events cannot send a header."""
        key = (await json_body(request)).get("key")
        if not isinstance(key, str) or access.key_name(key) is None:
            raise Rejected(401, "unauthorized", "this is no key of this server", param="key")
        response = JSONResponse({"client": access.key_name(key)})
        secure = request.scope["scheme"] == "https"
        response.set_cookie(
            COOKIE, access.cookie(key), max_age=30 * 86400, httponly=True, samesite="strict", secure=secure
        )
        return response

    @application.post("/api/logout", include_in_schema=False)
    async def logout() -> Response:
        response = JSONResponse({})
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def _add_page(application: FastAPI) -> None:
    if not _PAGE.is_dir():
        return

    @application.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)

    application.mount("/page", StaticFiles(directory=_PAGE))


class _Guard:
    """Lets in who may, limits what a request may have, and writes the log of what was answered."""

    def __init__(self, app: ASGIApp, access: Access, service: Service) -> None:
        self._app, self._access, self._service = app, access, service
        config = service.config
        self._bodies = _Bodies(max(config.request_bytes, config.queue_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":  # of which there are none: it is refused with 403
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        connection = HTTPConnection(scope)
        most = self._service.config.request_bytes
        body = _Body(receive, min(most, _OPEN_BYTES) if is_open(connection) else most, self._bodies)
        started = time.perf_counter()
        try:
            try:
                scope[CLIENT] = self._access.client(connection)
                scope["sdcffi.signed"] = self._access.is_signed(connection)
                body.check(connection.headers.get("content-length"))
                await self._app(scope, body, answer)
            except ClientDisconnect:  # nobody is there to be answered
                pass
            except Exception as error:  # also of the body, wherever it is read
                if answer.status is not None:
                    raise
                rejected = error if isinstance(error, Rejected) else _failed(error)
                self._service.metrics.rejected.labels(rejected.type).inc()
                await error_response(rejected)(scope, receive, answer)
        finally:
            body.leave()
            self._log(scope, answer, time.perf_counter() - started)

    def _log(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        status = answer.status or _LEFT
        route = getattr(scope.get("route"), "path", "")
        metrics = self._service.metrics
        method = scope["method"] if scope["method"] in _METHODS else "other"  # a client may send any word
        metrics.requests.labels(method, route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if _ACCESS.isEnabledFor(logging.INFO):
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "client": scope.get(CLIENT),
                "address": scope["client"][0] if scope.get("client") else None,
                "method": scope["method"],
                "path": scope["path"],  # without the query, which may have a signature
                "status": status,
                "seconds": round(seconds, 4),
                "bytes": answer.size,
            }
            _ACCESS.info("%s", json.dumps(line))


def _failed(error: Exception) -> Rejected:
    """Return the answer for an error that nobody expected; the log has the rest."""
    _LOGGER.error("a request failed", exc_info=error)
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return Rejected(507, "no_space", "the server has no space left: tell its operator")
    if number in _SHORT:
        return Rejected(503, "busy", "the server has no more memory or files to open: try again later", retry_after=5)
    return Rejected(500, "internal_error", "the server failed: its log says why")


class _Answer:
    """Passes on what is answered, and knows its status and size."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.size = 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)


class _Bodies:
    """How many bytes the bodies of all requests have that are not yet answered."""

    def __init__(self, most: int) -> None:
        self.size, self._most = 0, most

    def check(self, more: int) -> None:
        """Refuse what there is no room for."""
        if self.size + more > self._most:
            raise Rejected(
                503, "busy", "the server has as many requests as fit into memory: try again later", retry_after=1
            )


class _Body:
    """Passes on the body of a request, up to a size and a time."""

    def __init__(self, receive: Receive, most: int, bodies: _Bodies) -> None:
        self._receive, self._most, self._size, self._whole = receive, most, 0, False
        self._bodies = bodies
        self._end = time.monotonic() + _BODY_SECONDS

    def check(self, length: str | None) -> None:
        """Refuse what is too large, before it is sent."""
        if length is not None and length.isdecimal():
            if len(length) > 20 or int(length) > self._most:  # Python reads no number of thousands of digits
                raise self._too_large()
            self._bodies.check(int(length))

    def leave(self) -> None:
        """Free the room of the body: its request is answered."""
        self._bodies.size -= self._size

    def _too_large(self) -> Rejected:
        return Rejected(413, "too_large", f"this request may have at most {self._most:,} bytes: send less")

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._whole:  # it now says when the client leaves
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, self._end - time.monotonic()))
        except asyncio.TimeoutError:
            raise Rejected(408, "timeout", f"the request was not sent within {_BODY_SECONDS:g} seconds") from None
        if message["type"] == "http.request":
            more = len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size + more > self._most:
                raise self._too_large()
            self._bodies.check(more)
            self._size += more
            self._bodies.size += more
        return message
