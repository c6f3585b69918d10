"""The application: who may ask, limits, the access log, health and metrics, and the APIs below it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from .._version import __version__
from . import api
from .config import ServeConfig
from .exchange import error_response
from .jobs import Rejected
from .service import Service

__all__ = ["app"]

_PAGE = Path(__file__).with_name("page")


def app(config: ServeConfig) -> FastAPI:
    """Return the server as an ASGI application, for uvicorn or another ASGI server, in one process.

    Parameters
    ----------
    config : ServeConfig
    """
    service = Service(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    application = FastAPI(
        title="sdcffi",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    application.state.service = service
    application.add_middleware(_Guard, config=config)

    @application.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> Response:
        return error_response(error)

    @application.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @application.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        return JSONResponse({"status": "ready" if service.ready else "not ready"}, 200 if service.ready else 503)

    application.include_router(api.router)
    for name in ("openai", "webui"):
        if find_spec(f"{__package__}.{name}"):
            application.include_router(import_module(f"{__package__}.{name}").router)
    if _PAGE.is_dir():

        @application.get("/", include_in_schema=False)
        async def page() -> Response:
            return FileResponse(_PAGE / "index.html")

        application.mount("/page", StaticFiles(directory=_PAGE))
    return application


class _Guard:
    """Lets in who may, and says who it is: ``scope["sdcffi.client"]``."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app, self._config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["sdcffi.client"] = scope["client"][0] if scope.get("client") else ""
        await self._app(scope, receive, send)
